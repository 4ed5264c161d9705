// Launches of the product of decode rows, one translation unit per number of
// tiles of 8 batch rows.
#pragma once

#include "decode_launch.cuh"

namespace chorale::decode {

template <int tiles> struct Kernels {
	using S = Shape<tiles, 4, 64>;
	static cudaError_t launch(const DecodeArgs &args, const Cut &cut, bool wide, bool early, cudaStream_t stream);
	// resident is how many blocks the device holds at once. max_terms 0: without
	// adapters.
	static int64_t resident(const Cut &cut, bool wide, int32_t max_terms, int32_t processors);
};

} // namespace chorale::decode
