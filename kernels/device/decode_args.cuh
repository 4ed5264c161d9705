// What a product of decode rows works on, and what it keeps about its adapters.
#pragma once

#include "decode_ring.cuh"
#include "lora_work.cuh"

namespace chorale::decode {

constexpr int kMostWarps = 8; // of a block, that multiply with the weight
constexpr int kShrinkWarps = 4; // beside them, where there are adapters
constexpr int kMostCuts = 16;   // items that share the sums of one tile of 16 ranks
constexpr int kMostBlocks = 1024;   // of a launch with adapters, or that splits sums
constexpr int64_t kShrinkBytes = 16 << 20; // of the workspace, for sums of cut tiles

// Counters are zero between launches.
struct Counters {
	uint32_t taken;  // items of shrink that some block works on
	uint32_t shrunk; // tiles of 16 ranks that are done
	uint32_t passed; // twice per block: it takes no more items, it does not wait for v any more
	uint32_t cuts[kMostBlocks];   // of a tile of 16 ranks, that are done
	uint32_t tiles[kMostBlocks]; // blocks that have brought their part of an output tile
};

struct DecodeArgs {
	const bf16 *x; // [rows, ldx]
	const bf16 *w; // [out, in]
	const void *bias; // [out] of y's type, or null
	void *y;       // [rows, ldy]
	int32_t ldx, in, out, rows, ldy;
	int32_t cols;  // of a block: 32 per warp that multiplies with w
	int32_t split; // blocks that share an output tile; neighbours
	char *workspace;
	Counters *counters;
	// Adapters; none where terms is null.
	const ch_lora_term *terms;
	const int32_t *count;
	int32_t max_terms;
	char *scratch; // of v, 1024 bytes per ch_lora_tiles
};

// Share is a term's part in a block's columns.
struct Share {
	const bf16 *b; // what its row for the block's first column would be
	int32_t ldb, from, to; // columns of the block that it has
	int32_t row0, rows;
	int32_t v; // its first tile in the scratch
	__device__ __forceinline__ int first_tile() const { return row0 / 8; }
	__device__ __forceinline__ int tiles() const { return (row0 + rows - 1) / 8 - row0 / 8 + 1; }
	__device__ __forceinline__ int rank_tiles() const { return (ldb + 15) / 16; }
};

// ListHead is what the lists say as a whole.
struct ListHead {
	uint32_t terms, shares;
	uint32_t widest; // most tiles of rows of a share
	uint32_t bias;   // some term brings one for these columns
	uint32_t item, last; // words of the shrink warps
};

// Lists say which ranks there are, and which of them concern a block's columns.
struct Lists {
	ListHead *head;
	int32_t *ranks;  // [terms + 1] first tile of 16 ranks of each term
	int32_t *blocks; // [shares + 1] the same of each share
	Share *share;    // [shares]
	__device__ __forceinline__ int32_t all_ranks() const { return ranks[head->terms]; }
};

constexpr int kListHead = 128; // bytes: a ListHead, and sums of warps

__host__ __device__ constexpr int64_t list_words(int32_t max_terms) { return (max_terms + 2) / 2 * 4LL; } // 16-byte aligned
__host__ __device__ constexpr int64_t list_bytes(int32_t max_terms) { return kListHead + list_words(max_terms) * 4 + static_cast<int64_t>(max_terms) * sizeof(Share); }

// Both sums of a scan: ranks in one, shares (above bit 20) and their ranks in the other.
struct Pair {
	uint32_t r, b;
};

__device__ __forceinline__ Pair warp_scan(Pair v) {
#pragma unroll
	for (int d = 1; d < 32; d *= 2) {
		const uint32_t r = __shfl_up_sync(~0u, v.r, d), b = __shfl_up_sync(~0u, v.b, d);
		if ((threadIdx.x & 31) >= d) {
			v.r += r, v.b += b;
		}
	}
	return v;
}

__device__ __forceinline__ Share share_of(const ch_lora_term &t, int32_t col0, int32_t cols) {
	const int32_t ldb = lora::ch_lora_ldb(t.rank);
	const bf16 *b = static_cast<const bf16 *>(t.b) + static_cast<int64_t>(col0 - t.col) * ldb;
	return {b, ldb, most(0, t.col - col0), least(cols, t.col + t.out - col0), t.row0, t.rows, 2 * t.s};
}

// lists_in says where lists are in list_bytes of storage.
__device__ __forceinline__ Lists lists_in(char *storage, int32_t max_terms) {
	int32_t *ranks = reinterpret_cast<int32_t *>(storage + kListHead);
	return {reinterpret_cast<ListHead *>(storage), ranks, ranks + max_terms + 1, reinterpret_cast<Share *>(ranks + list_words(max_terms))};
}

// make_lists reads the terms, with the shrink warps.
__device__ __forceinline__ void make_lists(const Lists &lists, const DecodeArgs &p, int32_t col0) {
	constexpr int kThreads = kShrinkWarps * 32;
	const int32_t thread = threadIdx.x - p.cols, warp = thread / 32;
	Pair *sums = reinterpret_cast<Pair *>(lists.head + 1); // [warps]
	const int32_t n = least(*p.count, p.max_terms);
	Pair base = {0, 0};
	if (thread == 0) {
		*lists.head = {static_cast<uint32_t>(n), 0, 1, 0, 0, 0};
	}
	together(kShrinkBarrier, kThreads);
	for (int32_t begin = 0; begin < n; begin += kThreads) {
		const int32_t i = begin + thread;
		ch_lora_term t = {};
		if (i < n) {
			t = p.terms[i];
		}
		const uint32_t tiles = t.rows > 0 ? lora::rank_tiles(lora::true_rank(t)) : 0;
		const bool here = t.rows > 0 && t.col < col0 + p.cols && t.col + t.out > col0;
		if (here && t.bias) {
			lists.head->bias = 1;
		}
		const Pair mine = {tiles, here && tiles > 0 ? tiles + (1u << 20) : 0};
		const Pair sum = warp_scan(mine);
		if ((thread & 31) == 31) {
			sums[warp] = sum;
		}
		together(kShrinkBarrier, kThreads);
		Pair before = base;
#pragma unroll
		for (int32_t w = 0; w < kShrinkWarps; w++) {
			before.r += w < warp ? sums[w].r : 0, before.b += w < warp ? sums[w].b : 0;
			base.r += sums[w].r, base.b += sums[w].b;
		}
		if (i < n) {
			lists.ranks[i] = before.r + sum.r - mine.r;
		}
		if (mine.b > 0) {
			const uint32_t at = before.b + sum.b - mine.b;
			const Share share = share_of(t, col0, p.cols);
			lists.blocks[at >> 20] = at & 0xfffff;
			lists.share[at >> 20] = share;
			atomicMax(&lists.head->widest, static_cast<uint32_t>(share.tiles()));
		}
		together(kShrinkBarrier, kThreads);
	}
	if (thread == 0) {
		lists.ranks[n] = base.r, lists.blocks[base.b >> 20] = base.b & 0xfffff;
		lists.head->shares = base.b >> 20;
	}
}

} // namespace chorale::decode
