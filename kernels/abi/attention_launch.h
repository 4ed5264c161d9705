// Launches of the attention kernels, one translation unit per head size.
#pragma once

#include "attention_prefill.cuh"
#include "attention_rows.cuh"

namespace chorale::attention {

// Blocks of the rows kernel: as many as a processor holds at once.
constexpr int kRowsBlocks = 2;

template <int D> struct Launch {
	// early: the kernel may be brought up while the one before it ends (sm_90).
	static cudaError_t rows(const RowsArgs &a, int blocks, bool early, cudaStream_t stream);
	// hopper_blocks: processors of an sm_90, or 0.
	static cudaError_t prefill(const PrefillArgs &a, int hopper_blocks, cudaStream_t stream);
};

} // namespace chorale::attention
