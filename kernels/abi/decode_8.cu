// Products of at most 64 decode rows.
#include "decode_kernels.cuh"

template struct chorale::decode::Kernels<8>;
