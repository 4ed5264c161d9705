// One adapter's share of one linear layer, and how its factors lie in memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#ifndef CH_LORA_TERM
#define CH_LORA_TERM
// y[row0 : row0+rows, col : col+out] += scale * (x[row0 : row0+rows] a^T) b^T + bias
//
//   a    [rank, in] bf16, row-major, 16-byte aligned; in is a multiple of 8
//   b    [out, rank] bf16, row-major with rows of ch_lora_ldb(rank) elements,
//        16-byte aligned; the padding is zero
//   bias [out] float32, or null
//
// Without a or without b the term only adds its bias. rank is 1..512. Terms
// of one operation never overlap in both rows and columns.
struct ch_lora_term {
	const void *a;
	const void *b;
	const float *bias;
	int32_t row0, rows, rank, out, col;
	// s is the number of 512-byte tiles of the scratch that the terms before
	// this one take: the running sum of ch_lora_tiles(rows, rank).
	int32_t s;
	float scale;
	int32_t pad;
};
#endif

namespace chorale::lora {

using bf16 = __nv_bfloat16;

constexpr int kTileRows = 8;    // batch rows of one tile of v = x a^T
constexpr int kTileRank = 16;   // ranks of one tile of v
constexpr int kTileBytes = 512; // two bf16 per value: v = high + low

// ch_lora_ldb is the length of a stored row of b: 8-byte rows up to rank 16,
// 16-byte rows above, so that a warp reads whole vectors.
__host__ __device__ constexpr int32_t ch_lora_ldb(int32_t rank) { return rank <= 16 ? (rank + 3) / 4 * 4 : (rank + 7) / 8 * 8; }

__host__ __device__ constexpr int32_t rank_tiles(int32_t rank) { return (rank + kTileRank - 1) / kTileRank; }
__host__ __device__ constexpr int32_t row_tiles(int32_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// ch_lora_tiles is the scratch that one term takes, in tiles. A term that
// only adds a bias takes none (rank 0).
__host__ __device__ constexpr int32_t ch_lora_tiles(int32_t rows, int32_t rank) { return row_tiles(rows) * rank_tiles(rank); }

__device__ __forceinline__ int32_t true_rank(const ch_lora_term &t) { return t.a && t.b ? t.rank : 0; }

// v_tile is tile (row tile, rank tile) of a term's v in the scratch. A tile
// holds the second operand of one m16n8k16 product, lane by lane: 16 bytes
// per lane, {high k0 k1, high k2 k3, low k0 k1, low k2 k3}.
__device__ __forceinline__ char *v_tile(void *scratch, const ch_lora_term &t, int32_t row_tile, int32_t rank_tile, int32_t tiles) {
	return static_cast<char *>(scratch) + (static_cast<int64_t>(t.s) + static_cast<int64_t>(row_tile) * tiles + rank_tile) * kTileBytes;
}

} // namespace chorale::lora
