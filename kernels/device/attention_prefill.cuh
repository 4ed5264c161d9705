// The prefill kernel: tiles of 128 query rows, bound by the tensor cores.
//
// One block computes one (tile, virtual key head) over its whole context, 32 or
// 64 positions at a time. Keys of the next positions are copied while values of
// these are multiplied and the other way round; two blocks of a processor fill
// one another's gaps.
#pragma once

#include "attention_softmax.cuh"

namespace chorale::attention {

template <int D> struct PrefillShape {
	static constexpr int kWarps = D <= 128 ? 4 : 8;
	static constexpr int kThreads = kWarps * 32;
	static constexpr int kFragments = kPrefillRows / kWarps / 16; // of 16 rows, of a warp
	static constexpr int kKeys = D <= 128 ? 64 : 32;
	static constexpr int kTileBytes = kKeys * D * 2;
	static constexpr int kQueryBytes = kPrefillRows * D * 2;
	static constexpr int kSharedBytes = kQueryBytes + 2 * kTileBytes;
};

template <int D> __device__ __forceinline__ void copy_query(const PrefillArgs &a, const PrefillTile &tile, int head, uint32_t dst) {
	constexpr int kPieces = D / 8;
	for (int i = threadIdx.x; i < kPrefillRows * kPieces; i += PrefillShape<D>::kThreads) {
		const int row = i / kPieces, piece = i % kPieces, token = row / a.group;
		const bool valid = token < tile.tokens;
		const bf16 *src = a.q + (tile.row + (valid ? token : 0)) * a.q_pitch + (head * a.group + row - token * a.group) * D + piece * 8;
		copy16(dst + swizzled<D>(row, piece), src, valid);
	}
}

// copy_keys starts copying the keys (or values) of positions [from, from+kKeys).
template <int D> __device__ __forceinline__ void copy_keys(const PrefillArgs &a, const bf16 *base, const PrefillTile &tile, int kv_head, int from, int end, uint32_t dst) {
	using Shape = PrefillShape<D>;
	constexpr int kPieces = D / 8, kCopies = Shape::kKeys * kPieces / Shape::kThreads;
	static_assert(kCopies * Shape::kThreads == Shape::kKeys * kPieces);
	const int32_t *pages = a.pages + tile.first_page;
#pragma unroll
	for (int i = 0; i < kCopies; i++) {
		const int e = i * Shape::kThreads + threadIdx.x, row = e / kPieces, piece = e % kPieces, at = from + row;
		const bool valid = at < end;
		const int block = at / kBlock, page = pages[valid ? block >> a.page_shift : 0];
		const int slot = (block & ((1 << a.page_shift) - 1)) * kBlock + at % kBlock;
		copy16(dst + swizzled<D>(row, piece), base + page * a.page_stride + static_cast<int64_t>(slot) * a.slot_stride + kv_head * D + piece * 8, valid);
	}
	copy_commit();
}

// MmaRows multiplies with the instructions that every card has.
template <int D> struct MmaRows : Rows<D, PrefillShape<D>::kFragments, PrefillShape<D>::kKeys> {
	static constexpr int kFragments = PrefillShape<D>::kFragments, kKeys = PrefillShape<D>::kKeys;
	using Base = Rows<D, kFragments, kKeys>;

	__device__ __forceinline__ void score(uint32_t query, uint32_t keys, float (&s)[kFragments][kKeys / 8][4]) const {
		const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, r = lane & 7;
#pragma unroll
		for (int k = 0; k < D / 16; k++) {
			uint32_t q[kFragments][4];
#pragma unroll
			for (int f = 0; f < kFragments; f++) {
				load4(q[f], query + swizzled<D>((warp * kFragments + f) * 16 + (lane & 15), k * 2 + lane / 16));
			}
#pragma unroll
			for (int n = 0; n < kKeys / 16; n++) {
				uint32_t b[4];
				load4(b, keys + swizzled<D>(n * 16 + lane / 16 * 8 + r, k * 2 + (lane / 8 & 1)));
#pragma unroll
				for (int f = 0; f < kFragments; f++) {
					mma(s[f][n * 2], q[f], b[0], b[1]);
					mma(s[f][n * 2 + 1], q[f], b[2], b[3]);
				}
			}
		}
	}

	__device__ __forceinline__ void add(uint32_t values, const float (&s)[kFragments][kKeys / 8][4]) {
		const int lane = threadIdx.x & 31, r = lane & 7;
#pragma unroll
		for (int n = 0; n < kKeys / 16; n++) {
			uint32_t p[kFragments][4];
#pragma unroll
			for (int f = 0; f < kFragments; f++) {
				Base::weights(p[f], s[f], n);
			}
#pragma unroll
			for (int d = 0; d < D / 16; d++) {
				uint32_t b[4];
				load4_transposed(b, values + swizzled<D>(n * 16 + (lane / 8 & 1) * 8 + r, d * 2 + lane / 16));
#pragma unroll
				for (int f = 0; f < kFragments; f++) {
					mma(this->out[f][d * 2], p[f], b[0], b[1]);
					mma(this->out[f][d * 2 + 1], p[f], b[2], b[3]);
				}
			}
		}
	}
};

template <int D> __global__ void __launch_bounds__(PrefillShape<D>::kThreads) prefill_kernel(const __grid_constant__ PrefillArgs a) {
	using Shape = PrefillShape<D>;
	extern __shared__ __align__(128) char shared[];
	const uint32_t query = shared_address(shared), keys = query + Shape::kQueryBytes, values = keys + Shape::kTileBytes;
	const int heads = a.heads / a.group, head = blockIdx.x % heads, kv_head = head / a.split;
	const PrefillTile tile = a.tiles[blockIdx.x / heads];
	const int end = tile.pos + tile.tokens, seen = a.window > 0 ? max(0, tile.pos - a.window + 1) : 0;
	int from = seen / Shape::kKeys * Shape::kKeys;
	copy_query<D>(a, tile, head, query); // one group with the first keys
	copy_keys<D>(a, a.keys, tile, kv_head, from, end, keys);
	copy_keys<D>(a, a.values, tile, kv_head, from, end, values);
	MmaRows<D> rows;
	rows.clear(a, tile);
	for (; from < end; from += Shape::kKeys) {
		float s[Shape::kFragments][Shape::kKeys / 8][4] = {};
		copy_wait<1>();
		__syncthreads();
		rows.score(query, keys, s);
		__syncthreads();
		copy_keys<D>(a, a.keys, tile, kv_head, from + Shape::kKeys, end, keys);
		if (from + Shape::kKeys - 1 > tile.pos || (a.window > 0 && from <= end - 1 - a.window)) {
			rows.mask(a.window, from, s);
		}
		float factor[Shape::kFragments][2];
		rows.soften(a.scale, s, factor);
		rows.shrink(factor);
		copy_wait<1>();
		__syncthreads();
		rows.add(values, s);
		__syncthreads();
		copy_keys<D>(a, a.values, tile, kv_head, from + Shape::kKeys, end, values);
	}
	copy_wait<0>();
	rows.write(a, tile, head);
}

} // namespace chorale::attention
