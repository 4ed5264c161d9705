// Package device knows GPUs as their driver does: names, memory, load, heat,
// and what has gone wrong with them. It asks NVML, the management library that
// comes with NVIDIA's driver and is looked for at run time; a machine without
// one has no GPUs, which is no failure. It computes nothing: that is
// worker/tensor/cuda.
package device
