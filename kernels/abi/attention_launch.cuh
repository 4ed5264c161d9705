// The definition of Launch; each attention_<head size>.cu instantiates one.
#pragma once

#include "attention_hopper.cuh"
#include "attention_launch.h"

namespace chorale::attention {

template <class Kernel, class Args> cudaError_t launch(Kernel kernel, const Args &args, int blocks, int threads, int shared, cudaStream_t stream) {
	if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); e != cudaSuccess) {
		return e;
	}
	kernel<<<blocks, threads, shared, stream>>>(args);
	return cudaGetLastError();
}

template <int D> cudaError_t Launch<D>::rows(const RowsArgs &a, int blocks, cudaStream_t stream) {
	return launch(rows_kernel<D>, a, blocks, RowsShape<D>::kThreads, RowsShape<D>::kSharedBytes, stream);
}

template <int D> cudaError_t Launch<D>::prefill(const PrefillArgs &a, int tiles, bool hopper, cudaStream_t stream) {
	const int blocks = tiles * (a.heads / a.group);
	if constexpr (D % 64 == 0) {
		if (hopper) {
			return launch(hopper_prefill_kernel<D>, a, blocks, HopperShape<D>::kThreads, HopperShape<D>::kSharedBytes, stream);
		}
	}
	return launch(prefill_kernel<D>, a, blocks, PrefillShape<D>::kThreads, PrefillShape<D>::kSharedBytes, stream);
}

} // namespace chorale::attention
