// Paged attention for every head size up to 256: plain, and the oracle of the
// fast one.
#pragma once

#include "chorale_kernels.h"
#include "vec.cuh"

namespace chorale {

constexpr int kPlainWarps = 4;
constexpr int kPlainChannels = 8; // of one lane: head_dim up to 256

struct PlainArgs {
	bf16 *dst;
	int dst_pitch;
	const bf16 *qkv;
	int qkv_pitch;
	ch_cache cache;
	int heads, window;
	float scale;
	const ch_header *header;
	const int32_t *row_seq, *pos, *pages;
	const ch_seq *seqs;
};

// Part is one warp's share of a softmax: its maximum, sum and weighted values.
struct Part {
	float max, sum;
	float out[kPlainChannels];
};

// plain_chunk adds the (up to 32) positions from p0 to a warp's share. Lane i
// scores position p0+i; then the lanes share out the channels.
__device__ __forceinline__ void plain_chunk(const PlainArgs &a, const float *q, Part &part, const int32_t *pages, int kv_head, int p0, int end) {
	const int lane = threadIdx.x & 31, dim = a.cache.head_dim;
	const int64_t slot_stride = static_cast<int64_t>(a.cache.kv_heads) * dim;
	const int p = p0 + lane;
	int64_t at = 0;
	float score = -INFINITY;
	if (p < end) {
		at = pages[p / a.cache.page_size] * a.cache.page_stride + (p % a.cache.page_size) * slot_stride + kv_head * dim;
		const bf16 *k = static_cast<const bf16 *>(a.cache.keys) + at;
		float dot = 0;
		for (int c = 0; c < dim; c += 8) {
			const Vec8 v = load8(k + c);
#pragma unroll
			for (int i = 0; i < 8; i++) {
				dot = fmaf(q[c + i], v.v[i], dot);
			}
		}
		score = dot * a.scale;
	}
	float top = score;
#pragma unroll
	for (int d = 16; d > 0; d /= 2) {
		top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
	}
	top = fmaxf(top, part.max);
	const float weight = p < end ? __expf(score - top) : 0.f;
	const float old = part.max == -INFINITY ? 0.f : __expf(part.max - top);
	part.sum = part.sum * old + warp_sum(weight);
	part.max = top;
#pragma unroll
	for (int i = 0; i < kPlainChannels; i++) {
		part.out[i] *= old;
	}
	for (int j = 0; j < 32 && p0 + j < end; j++) {
		const float w = __shfl_sync(~0u, weight, j);
		const bf16 *v = static_cast<const bf16 *>(a.cache.values) + __shfl_sync(~0u, at, j);
#pragma unroll
		for (int i = 0; i < kPlainChannels; i++) {
			const int c = lane + 32 * i;
			if (c < dim) {
				part.out[i] = fmaf(w, to_float(v[c]), part.out[i]);
			}
		}
	}
}

// plain_attention_kernel computes one row and head per block. Chunks of 32
// positions, counted from the first that is seen, go to the warps in turn, and
// the warps' shares are added in order: the result depends on the row alone.
static __global__ void __launch_bounds__(kPlainWarps * 32) plain_attention_kernel(const __grid_constant__ PlainArgs a) {
	wait_for_before();
	__shared__ float q[256];
	__shared__ float max[kPlainWarps], sum[kPlainWarps], out[kPlainWarps][256];
	const int t = blockIdx.x, h = blockIdx.y, dim = a.cache.head_dim;
	if (t >= a.header->rows) {
		return;
	}
	const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
	for (int c = threadIdx.x; c < dim; c += blockDim.x) {
		q[c] = to_float(a.qkv[static_cast<int64_t>(t) * a.qkv_pitch + h * dim + c]);
	}
	__syncthreads();
	const int32_t *pages = a.pages + a.seqs[a.row_seq[t]].first_page;
	const int end = a.pos[t] + 1, first = a.window > 0 && end > a.window ? end - a.window : 0;
	Part part = {-INFINITY, 0, {}};
	for (int p0 = first + warp * 32; p0 < end; p0 += kPlainWarps * 32) {
		plain_chunk(a, q, part, pages, h / (a.heads / a.cache.kv_heads), p0, end);
	}
	if (lane == 0) {
		max[warp] = part.max, sum[warp] = part.sum;
	}
#pragma unroll
	for (int i = 0; i < kPlainChannels; i++) {
		out[warp][lane + 32 * i] = part.out[i];
	}
	__syncthreads();
	float top = -INFINITY, total = 0, factor[kPlainWarps];
#pragma unroll
	for (int w = 0; w < kPlainWarps; w++) {
		top = fmaxf(top, max[w]);
	}
#pragma unroll
	for (int w = 0; w < kPlainWarps; w++) {
		factor[w] = max[w] == -INFINITY ? 0.f : __expf(max[w] - top);
		total += sum[w] * factor[w];
	}
	for (int c = threadIdx.x; c < dim; c += blockDim.x) {
		float y = 0;
#pragma unroll
		for (int w = 0; w < kPlainWarps; w++) {
			y = fmaf(out[w][c], factor[w], y);
		}
		put(a.dst + static_cast<int64_t>(t) * a.dst_pitch + h * dim + c, y / total);
	}
}

} // namespace chorale
