// The definition of Launch; each attention_<head size>.cu instantiates one.
#pragma once

#include <algorithm>

#include "attention_hopper.cuh"
#include "attention_launch.h"

namespace chorale::attention {

struct Config {
	int blocks, threads, shared;
	bool early;
};

template <class Kernel, class Args> cudaError_t launch(Kernel kernel, const Args &args, const Config &c, cudaStream_t stream) {
	if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, c.shared); e != cudaSuccess) {
		return e;
	}
	cudaLaunchAttribute early = {};
	early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	early.val.programmaticStreamSerializationAllowed = 1;
	cudaLaunchConfig_t config = {};
	config.gridDim = dim3(c.blocks);
	config.blockDim = dim3(c.threads);
	config.dynamicSmemBytes = c.shared;
	config.stream = stream;
	config.attrs = &early;
	config.numAttrs = c.early ? 1 : 0;
	return cudaLaunchKernelEx(&config, kernel, args);
}

template <int D> cudaError_t Launch<D>::rows(const RowsArgs &a, int blocks, bool early, cudaStream_t stream) {
	return launch(rows_kernel<D>, a, {blocks, RowsShape<D>::kThreads, RowsShape<D>::kSharedBytes, early}, stream);
}

template <int D> cudaError_t Launch<D>::prefill(const PrefillArgs &a, int hopper_blocks, cudaStream_t stream) {
	const int places = a.count * (a.heads / a.group);
	if constexpr (D % 64 == 0) {
		if (hopper_blocks > 0) {
			using Shape = HopperShape<D>;
			const int blocks = Shape::kQueries > 1 ? std::min(places, hopper_blocks) : places;
			return launch(hopper_prefill_kernel<D>, a, {blocks, Shape::kThreads, Shape::kSharedBytes, false}, stream);
		}
	}
	return launch(prefill_kernel<D>, a, {places, PrefillShape<D>::kThreads, PrefillShape<D>::kSharedBytes, false}, stream);
}

} // namespace chorale::attention
