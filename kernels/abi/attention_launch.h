// Launches of the attention kernels, one translation unit per head size.
#pragma once

#include "attention_prefill.cuh"
#include "attention_rows.cuh"

namespace chorale::attention {

// Blocks of the rows kernel: as many as a processor holds at once.
constexpr int kRowsBlocks = 2;

template <int D> struct Launch {
	static cudaError_t rows(const RowsArgs &a, int blocks, cudaStream_t stream);
	static cudaError_t prefill(const PrefillArgs &a, int tiles, bool hopper, cudaStream_t stream);
};

} // namespace chorale::attention
