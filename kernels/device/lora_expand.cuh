// Expand: y += v b^T + bias, for every term of a linear layer.
//
// A warp owns 64 columns and runs over tiles of 8 rows. A value of y is one
// chain of products over the ranks in order, high part of v before low part,
// then y + (sum + bias): it depends on its own row and column alone.
#pragma once

#include "lora_ptx.cuh"
#include "lora_work.cuh"

namespace chorale::lora {

constexpr int kExpandWarps = 4;
constexpr int kExpandThreads = 32 * kExpandWarps;
constexpr int kWarpCols = 64;
constexpr int kBlockCols = kWarpCols * kExpandWarps;

// Cols are 8 neighbouring columns of one row, a lane's share.
struct Cols {
	float v[8];
};

__device__ __forceinline__ float2 unpack(uint32_t w) { return make_float2(__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u)); }
__device__ __forceinline__ uint32_t pack(float a, float b) {
	const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
	return *reinterpret_cast<const uint32_t *>(&v);
}

// RawCols are they as memory holds them: loaded early, widened late.
template <class Y> struct RawCols;
template <> struct RawCols<bf16> {
	uint4 w;
	__device__ __forceinline__ void load(const bf16 *p) { w = *reinterpret_cast<const uint4 *>(p); }
	__device__ __forceinline__ void set(int i, bf16 v) { reinterpret_cast<bf16 *>(&w)[i] = v; }
	__device__ __forceinline__ Cols wide() const {
		const float2 a = unpack(w.x), b = unpack(w.y), d = unpack(w.z), e = unpack(w.w);
		return {{a.x, a.y, b.x, b.y, d.x, d.y, e.x, e.y}};
	}
};
template <> struct RawCols<float> {
	float4 a, b;
	__device__ __forceinline__ void load(const float *p) {
		a = *reinterpret_cast<const float4 *>(p);
		b = *reinterpret_cast<const float4 *>(p + 4);
	}
	__device__ __forceinline__ void set(int i, float v) { reinterpret_cast<float *>(this)[i] = v; }
	__device__ __forceinline__ Cols wide() const { return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}}; }
};

// load_cols reads n (at most 8) columns; whole says that all 8 are there and
// 16-byte aligned. The others are zero.
template <class Y> __device__ __forceinline__ RawCols<Y> load_cols(const Y *p, int n, bool whole) {
	RawCols<Y> c = {};
	if (whole) {
		c.load(p);
	} else if (n > 0) {
#pragma unroll
		for (int i = 0; i < 8; i++) {
			if (i < n) {
				c.set(i, p[i]);
			}
		}
	}
	return c;
}

__device__ __forceinline__ void store_cols(bf16 *p, const Cols &c, int n, bool whole) {
	if (whole) {
		*reinterpret_cast<uint4 *>(p) = make_uint4(pack(c.v[0], c.v[1]), pack(c.v[2], c.v[3]), pack(c.v[4], c.v[5]), pack(c.v[6], c.v[7]));
		return;
	}
#pragma unroll
	for (int i = 0; i < 8; i++) {
		if (i < n) {
			p[i] = __float2bfloat16_rn(c.v[i]);
		}
	}
}

__device__ __forceinline__ void store_cols(float *p, const Cols &c, int n, bool whole) {
	if (whole) {
		*reinterpret_cast<float4 *>(p) = make_float4(c.v[0], c.v[1], c.v[2], c.v[3]);
		*reinterpret_cast<float4 *>(p + 4) = make_float4(c.v[4], c.v[5], c.v[6], c.v[7]);
		return;
	}
#pragma unroll
	for (int i = 0; i < 8; i++) {
		if (i < n) {
			p[i] = c.v[i];
		}
	}
}

// BBlock is a lane's part of kRows rows of b over 32 ranks (or the last 16).
template <int kRows> struct BBlock {
	uint4 row[kRows];

	// load reads block index of b's rows col .. col+kRows-1; rows past out and
	// ranks past the stored row are zero.
	__device__ __forceinline__ void load(const ch_lora_term &t, int32_t col, int32_t index) {
		const int quad = threadIdx.x & 3;
		const int32_t ldb = ch_lora_ldb(t.rank);
		const bool pair = 2 * index + 1 < rank_tiles(t.rank);
		const int32_t k = index * 32 + quad * (pair ? 8 : 4);
		const bf16 *b = static_cast<const bf16 *>(t.b) + static_cast<int64_t>(col) * ldb + k;
#pragma unroll
		for (int i = 0; i < kRows; i++) {
			row[i] = make_uint4(0, 0, 0, 0);
			if (k < ldb && col + i < t.out) {
				if (pair) {
					row[i] = __ldg(reinterpret_cast<const uint4 *>(b + i * ldb));
				} else {
					const uint2 half = __ldg(reinterpret_cast<const uint2 *>(b + i * ldb));
					row[i].x = half.x;
					row[i].y = half.y;
				}
			}
		}
	}
};

