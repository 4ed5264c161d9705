// The prefill kernel of Hopper: two warp groups of 64 rows each.
//
// While the tensor cores add the values of one run of positions, the warps turn
// the scores of the next one into weights. Copies are one run ahead of both, so
// a single barrier per run is enough: what it proves finished is what the next
// copies replace.
#pragma once

#include "attention_softmax.cuh"
#include "attention_wgmma.cuh"

namespace chorale::attention {

template <int D> struct HopperShape {
	static constexpr int kThreads = 256;
	static constexpr int kKeys = D <= 128 ? 128 : 64;
	static constexpr int kTileBytes = kKeys * D * 2;
	static constexpr int kQueryBytes = kPrefillRows * D * 2;
	static constexpr int kSharedBytes = kQueryBytes + 4 * kTileBytes + 1024; // two of keys, two of values; aligned by hand
	static_assert(D % 64 == 0, "whole panels");
};

// HopperRows is a warp group's share of a tile and the block's way through its
// positions.
template <int D> struct HopperRows : Rows<D, 1, HopperShape<D>::kKeys> {
	using Shape = HopperShape<D>;
	static constexpr int kKeys = Shape::kKeys;
	using Base = Rows<D, 1, kKeys>;
	uint32_t query, keys, values; // in shared memory

	__device__ __forceinline__ void copy_query(const PrefillArgs &a, const PrefillTile &tile, int head) const {
		constexpr int kPieces = D / 8;
		for (int i = threadIdx.x; i < kPrefillRows * kPieces; i += Shape::kThreads) {
			const int row = i / kPieces, piece = i % kPieces, token = row / a.group;
			const bool valid = token < tile.tokens;
			const bf16 *src = a.q + (tile.row + (valid ? token : 0)) * a.q_pitch + (head * a.group + row - token * a.group) * D + piece * 8;
			copy16(query + panelled<kPrefillRows>(row, piece), src, valid);
		}
	}

	// copy starts copying keys or values of positions [from, from + kKeys).
	static __device__ __forceinline__ void copy(const PrefillArgs &a, const bf16 *base, const int32_t *pages, int from, int end, uint32_t dst) {
		constexpr int kPieces = D / 8, kRowsAtOnce = Shape::kThreads / kPieces;
		const int piece = threadIdx.x % kPieces, row0 = threadIdx.x / kPieces;
		base += piece * 8;
#pragma unroll
		for (int i = 0; i < kKeys / kRowsAtOnce; i++) {
			const int row = i * kRowsAtOnce + row0, at = from + row, block = at / kBlock;
			const bool valid = at < end;
			const int page = pages[valid ? block >> a.page_shift : 0];
			const int slot = (block & ((1 << a.page_shift) - 1)) * kBlock + at % kBlock;
			copy16(dst + panelled<kKeys>(row, piece), base + page * a.page_stride + slot * a.slot_stride, valid);
		}
	}

	__device__ __forceinline__ void start_scores(float (&s)[1][kKeys / 8][4], int stage) const {
		const int group = threadIdx.x / 128;
		wgmma_fence();
#pragma unroll
		for (int k = 0; k < D / 16; k++) {
			const uint32_t q = query + k / 4 * (kPrefillRows * 128) + group * (64 * 128) + k % 4 * 32;
			const uint32_t b = keys + stage * Shape::kTileBytes + k / 4 * (kKeys * 128) + k % 4 * 32;
			wgmma_keys(s[0], descriptor(q, 16), descriptor(b, 16), k > 0);
		}
		wgmma_commit();
	}

	__device__ __forceinline__ void start_values(const uint32_t (&p)[kKeys / 16][4], int stage) {
		wgmma_fence();
#pragma unroll
		for (int n = 0; n < kKeys / 16; n++) {
			wgmma_values(this->out[0], p[n], descriptor(values + stage * Shape::kTileBytes + n * (16 * 128), kKeys * 128));
		}
		wgmma_commit();
	}
};

template <int D> __global__ void __launch_bounds__(HopperShape<D>::kThreads, 1) hopper_prefill_kernel(const __grid_constant__ PrefillArgs a) {
#if __CUDA_ARCH_FEAT_SM90_ALL
	using Shape = HopperShape<D>;
	constexpr int kKeys = Shape::kKeys;
	extern __shared__ char shared[];
	HopperRows<D> rows;
	rows.query = (shared_address(shared) + 1023) & ~1023u;
	rows.keys = rows.query + Shape::kQueryBytes;
	rows.values = rows.keys + 2 * Shape::kTileBytes;
	const int heads = a.heads / a.group, head = blockIdx.x % heads, kv_head = head / a.split;
	const PrefillTile tile = a.tiles[blockIdx.x / heads];
	const int end = tile.pos + tile.tokens, seen = a.window > 0 ? max(0, tile.pos - a.window + 1) : 0;
	const int first = seen / kKeys * kKeys, runs = (end - first + kKeys - 1) / kKeys;
	const bf16 *keys = a.keys + kv_head * D, *values = a.values + kv_head * D;
	const int32_t *pages = a.pages + tile.first_page;
	rows.clear(a, tile);

	rows.copy_query(a, tile, head);
	rows.copy(a, keys, pages, first, end, rows.keys);
	copy_commit();
	rows.copy(a, keys, pages, first + kKeys, end, rows.keys + Shape::kTileBytes);
	rows.copy(a, values, pages, first, end, rows.values);
	copy_commit();
	copy_wait<1>();
	copies_visible();
	__syncthreads();

	float s[1][kKeys / 8][4], factor[1][2];
	const auto soften = [&](int from) {
		if (from + kKeys - 1 > tile.pos || (a.window > 0 && from <= end - 1 - a.window)) {
			rows.mask(a.window, from, s);
		}
		rows.soften(a.scale, s, factor);
	};
	rows.start_scores(s, 0);
	wgmma_wait<0>();
	hold(s[0]);
	soften(first);
	for (int i = 0; i < runs; i++) {
		uint32_t p[kKeys / 16][4];
#pragma unroll
		for (int n = 0; n < kKeys / 16; n++) {
			rows.weights(p[n], s[0], n);
		}
		copy_wait<0>();
		copies_visible();
		__syncthreads();
		const int from = first + i * kKeys, stage = i & 1;
		rows.copy(a, keys, pages, from + 2 * kKeys, end, rows.keys + stage * Shape::kTileBytes);
		rows.copy(a, values, pages, from + kKeys, end, rows.values + (stage ^ 1) * Shape::kTileBytes);
		copy_commit();
		hold(rows.out[0]);
		if (i + 1 < runs) {
			rows.start_scores(s, stage ^ 1);
			rows.start_values(p, stage);
			wgmma_wait<1>();
			hold(s[0]);
			soften(from + kKeys);
		} else {
			rows.start_values(p, stage);
			factor[0][0] = factor[0][1] = 1;
		}
		wgmma_wait<0>();
		hold(rows.out[0]);
		rows.shrink(factor);
	}
	copy_wait<0>();
	rows.write(a, tile, head);
#else
	__trap(); // compiled for another card: better no result than a wrong one
#endif
}

} // namespace chorale::attention
