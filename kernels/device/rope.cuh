// Rotary positions, q/k norms and the write to the paged cache.
#pragma once

#include "chorale_kernels.h"
#include "vec.cuh"

namespace chorale {

// angles_kernel writes cos and sin [rows, half] of one rope. The product of
// frequency and position is float32, as transformers has it; cos and sin of it
// are exact to float32.
static __global__ void angles_kernel(float2 *out, const float *inv_freq, int half, float scale, const int32_t *pos) {
	wait_for_before();
	for (int i = threadIdx.x; i < half; i += blockDim.x) {
		double sin, cos;
		sincos(static_cast<double>(__fmul_rn(inv_freq[i], static_cast<float>(pos[blockIdx.x]))), &sin, &cos);
		out[static_cast<int64_t>(blockIdx.x) * half + i] = make_float2(static_cast<float>(cos) * scale, static_cast<float>(sin) * scale);
	}
}

// Most pairs of channels of one lane: head_dim up to 256.
constexpr int kRopePairs = 4;

struct RopeArgs {
	bf16 *qkv;
	int pitch, heads;
	ch_cache cache;
	const float2 *angles;
	const float *q_norm, *k_norm;
	float eps;
	const ch_header *header;
	const int32_t *row_seq, *pos, *pages;
	const ch_seq *seqs;
};

// rope_kv_kernel finishes one row per block, one head per warp at a time.
// Padded rows are left alone: they have no place in the cache.
static __global__ void rope_kv_kernel(const __grid_constant__ RopeArgs a) {
	wait_for_before();
	const int t = blockIdx.x, lane = threadIdx.x & 31;
	if (t >= a.header->rows) {
		return;
	}
	const int half = a.cache.head_dim / 2, kv_heads = a.cache.kv_heads;
	const int pos = a.pos[t];
	const int64_t page = a.pages[a.seqs[a.row_seq[t]].first_page + pos / a.cache.page_size];
	const int64_t place = page * a.cache.page_stride + static_cast<int64_t>(pos % a.cache.page_size) * kv_heads * a.cache.head_dim;
	bf16 *row = a.qkv + static_cast<int64_t>(t) * a.pitch;
	const float2 *angles = a.angles + static_cast<int64_t>(t) * half;
	for (int h = (blockIdx.y * blockDim.x + threadIdx.x) >> 5; h < a.heads + 2 * kv_heads; h += (gridDim.y * blockDim.x) >> 5) {
		bf16 *x = row + h * a.cache.head_dim;
		const bool is_v = h >= a.heads + kv_heads, is_k = !is_v && h >= a.heads;
		bf16 *kept = is_v ? static_cast<bf16 *>(a.cache.values) + place + (h - a.heads - kv_heads) * a.cache.head_dim
		                  : static_cast<bf16 *>(a.cache.keys) + place + (h - a.heads) * a.cache.head_dim;
		float lo[kRopePairs], hi[kRopePairs], sum = 0;
#pragma unroll
		for (int k = 0; k < kRopePairs; k++) {
			const int i = lane + 32 * k;
			lo[k] = i < half ? to_float(x[i]) : 0.f;
			hi[k] = i < half ? to_float(x[i + half]) : 0.f;
			sum += lo[k] * lo[k] + hi[k] * hi[k];
		}
		const float *w = is_v ? nullptr : is_k ? a.k_norm : a.q_norm;
		const float inv = w ? rsqrtf(warp_sum(sum) / a.cache.head_dim + a.eps) : 1.f;
#pragma unroll
		for (int k = 0; k < kRopePairs; k++) {
			const int i = lane + 32 * k;
			if (i >= half) {
				break;
			}
			float u = lo[k], v = hi[k];
			if (w) {
				u *= inv * w[i], v *= inv * w[i + half];
			}
			if (!is_v) {
				const float2 cs = angles[i];
				const float turned = u * cs.x - v * cs.y;
				v = v * cs.x + u * cs.y;
				u = turned;
				put(x + i, u), put(x + i + half, v);
			}
			if (is_v || is_k) {
				put(kept + i, u), put(kept + i + half, v);
			}
		}
	}
}

} // namespace chorale
