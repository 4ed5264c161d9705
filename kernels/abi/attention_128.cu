// Attention of heads of 128 channels.
#include "attention_launch.cuh"

template struct chorale::attention::Launch<128>;