// VBlock is a lane's part of kN row tiles of v over 32 ranks.
template <int kN> struct VBlock {
	uint4 tile[2][kN];

	__device__ __forceinline__ void load(const ch_lora_term &t, const void *scratch, int32_t row_tile, int32_t last, int32_t index) {
		const int32_t tiles = rank_tiles(t.rank);
		const char *v = v_tile(const_cast<void *>(scratch), t, row_tile, 2 * index, tiles) + (threadIdx.x & 31) * 16;
#pragma unroll
		for (int h = 0; h < 2; h++) {
#pragma unroll
			for (int n = 0; n < kN; n++) {
				tile[h][n] = make_uint4(0, 0, 0, 0);
				if (row_tile + n < last && 2 * index + h < tiles) {
					tile[h][n] = *reinterpret_cast<const uint4 *>(v + (static_cast<int64_t>(n) * tiles + h) * kTileBytes);
				}
			}
		}
	}
};

// Delta is a lane's part of v b^T for kN row tiles: kRows / 2 products side by
// side give it kRows neighbouring columns of rows 2*quad and 2*quad+1 of each.
template <int kRows, int kN> struct Delta {
	float acc[kRows / 2][kN][4];

	__device__ __forceinline__ void clear() {
#pragma unroll
		for (int i = 0; i < kRows * kN * 2; i++) {
			acc[i / 4 / kN][i / 4 % kN][i % 4] = 0;
		}
	}

	// add sums over a block of 32 ranks; absent ranks are zero on both sides.
	__device__ __forceinline__ void add(const BBlock<kRows> &b, const VBlock<kN> &v, bool pair) {
#pragma unroll
		for (int h = 0; h < 2; h++) {
			if (h == 1 && !pair) {
				return;
			}
#pragma unroll
			for (int i = 0; i < kRows / 2; i++) {
				const uint4 lo = b.row[2 * i], hi = b.row[2 * i + 1];
				const uint32_t a0 = h ? lo.z : lo.x, a1 = h ? hi.z : hi.x, a2 = h ? lo.w : lo.y, a3 = h ? hi.w : hi.y;
#pragma unroll
				for (int n = 0; n < kN; n++) {
					mma(acc[i][n], a0, a1, a2, a3, v.tile[h][n].x, v.tile[h][n].y);
					mma(acc[i][n], a0, a1, a2, a3, v.tile[h][n].z, v.tile[h][n].w);
				}
			}
		}
	}

	__device__ __forceinline__ float at(int col, int n, int odd) const { return acc[col / 2][n][col % 2 * 2 + odd]; }
};

__device__ __forceinline__ int32_t rank_blocks(int32_t rank) { return (rank + 31) / 32; }
__device__ __forceinline__ bool paired(const ch_lora_term &t, int32_t index) { return 2 * index + 1 < rank_tiles(t.rank); }

struct ExpandArgs {
	const ch_lora_term *terms;
	const int32_t *count;
	int32_t max_terms;
	const void *scratch;
	void *y; // [T, ldy]
	int32_t ldy;
};

// Tile sizes: kTiles row tiles at once, kRowTiles of them per item. Few spread
// a small batch over the card, more read b less often.
struct ExpandFew {
	static constexpr int kTiles = 1, kRowTiles = 1, kBlocksPerSM = 5;
};
struct ExpandSome {
	static constexpr int kTiles = 2, kRowTiles = 2, kBlocksPerSM = 4;
};
struct ExpandMany {
	static constexpr int kTiles = 2, kRowTiles = 4, kBlocksPerSM = 4;
};

__device__ __forceinline__ int32_t col_items(int32_t cols) { return (cols + kBlockCols - 1) / kBlockCols; }
template <int kRowTiles> __device__ __forceinline__ int32_t row_items(int32_t rows) { return (row_tiles(rows) + kRowTiles - 1) / kRowTiles; }

