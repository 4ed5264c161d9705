// Products of at most 32 decode rows.
#include "decode_kernels.cuh"

template struct chorale::decode::Kernels<4>;
