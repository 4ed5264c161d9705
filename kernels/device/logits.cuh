// What the host wants to know of a row of logits.
#pragma once

#include "vec.cuh"
#include "chorale_kernels.h"

namespace chorale {

// Peak is a running maximum with its lowest index, and the sum of
// exp(x - max) of what was seen.
struct Peak {
	float max;
	int32_t at;
	double sum;
};

__device__ __forceinline__ Peak merge(const Peak &a, const Peak &b) {
	if (b.at < 0) {
		return a;
	}
	if (a.at < 0) {
		return b;
	}
	const bool left = a.max > b.max || (a.max == b.max && a.at < b.at);
	const Peak &hi = left ? a : b, &lo = left ? b : a;
	const float scale = lo.max == hi.max ? 1.f : __expf(lo.max - hi.max);
	return {hi.max, hi.at, hi.sum + lo.sum * scale};
}

__device__ __forceinline__ Peak warp_merge(Peak p) {
#pragma unroll
	for (int d = 1; d < 32; d *= 2) {
		const Peak other = {__shfl_xor_sync(~0u, p.max, d), __shfl_xor_sync(~0u, p.at, d), __shfl_xor_sync(~0u, p.sum, d)};
		p = (threadIdx.x & d) == 0 ? merge(p, other) : merge(other, p);
	}
	return p;
}

// logit_stats_kernel summarises one row per block. A NaN never wins; of a row
// of nothing but NaN or -infinity, index 0 is given.
template <class In>
__global__ void logit_stats_kernel(ch_logit_stat *out, const In *x, int cols, int pitch) {
	wait_for_before();
	__shared__ Peak shared[32];
	const In *row = x + static_cast<int64_t>(blockIdx.x) * pitch;
	Peak mine = {-INFINITY, -1, 0};
	float sum = 0; // of this thread's values: few hundred, so float32 is enough
	bool nan = false;
	for (int c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
		const Vec8 v = load8(row + c);
		float top = mine.max;
		int at = mine.at;
#pragma unroll
		for (int i = 0; i < 8; i++) {
			if (c + i < cols && v.v[i] > top) {
				top = v.v[i], at = c + i;
			}
		}
		if (at != mine.at) {
			sum *= __expf(mine.max - top);
			mine.max = top, mine.at = at;
		}
#pragma unroll
		for (int i = 0; i < 8; i++) {
			if (c + i < cols) {
				nan |= isnan(v.v[i]);
				sum += mine.at < 0 ? 0.f : __expf(v.v[i] - mine.max);
			}
		}
	}
	mine.sum = sum;
	mine = warp_merge(mine);
	if ((threadIdx.x & 31) == 0) {
		shared[threadIdx.x >> 5] = mine;
	}
	nan = __syncthreads_or(nan);
	if (threadIdx.x < 32) {
		mine = warp_merge(threadIdx.x < blockDim.x / 32 ? shared[threadIdx.x] : Peak{-INFINITY, -1, 0});
		if (threadIdx.x == 0) {
			const float lse = mine.at < 0 ? -INFINITY : static_cast<float>(mine.max + log(mine.sum));
			out[blockIdx.x] = {max(mine.at, 0), mine.max, nan ? NAN : lse, 0};
		}
	}
}

} // namespace chorale
