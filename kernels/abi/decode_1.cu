// Products of at most 8 decode rows.
#include "decode_kernels.cuh"

template struct chorale::decode::Kernels<1>;
