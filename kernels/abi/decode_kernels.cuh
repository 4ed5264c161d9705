// The definition of Kernels; each decode_<tiles>.cu instantiates one.
#pragma once

#include "decode_kernels.h"

namespace chorale::decode {

template <int tiles> cudaError_t Kernels<tiles>::launch(const DecodeArgs &args, const Cut &cut, bool wide, bool early, cudaStream_t stream) {
	return wide ? launch_product<S, float>(args, cut, early, stream) : launch_product<S, bf16>(args, cut, early, stream);
}

template <int tiles> int64_t Kernels<tiles>::resident(const Cut &cut, bool wide, int32_t max_terms, int32_t processors) {
	return wide ? resident_blocks<S, float>(cut, max_terms, processors) : resident_blocks<S, bf16>(cut, max_terms, processors);
}

} // namespace chorale::decode