// lane_col is a lane's first column within its block's.
__device__ __forceinline__ int lane_col() { return (threadIdx.x >> 5) * kWarpCols + ((threadIdx.x & 31) >> 2) * 8; }

// expand_tiles adds a term to kN row tiles of a warp's columns. b holds the first
// block of ranks, and does so again for the next tiles.
template <int kN, class Y>
__device__ __forceinline__ void expand_tiles(const ExpandArgs &p, const ch_lora_term &t, int32_t col, int32_t tile, int32_t last, BBlock<8> &b) {
	const int quad = threadIdx.x & 3, width = min(8, t.out - col);
	Y *const y0 = static_cast<Y *>(p.y) + static_cast<int64_t>(t.row0) * p.ldy + t.col + col;
	const bool whole = width == 8 && (p.ldy & 7) == 0 && ((t.col + col) & 7) == 0;
	RawCols<Y> y[kN][2];
#pragma unroll
	for (int i = 0; i < 2 * kN; i++) {
		const int32_t row = (tile + i / 2) * kTileRows + quad * 2 + i % 2;
		y[i / 2][i % 2] = load_cols(static_cast<const Y *>(y0) + static_cast<int64_t>(row) * p.ldy, row < t.rows ? width : 0, whole && row < t.rows);
	}
	Delta<8, kN> delta;
	delta.clear();
	const int32_t blocks = rank_blocks(true_rank(t));
	for (int32_t i = 0; i < blocks; i++) {
		VBlock<kN> v;
		v.load(t, p.scratch, tile, last, i);
		if (i > 0) {
			b.load(t, col, i);
		}
		delta.add(b, v, paired(t, i));
	}
	if (blocks > 1 && tile + kN < last) {
		b.load(t, col, 0);
	}
	const Cols bias = load_cols(t.bias + col, t.bias ? width : 0, false).wide();
#pragma unroll
	for (int i = 0; i < 2 * kN; i++) {
		const int32_t row = (tile + i / 2) * kTileRows + quad * 2 + i % 2;
		Cols sum = y[i / 2][i % 2].wide();
#pragma unroll
		for (int c = 0; c < 8; c++) {
			sum.v[c] += delta.at(c, i / 2, i % 2) + bias.v[c];
		}
		store_cols(y0 + static_cast<int64_t>(row) * p.ldy, sum, row < t.rows ? width : 0, whole && row < t.rows);
	}
}

template <class Shape, class Y> __global__ void __launch_bounds__(kExpandThreads, Shape::kBlocksPerSM) expand_kernel(ExpandArgs p) {
	extern __shared__ int32_t storage[];
	let_next_begin();
	const WorkList work = make_work_list<kExpandThreads>(storage, term_count(p.terms, p.count, p.max_terms), [&](int32_t i) {
		const ch_lora_term &t = p.terms[i];
		const bool something = true_rank(t) > 0 || t.bias;
		return something ? col_items(t.out) * row_items<Shape::kRowTiles>(t.rows) : 0;
	});
	int32_t item = blockIdx.x, at = 0;
	if (item >= work.items() && item > 0) {
		return; // the first block stays: one kernel never ends before the one before it
	}
	bool waited = false;
	for (; item < work.items(); item += gridDim.x) {
		at = work.term_of(item, at);
		const ch_lora_term t = p.terms[at];
		const int32_t across = col_items(t.out), index = item - work.first[at];
		const int32_t col = index % across * kBlockCols + lane_col();
		BBlock<8> b;
		if (true_rank(t) > 0) {
			b.load(t, col, 0);
		}
		if (!waited) { // weights need not wait for v and y
			wait_for_previous();
			waited = true;
		}
		const int32_t begin = index / across * Shape::kRowTiles, last = min(row_tiles(t.rows), begin + Shape::kRowTiles);
		for (int32_t tile = begin; tile < last; tile += Shape::kTiles) {
			if (Shape::kTiles == 2 && tile + 1 < last) {
				expand_tiles<Shape::kTiles, Y>(p, t, col, tile, last, b);
			} else {
				expand_tiles<1, Y>(p, t, col, tile, last, b);
			}
		}
	}
	if (!waited) {
		wait_for_previous();
	}
}

} // namespace chorale::lora
