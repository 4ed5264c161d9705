// Attention of heads of 96 channels.
#include "attention_launch.cuh"

template struct chorale::attention::Launch<96>;
