// Attention of heads of 256 channels.
#include "attention_launch.cuh"

template struct chorale::attention::Launch<256>;
