// Stands in for CUDA's header when kernels are compiled for the CPU.
#pragma once
#include "on_cpu.h"
