// What a product of decode rows works on, and what it keeps about its adapters.
#pragma once

#include "decode_ring.cuh"
#include "lora_work.cuh"

namespace chorale::decode {

constexpr int kMostWarps = 8;
constexpr int kMostCuts = 16;       // blocks that share the sums of one tile of ranks
constexpr int kMostBlocks = 1024;   // of a launch with adapters, or that splits sums
constexpr int64_t kShrinkBytes = 16 << 20; // of the workspace, for sums of cut tiles

// Counters are zero between launches.
struct Counters {
	uint32_t shrunk; // tiles of ranks that are done
	uint32_t passed; // blocks that do not wait for them any more
	uint32_t cuts[kMostBlocks];   // of a tile of ranks that are done
	uint32_t tiles[kMostBlocks]; // blocks that have brought their part of an output tile
};

struct DecodeArgs {
	const bf16 *x; // [rows, ldx]
	const bf16 *w; // [out, in]
	const void *bias; // [out] of y's type, or null
	void *y;       // [rows, ldy]
	int32_t ldx, in, out, rows, ldy;
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

// Lists say which ranks there are, and which of them concern a block's columns.
struct Lists {
	int32_t *ranks;  // [terms + 1] first tile of 16 ranks of each term
	int32_t *blocks; // [shares + 1] the same of each share
	Share *share;    // [shares]
	int32_t terms, shares;
	int32_t widest; // most tiles of rows of a share
	uint32_t *flag; // a word for the whole block
	bool bias;      // some term brings one for these columns
};

constexpr int kListHead = 128; // bytes

__host__ __device__ constexpr int64_t list_words(int32_t max_terms) { return (max_terms + 1) * 2LL; }
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

__device__ __forceinline__ Share share_of(const ch_lora_term &t, int32_t col0) {
	const int32_t ldb = lora::ch_lora_ldb(t.rank), cols = blockDim.x;
	const bf16 *b = static_cast<const bf16 *>(t.b) + static_cast<int64_t>(col0 - t.col) * ldb;
	return {b, ldb, most(0, t.col - col0), least(cols, t.col + t.out - col0), t.row0, t.rows, 2 * t.s};
}

// make_lists reads the terms, with the whole block; storage has list_bytes.
__device__ __forceinline__ Lists make_lists(char *storage, const DecodeArgs &p, int32_t col0) {
	Pair *sums = reinterpret_cast<Pair *>(storage); // [warps]
	uint32_t *widest = reinterpret_cast<uint32_t *>(sums + kMostWarps);
	int32_t *ranks = reinterpret_cast<int32_t *>(storage + kListHead), *blocks = ranks + p.max_terms + 1;
	Share *share = reinterpret_cast<Share *>(ranks + list_words(p.max_terms));
	const int32_t n = lora::term_count(p.terms, p.count, p.max_terms), warp = threadIdx.x / 32;
	Pair base = {0, 0};
	bool bias = false;
	if (threadIdx.x == 0) {
		*widest = 1;
	}
	for (int32_t begin = 0; begin < n; begin += blockDim.x) {
		const int32_t i = begin + threadIdx.x;
		ch_lora_term t = {};
		if (i < n) {
			t = p.terms[i];
		}
		const uint32_t tiles = t.rows > 0 ? lora::rank_tiles(lora::true_rank(t)) : 0;
		const bool here = t.rows > 0 && t.col < col0 + static_cast<int32_t>(blockDim.x) && t.col + t.out > col0;
		bias = bias || (here && t.bias);
		const Pair mine = {tiles, here && tiles > 0 ? tiles + (1u << 20) : 0};
		const Pair sum = warp_scan(mine);
		if ((threadIdx.x & 31) == 31) {
			sums[warp] = sum;
		}
		__syncthreads();
		Pair before = base;
		for (int32_t w = 0; w < static_cast<int32_t>(blockDim.x / 32); w++) {
			before.r += w < warp ? sums[w].r : 0, before.b += w < warp ? sums[w].b : 0;
			base.r += sums[w].r, base.b += sums[w].b;
		}
		if (i < n) {
			ranks[i] = before.r + sum.r - mine.r;
		}
		if (mine.b > 0) {
			const uint32_t at = before.b + sum.b - mine.b;
			blocks[at >> 20] = at & 0xfffff;
			share[at >> 20] = share_of(t, col0);
			atomicMax(widest, static_cast<uint32_t>(share[at >> 20].tiles()));
		}
		__syncthreads();
	}
	if (threadIdx.x == 0) {
		ranks[n] = base.r, blocks[base.b >> 20] = base.b & 0xfffff;
	}
	bias = __syncthreads_or(bias) != 0;
	return {ranks, blocks, share, n, static_cast<int32_t>(base.b >> 20), static_cast<int32_t>(*widest), widest + 1, bias};
}

} // namespace chorale::decode
