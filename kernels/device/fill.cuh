// Weights on their way to the device.
#pragma once

#include "vec.cuh"

namespace chorale {

// fill_kernel spreads row-major float32 values with any strides.
template <class Out>
__global__ void fill_kernel(Out *dst, int64_t row_stride, int64_t col_stride, const float *src, int64_t n, int cols) {
	for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
		put(dst + i / cols * row_stride + i % cols * col_stride, src[i]);
	}
}

} // namespace chorale
