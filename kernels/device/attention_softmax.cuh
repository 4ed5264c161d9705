// What the prefill kernels share: their arguments, and the softmax of a tile's
// rows in registers.
#pragma once

#include "attention_mma.cuh"
#include "attention_table.cuh"

namespace chorale::attention {

struct PrefillArgs {
	const bf16 *q;
	bf16 *out;
	int64_t q_pitch, out_pitch;
	const bf16 *keys, *values;
	int64_t page_stride;
	int32_t slot_stride, page_shift;
	int32_t heads, split, group;
	int32_t window;
	float scale; // of scores, times log2(e)
	const int32_t *pages;
	const PrefillTile *tiles;
};

// Rows is a warp's share of a tile: the softmax so far of kFragments times 16
// rows, kKeys positions being scored at a time. Lane i has rows i/4 and i/4+8 of
// a fragment, and of 8 columns those at i%4*2 and i%4*2+1.
template <int D, int kFragments, int kKeys> struct Rows {
	float max[kFragments][2], sum[kFragments][2];
	float out[kFragments][D / 8][4];
	int32_t pos[kFragments][2]; // -1 for no row

	__device__ __forceinline__ void clear(const PrefillArgs &a, const PrefillTile &tile) {
		const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
#pragma unroll
		for (int f = 0; f < kFragments; f++) {
#pragma unroll
			for (int half = 0; half < 2; half++) {
				const int token = ((warp * kFragments + f) * 16 + half * 8 + lane / 4) / a.group;
				max[f][half] = -INFINITY;
				sum[f][half] = 0;
				pos[f][half] = token < tile.tokens ? tile.pos + token : -1;
			}
#pragma unroll
			for (int d = 0; d < D / 8; d++) {
				out[f][d][0] = out[f][d][1] = out[f][d][2] = out[f][d][3] = 0;
			}
		}
	}

	__device__ __forceinline__ void mask(int window, int from, float (&s)[kFragments][kKeys / 8][4]) const {
		const int lane = threadIdx.x & 31;
#pragma unroll
		for (int f = 0; f < kFragments; f++) {
#pragma unroll
			for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
				for (int j = 0; j < 4; j++) {
					const int at = from + n * 8 + lane % 4 * 2 + j % 2, row = pos[f][j / 2];
					if (at > row || (window > 0 && at <= row - window)) {
						s[f][n][j] = -INFINITY;
					}
				}
			}
		}
	}

	// soften turns scores into weights and brings the sums up to date; factor is
	// what `out` is to be multiplied with.
	__device__ __forceinline__ void soften(float scale, float (&s)[kFragments][kKeys / 8][4], float (&factor)[kFragments][2]) {
#pragma unroll
		for (int f = 0; f < kFragments; f++) {
#pragma unroll
			for (int half = 0; half < 2; half++) {
				const int i = half * 2;
				float top = -INFINITY;
#pragma unroll
				for (int n = 0; n < kKeys / 8; n++) {
					top = fmaxf(top, fmaxf(s[f][n][i], s[f][n][i + 1]));
				}
				top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
				top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
				top = fmaxf(max[f][half], top * scale);
				const float base = top == -INFINITY ? 0.f : top;
				factor[f][half] = shrink_factor(max[f][half], top);
				max[f][half] = top;
				float total = 0;
#pragma unroll
				for (int n = 0; n < kKeys / 8; n++) {
					s[f][n][i] = exp2_fast(__fmaf_rn(s[f][n][i], scale, -base));
					s[f][n][i + 1] = exp2_fast(__fmaf_rn(s[f][n][i + 1], scale, -base));
					total += s[f][n][i] + s[f][n][i + 1];
				}
				sum[f][half] = sum[f][half] * factor[f][half] + total;
			}
		}
	}

	__device__ __forceinline__ void shrink(const float (&factor)[kFragments][2]) {
#pragma unroll
		for (int f = 0; f < kFragments; f++) {
#pragma unroll
			for (int d = 0; d < D / 8; d++) {
#pragma unroll
				for (int j = 0; j < 4; j++) {
					out[f][d][j] *= factor[f][j / 2];
				}
			}
		}
	}

	// weights packs 16 columns of weights from the n-th on as an operand of mma.
	static __device__ __forceinline__ void weights(uint32_t (&p)[4], const float (&s)[kKeys / 8][4], int n) {
		p[0] = pack(s[n * 2][0], s[n * 2][1]);
		p[1] = pack(s[n * 2][2], s[n * 2][3]);
		p[2] = pack(s[n * 2 + 1][0], s[n * 2 + 1][1]);
		p[3] = pack(s[n * 2 + 1][2], s[n * 2 + 1][3]);
	}

	__device__ __forceinline__ void write(const PrefillArgs &a, const PrefillTile &tile, int head) const {
		const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
#pragma unroll
		for (int f = 0; f < kFragments; f++) {
#pragma unroll
			for (int half = 0; half < 2; half++) {
				float total = sum[f][half];
				total += __shfl_xor_sync(~0u, total, 1);
				total += __shfl_xor_sync(~0u, total, 2);
				const int row = (warp * kFragments + f) * 16 + half * 8 + lane / 4, token = row / a.group;
				if (token >= tile.tokens) {
					continue;
				}
				const float factor = total > 0 ? 1.f / total : 0.f;
				bf16 *dst = a.out + (tile.row + token) * a.out_pitch + (head * a.group + row - token * a.group) * D + lane % 4 * 2;
#pragma unroll
				for (int d = 0; d < D / 8; d++) {
					*reinterpret_cast<uint32_t *>(dst + d * 8) = pack(out[f][d][half * 2] * factor, out[f][d][half * 2 + 1] * factor);
				}
			}
		}
	}
};

} // namespace chorale::attention
