// Shrink: v = scale * x a^T, for every term of a linear layer.
//
// A cluster of 8 blocks owns 16 * kM ranks of one term and up to 8 * kN of its
// rows over the whole inner dimension: each of its 64 warps sums one fixed
// slice of it, then the slices are added in order. So a value of v depends on
// its row of x, its row of a and the inner dimension, and on nothing else: not
// on the tile sizes, the grid, or the other terms.
#pragma once

#include "lora_ptx.cuh"
#include "lora_work.cuh"

namespace chorale::lora {

constexpr int kShrinkBlocks = 8; // of a cluster
constexpr int kShrinkWarps = 8;  // of a block
constexpr int kShrinkThreads = 32 * kShrinkWarps;
constexpr int kSlices = kShrinkBlocks * kShrinkWarps;

struct ShrinkArgs {
	const ch_lora_term *terms;
	const int32_t *count;
	int32_t max_terms;
	const bf16 *x; // [T, ldx]
	int32_t ldx, in;
	void *scratch;
};

// Slice is one warp's part of the inner dimension: whole units of 32.
struct Slice {
	int32_t begin, end;
	__device__ __forceinline__ Slice(int32_t in, int32_t index) {
		const int32_t units = (in + 31) / 32, each = (units + kSlices - 1) / kSlices;
		begin = min(in, index * each * 32);
		end = min(in, begin + each * 32);
	}
};

// sum_slice adds x[8 * kN rows] · a[16 * kM ranks]^T over one slice to acc. A lane holds
// 8 neighbours of the inner dimension; the two products of a unit take 4 each,
// in the same (permuted) order for x and a.
template <int kM, int kN, int kUnroll>
__device__ __forceinline__ void sum_slice(float (&acc)[kM][kN][4], const bf16 *a, int32_t ranks, const bf16 *x, int32_t rows, int32_t in, int32_t ldx, Slice slice) {
	const int group = (threadIdx.x & 31) >> 2, quad = threadIdx.x & 3;
	const uint4 zero = make_uint4(0, 0, 0, 0);
	for (int32_t k = slice.begin + quad * 8; k - quad * 8 < slice.end; k += 32 * kUnroll) {
		uint4 av[kUnroll][kM][2], xv[kUnroll][kN];
#pragma unroll
		for (int u = 0; u < kUnroll; u++) {
			const int32_t at = k + u * 32;
#pragma unroll
			for (int m = 0; m < 2 * kM; m++) {
				const int32_t r = m * 8 + group;
				av[u][m / 2][m % 2] = at < slice.end && r < ranks ? load16_once(a + static_cast<int64_t>(r) * in + at) : zero;
			}
#pragma unroll
			for (int n = 0; n < kN; n++) {
				const int32_t j = n * 8 + group;
				xv[u][n] = at < slice.end && j < rows ? *reinterpret_cast<const uint4 *>(x + static_cast<int64_t>(j) * ldx + at) : zero;
			}
		}
#pragma unroll
		for (int u = 0; u < kUnroll; u++) {
#pragma unroll
			for (int m = 0; m < kM; m++) {
				const uint4 lo = av[u][m][0], hi = av[u][m][1];
#pragma unroll
				for (int n = 0; n < kN; n++) {
					mma(acc[m][n], lo.x, hi.x, lo.y, hi.y, xv[u][n].x, xv[u][n].y);
					mma(acc[m][n], lo.z, hi.z, lo.w, hi.w, xv[u][n].z, xv[u][n].w);
				}
			}
		}
	}
}

// store_v writes one value of v, split in two bf16, where expand's lanes look
// for it. Two rank tiles share 16-byte loads of b, so their ranks interleave;
// a last tile without a partner keeps plain order.
__device__ __forceinline__ void store_v(void *scratch, const ch_lora_term &t, int32_t tiles, int32_t row, int32_t r, float v) {
	const bool paired = (r / 32) * 2 + 1 < tiles;
	const int32_t tile = paired ? (r / 32) * 2 + (r & 7) / 4 : r / 16;
	const int32_t quad = paired ? (r & 31) / 8 : (r & 15) / 4;
	bf16 *to = reinterpret_cast<bf16 *>(v_tile(scratch, t, row / kTileRows, tile, tiles) + ((row & 7) * 4 + quad) * 16) + (r & 3);
	const bf16 high = __float2bfloat16_rn(v);
	to[0] = high;
	to[4] = __float2bfloat16_rn(v - __bfloat162float(high));
}

// Shrink is one block's share of the items of its cluster. kClusters says
// whether the 8 parts are 8 blocks of a cluster or one block after another.
template <int kM, int kN, int kUnroll, bool kClusters> struct Shrink {
	static constexpr int kValues = kM * kN * 128;
	static constexpr int kOwned = kClusters ? kValues / kShrinkBlocks : kValues;
	static constexpr int kPartial = kShrinkWarps * kValues; // [warp][value], the slices of a block
	static constexpr int kBox = kShrinkBlocks * kOwned;     // [part][owned], the sums of all parts for the values that this block finishes

	const ShrinkArgs &p;
	float *partial;
	uint32_t block;

	// sum_block leaves the sum over this part's 8 slices with every owner.
	__device__ __forceinline__ void sum_block(const ch_lora_term &t, int32_t rank0, int32_t row0, uint32_t part, float *box) {
		const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
		float acc[kM][kN][4] = {};
		sum_slice<kM, kN, kUnroll>(acc, static_cast<const bf16 *>(t.a) + static_cast<int64_t>(rank0) * p.in, t.rank - rank0,
		                           p.x + static_cast<int64_t>(t.row0 + row0) * p.ldx, t.rows - row0, p.in, p.ldx, Slice(p.in, part * kShrinkWarps + warp));
#pragma unroll
		for (int m = 0; m < kM; m++) {
#pragma unroll
			for (int n = 0; n < kN; n++) {
				*reinterpret_cast<float4 *>(partial + warp * kValues + (m * kN + n) * 128 + lane * 4) = make_float4(acc[m][n][0], acc[m][n][1], acc[m][n][2], acc[m][n][3]);
			}
		}
		__syncthreads();
		for (int e = threadIdx.x; e < kValues; e += kShrinkThreads) {
			float sum = partial[e];
#pragma unroll
			for (int w = 1; w < kShrinkWarps; w++) {
				sum += partial[w * kValues + e];
			}
			if constexpr (kClusters) {
				store_remote(box + part * kOwned + e % kOwned, e / kOwned, sum);
			} else {
				box[part * kOwned + e] = sum;
			}
		}
	}

	// finish adds the parts in order and stores this block's values of v.
	__device__ __forceinline__ void finish(const ch_lora_term &t, int32_t rank0, int32_t row0, const float *box) {
		const int32_t tiles = rank_tiles(t.rank), rows = row_tiles(t.rows) * kTileRows;
		for (int i = threadIdx.x; i < kOwned; i += kShrinkThreads) {
			float sum = box[i];
#pragma unroll
			for (int c = 1; c < kShrinkBlocks; c++) {
				sum += box[c * kOwned + i];
			}
			const int e = kClusters ? block * kOwned + i : i;
			const int fragment = e >> 7, lane = (e & 127) >> 2, c = e & 3;
			const int32_t r = rank0 + (fragment / kN) * 16 + (lane >> 2) + (c >> 1) * 8;
			const int32_t row = row0 + (fragment % kN) * 8 + (lane & 3) * 2 + (c & 1);
			if (r < tiles * kTileRank && row < rows) {
				store_v(p.scratch, t, tiles, row, r, sum * t.scale);
			}
		}
	}

	// run needs a box that the item before did not use: slower threads may
	// still read that one.
	__device__ __forceinline__ void run(const ch_lora_term &t, int32_t rank0, int32_t row0, float *box) {
		if constexpr (kClusters) {
			sum_block(t, rank0, row0, block, box);
			cluster_arrive();
			cluster_wait();
		} else {
			for (uint32_t part = 0; part < kShrinkBlocks; part++) {
				sum_block(t, rank0, row0, part, box);
				__syncthreads();
			}
		}
		finish(t, rank0, row0, box);
	}
};

// The tile sizes of a kernel: few for terms of few rows (in a prefill: of few
// ranks), many for the others. They change speed only, never a bit of v.
struct ShrinkDecode {
	static constexpr int kBlocksPerSM = 4;
	static constexpr int kFewM = 1, kFewN = 1, kFewUnroll = 2, kManyM = 1, kManyN = 4, kManyUnroll = 1;
	static __device__ __forceinline__ bool few(const ch_lora_term &t) { return t.rows <= 8; }
};
struct ShrinkPrefill {
	static constexpr int kBlocksPerSM = 2;
	static constexpr int kFewM = 1, kFewN = 8, kFewUnroll = 1, kManyM = 4, kManyN = 4, kManyUnroll = 1;
	static __device__ __forceinline__ bool few(const ch_lora_term &t) { return t.rank <= 16; }
};

template <class Shape, bool kClusters> struct ShrinkParts {
	using Few = Shrink<Shape::kFewM, Shape::kFewN, Shape::kFewUnroll, kClusters>;
	using Many = Shrink<Shape::kManyM, Shape::kManyN, Shape::kManyUnroll, kClusters>;
	static constexpr int kPartial = Few::kPartial > Many::kPartial ? Few::kPartial : Many::kPartial;
	static constexpr int kBox = Few::kBox > Many::kBox ? Few::kBox : Many::kBox;
	static constexpr int kFloats = kPartial + 2 * kBox;
};

// ShrinkTiling cuts one term into items.
template <class Shape> struct ShrinkTiling {
	bool few;
	int32_t rank_step, row_step, across, down;

	__device__ __forceinline__ explicit ShrinkTiling(const ch_lora_term &t) : few(Shape::few(t)) {
		const int m = few ? Shape::kFewM : Shape::kManyM, n = few ? Shape::kFewN : Shape::kManyN;
		rank_step = m * kTileRank;
		row_step = n * kTileRows;
		across = (rank_tiles(true_rank(t)) + m - 1) / m;
		down = (row_tiles(t.rows) + n - 1) / n;
	}
	__device__ __forceinline__ int32_t rank0(int32_t index) const { return index % across * rank_step; }
	__device__ __forceinline__ int32_t row0(int32_t index) const { return index / across * row_step; }
};

// prefetch_a asks for an item's share of a while the kernel before still runs:
// a is a weight and depends on nothing.
__device__ __forceinline__ void prefetch_a(const ShrinkArgs &p, const ch_lora_term &t, int32_t rank0, uint32_t block) {
	const Slice slice(p.in, block * kShrinkWarps + (threadIdx.x >> 5));
	const int32_t r = rank0 + (threadIdx.x & 15);
	if (r < t.rank) {
		for (int32_t k = slice.begin + (threadIdx.x & 16 ? 64 : 0); k < slice.end; k += 128) {
			prefetch_l2(static_cast<const bf16 *>(t.a) + static_cast<int64_t>(r) * p.in + k);
		}
	}
}

template <class Shape, bool kClusters> __global__ void __launch_bounds__(kShrinkThreads, Shape::kBlocksPerSM) shrink_kernel(ShrinkArgs p) {
	using Parts = ShrinkParts<Shape, kClusters>;
	extern __shared__ float shared[]; // partial | box | box | work list
	const uint32_t width = kClusters ? kShrinkBlocks : 1, block = blockIdx.x % width;
	const int32_t step = gridDim.x / width;
	if constexpr (kClusters) {
		cluster_arrive(); // no block writes to another before that one runs
	}
	const int32_t n = min(*p.count, p.max_terms);
	const WorkList work = make_work_list<kShrinkThreads>(reinterpret_cast<int32_t *>(shared + Parts::kFloats), n, [&](int32_t i) {
		const ShrinkTiling<Shape> tiling(p.terms[i]);
		return tiling.across * tiling.down;
	});
	int32_t item = blockIdx.x / width, at = 0;
	if (item < work.items()) {
		at = work.term_of(item, 0);
		prefetch_a(p, p.terms[at], ShrinkTiling<Shape>(p.terms[at]).rank0(item - work.first[at]), block);
	}
	if constexpr (kClusters) {
		cluster_wait();
	}
	wait_for_previous();
	let_next_begin();
	typename Parts::Few few{p, shared, block};
	typename Parts::Many many{p, shared, block};
	float *box = shared + Parts::kPartial, *other = box + Parts::kBox;
	for (; item < work.items(); item += step) {
		at = work.term_of(item, at);
		const ch_lora_term t = p.terms[at];
		const ShrinkTiling<Shape> tiling(t);
		const int32_t index = item - work.first[at];
		if (tiling.few) {
			few.run(t, tiling.rank0(index), tiling.row0(index), box);
		} else {
			many.run(t, tiling.rank0(index), tiling.row0(index), box);
		}
		float *const used = box;
		box = other;
		other = used;
	}
}

} // namespace chorale::lora
