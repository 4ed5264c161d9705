// Attention of heads of 64 channels.
#include "attention_launch.cuh"

template struct chorale::attention::Launch<64>;
