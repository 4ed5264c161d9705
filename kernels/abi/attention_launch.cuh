// The definition of Launch; each attention_<head size>.cu instantiates one.
#pragma once

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

template <int D> cudaError_t Launch<D>::prefill(const PrefillArgs &a, int tiles, cudaStream_t stream) {
	return launch(prefill_kernel<D>, a, tiles * (a.heads / a.group), PrefillShape<D>::kThreads, PrefillShape<D>::kSharedBytes, stream);
}

} // namespace chorale::attention
