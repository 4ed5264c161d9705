// Shrink: v = scale * x a^T, for every term of a linear layer.
//
// A cluster of 8 blocks owns kM tiles of 16 ranks and up to 8 * kN rows over
// the whole inner dimension: each of its 64 warps sums one fixed slice of it,
// the slices of a block are added in order, then the sums of the blocks. Blocks
// send each other their sums without a barrier, and go on. So a value of v depends on
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

// RankTile is 16 ranks of one term.
struct RankTile {
	const ch_lora_term *term; // null: nothing there
	int32_t rank0;
};

// Rows are the rows of x that an item's rank tiles share.
struct Rows {
	int32_t term_row0, begin, end; // rows begin .. end-1 of the term
};

// sum_slice adds x[8 * kN rows] · a[16 * kM ranks]^T over one slice to acc. A
// lane holds 8 neighbours of the inner dimension; the two products of a unit
// take 4 each, in the same (permuted) order for x and a.
template <int kM, int kN, int kUnroll>
__device__ __forceinline__ void sum_slice(float (&acc)[kM][kN][4], const ShrinkArgs &p, const RankTile (&tiles)[kM], Rows rows, Slice slice) {
	const int group = (threadIdx.x & 31) >> 2, quad = threadIdx.x & 3;
	const uint4 zero = make_uint4(0, 0, 0, 0);
	const bf16 *a[kM];
	int32_t ranks[kM];
#pragma unroll
	for (int m = 0; m < kM; m++) {
		const ch_lora_term *t = tiles[m].term;
		a[m] = t ? static_cast<const bf16 *>(t->a) + static_cast<int64_t>(tiles[m].rank0 + group) * p.in : nullptr;
		ranks[m] = t ? t->rank - tiles[m].rank0 - group : 0;
	}
	const bf16 *x = p.x + static_cast<int64_t>(rows.term_row0 + rows.begin + group) * p.ldx;
	const int32_t below = rows.end - rows.begin - group;
	for (int32_t k = slice.begin + quad * 8; k - quad * 8 < slice.end; k += 32 * kUnroll) {
		uint4 av[kUnroll][kM][2], xv[kUnroll][kN];
#pragma unroll
		for (int u = 0; u < kUnroll; u++) {
			const int32_t at = k + u * 32;
#pragma unroll
			for (int m = 0; m < kM; m++) {
				av[u][m][0] = at < slice.end && ranks[m] > 0 ? load16_once(a[m] + at) : zero;
				av[u][m][1] = at < slice.end && ranks[m] > 8 ? load16_once(a[m] + at + 8 * p.in) : zero;
			}
#pragma unroll
			for (int n = 0; n < kN; n++) {
				xv[u][n] = at < slice.end && n * 8 < below ? *reinterpret_cast<const uint4 *>(x + n * 8 * p.ldx + at) : zero;
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

// Turn is what a block needs for one item: it alternates between two sets, as
// slower threads still read those of the item before.
struct Turn {
	float *partial;    // [warp][value], the slices of this block
	float *box;        // [part][owned], the sums of all parts for the values that this block finishes
	uint64_t *mailbox; // counts what arrives in box
	uint32_t parity;
};

// Shrink is one block's share of an item. kClusters says whether the 8 parts
// are 8 blocks of a cluster or one block after another.
template <int kM, int kN, int kUnroll, bool kClusters> struct Shrink {
	static constexpr int kValues = kM * kN * 128;
	static constexpr int kOwned = kClusters ? kValues / kShrinkBlocks : kValues;
	static constexpr int kPartial = kShrinkWarps * kValues;
	static constexpr int kBox = kShrinkBlocks * kOwned;

	// sum_part leaves the sum over a part's 8 slices with its owners.
	static __device__ __forceinline__ void sum_part(const ShrinkArgs &p, const RankTile (&tiles)[kM], Rows rows, uint32_t part, const Turn &turn) {
		const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
		float acc[kM][kN][4] = {};
		sum_slice<kM, kN, kUnroll>(acc, p, tiles, rows, Slice(p.in, part * kShrinkWarps + warp));
#pragma unroll
		for (int i = 0; i < kM * kN; i++) {
			const float *v = acc[i / kN][i % kN];
			*reinterpret_cast<float4 *>(turn.partial + warp * kValues + i * 128 + lane * 4) = make_float4(v[0], v[1], v[2], v[3]);
		}
		__syncthreads();
		for (int e = threadIdx.x * 4; e < kValues; e += kShrinkThreads * 4) {
			float4 sum = *reinterpret_cast<const float4 *>(turn.partial + e);
#pragma unroll
			for (int w = 1; w < kShrinkWarps; w++) {
				const float4 v = *reinterpret_cast<const float4 *>(turn.partial + w * kValues + e);
				sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
			}
			if constexpr (kClusters) {
				post(turn.box + part * kOwned + e % kOwned, turn.mailbox, e / kOwned, sum);
			} else {
				*reinterpret_cast<float4 *>(turn.box + part * kOwned + e) = sum;
			}
		}
	}

	// finish adds the parts in order and stores this block's values of v.
	static __device__ __forceinline__ void finish(const ShrinkArgs &p, const RankTile (&tiles)[kM], Rows rows, uint32_t block, const float *box) {
		for (int i = threadIdx.x; i < kOwned; i += kShrinkThreads) {
			float sum = box[i];
#pragma unroll
			for (int c = 1; c < kShrinkBlocks; c++) {
				sum += box[c * kOwned + i];
			}
			const int e = kClusters ? block * kOwned + i : i;
			const int fragment = e >> 7, lane = (e & 127) >> 2, c = e & 3;
			RankTile tile = tiles[0];
#pragma unroll
			for (int m = 1; m < kM; m++) {
				if (fragment / kN == m) {
					tile = tiles[m];
				}
			}
			const int32_t row = rows.begin + (fragment % kN) * 8 + (lane & 3) * 2 + (c & 1);
			if (tile.term && row < row_tiles(rows.end) * kTileRows) {
				const int32_t r = tile.rank0 + (lane >> 2) + (c >> 1) * 8;
				store_v(p.scratch, *tile.term, rank_tiles(tile.term->rank), row, r, sum * tile.term->scale);
			}
		}
	}

	static __device__ __forceinline__ void run(const ShrinkArgs &p, const RankTile (&tiles)[kM], Rows rows, uint32_t block, const Turn &turn) {
		if constexpr (kClusters) {
			if (threadIdx.x == 0) {
				mailbox_expect(turn.mailbox, kBox * sizeof(float));
			}
			sum_part(p, tiles, rows, block, turn);
			if (threadIdx.x < kOwned) { // the others go on to the next item
				mailbox_wait(turn.mailbox, turn.parity);
			}
		} else {
			for (uint32_t part = 0; part < kShrinkBlocks; part++) {
				sum_part(p, tiles, rows, part, turn);
				__syncthreads();
			}
		}
		finish(p, tiles, rows, block, turn.box);
	}
};

// The tile sizes of a kernel: few for terms of few rows (in a prefill: of few
// ranks), many for the others. They change speed only, never a bit of v. With
// kGroups the terms of one adapter share their reads of x.
struct ShrinkDecode {
	static constexpr bool kGroups = false;
	static constexpr int kBlocksPerSM = 4;
	static constexpr int kFewM = 1, kFewN = 1, kFewUnroll = 2, kManyM = 1, kManyN = 2, kManyUnroll = 2;
};
struct ShrinkPrefill {
	static constexpr bool kGroups = true;
	static constexpr int kBlocksPerSM = 2;
	static constexpr int kFewM = 1, kFewN = 8, kFewUnroll = 1, kManyM = 4, kManyN = 4, kManyUnroll = 1;
};

template <class Shape, bool kClusters> struct ShrinkParts {
	using Few = Shrink<Shape::kFewM, Shape::kFewN, Shape::kFewUnroll, kClusters>;
	using Many = Shrink<Shape::kManyM, Shape::kManyN, Shape::kManyUnroll, kClusters>;
	static constexpr int kPartial = Few::kPartial > Many::kPartial ? Few::kPartial : Many::kPartial;
	static constexpr int kBox = Few::kBox > Many::kBox ? Few::kBox : Many::kBox;
	static constexpr int kTurn = kPartial + kBox;
	static constexpr int kFloats = 2 * kTurn + 4; // and two mailboxes
};

// ShrinkTiling cuts a term, or the terms of one adapter, into items.
template <class Shape> struct ShrinkTiling {
	bool few;
	int32_t across, down;

	__device__ __forceinline__ ShrinkTiling(const ch_lora_term *terms, int32_t i, int32_t n) {
		const int32_t rows = terms[i].rows;
		int32_t ranks = rank_tiles(true_rank(terms[i]));
		if constexpr (Shape::kGroups) {
			for (int32_t j = i + 1; j < n && !leads(terms, j); j++) {
				ranks += rank_tiles(true_rank(terms[j]));
			}
			few = ranks <= 1;
		} else {
			few = rows <= 8;
		}
		const int m = few ? Shape::kFewM : Shape::kManyM, tall = few ? Shape::kFewN : Shape::kManyN;
		across = (ranks + m - 1) / m;
		down = (row_tiles(rows) + tall - 1) / tall;
	}
};

// rank_tiles_of finds kM rank tiles of a term, or of the terms from it on that
// have its rows, starting with tile number skip.
template <bool kGroups, int kM> __device__ __forceinline__ void rank_tiles_of(RankTile (&tiles)[kM], const ch_lora_term *terms, int32_t i, int32_t n, int32_t skip) {
	if constexpr (!kGroups) {
		static_assert(kM == 1);
		tiles[0] = {terms + i, skip * kTileRank};
	} else {
#pragma unroll
		for (int m = 0; m < kM; m++) {
			while (i < n && skip >= rank_tiles(true_rank(terms[i]))) {
				skip -= rank_tiles(true_rank(terms[i]));
				i = i + 1 < n && !leads(terms, i + 1) ? i + 1 : n;
			}
			tiles[m] = i < n ? RankTile{terms + i, skip * kTileRank} : RankTile{nullptr, 0};
			skip++;
		}
	}
}

// prefetch_a asks for a block's share of a while the kernel before still runs:
// a is a weight and depends on nothing.
__device__ __forceinline__ void prefetch_a(const ShrinkArgs &p, RankTile tile, uint32_t part) {
	const Slice slice(p.in, part * kShrinkWarps + (threadIdx.x >> 5));
	const int32_t r = tile.rank0 + (threadIdx.x & 15);
	if (tile.term && r < tile.term->rank) {
		for (int32_t k = slice.begin + (threadIdx.x & 16 ? 64 : 0); k < slice.end; k += 128) {
			prefetch_l2(static_cast<const bf16 *>(tile.term->a) + static_cast<int64_t>(r) * p.in + k);
		}
	}
}

template <class Shape, bool kClusters> struct ShrinkBlock {
	using Parts = ShrinkParts<Shape, kClusters>;
	const ShrinkArgs &p;
	int32_t n;
	uint32_t block;

	// run computes item `index` of the terms at `at`.
	__device__ __forceinline__ void run(int32_t at, int32_t index, const Turn &turn) const {
		const ShrinkTiling<Shape> tiling(p.terms, at, n);
		const int32_t down = index / tiling.across, across = index % tiling.across;
		if (tiling.few) {
			part<typename Parts::Few, Shape::kFewM, Shape::kFewN>(at, down, across, turn);
		} else {
			part<typename Parts::Many, Shape::kManyM, Shape::kManyN>(at, down, across, turn);
		}
	}

	template <class Part, int kM, int kN> __device__ __forceinline__ void part(int32_t at, int32_t down, int32_t across, const Turn &turn) const {
		RankTile tiles[kM];
		rank_tiles_of<Shape::kGroups>(tiles, p.terms, at, n, across * kM);
		const ch_lora_term &t = p.terms[at];
		Part::run(p, tiles, Rows{t.row0, down * kN * kTileRows, t.rows}, block, turn);
	}
};

template <class Shape, bool kClusters> __global__ void __launch_bounds__(kShrinkThreads, Shape::kBlocksPerSM) shrink_kernel(ShrinkArgs p) {
	using Parts = ShrinkParts<Shape, kClusters>;
	extern __shared__ float shared[]; // turn | turn | mailboxes | work list
	const uint32_t width = kClusters ? kShrinkBlocks : 1, block = blockIdx.x % width;
	uint64_t *mailboxes = reinterpret_cast<uint64_t *>(shared + 2 * Parts::kTurn);
	let_next_begin();
	if constexpr (kClusters) {
		if (threadIdx.x < 2) {
			mailbox_init(mailboxes + threadIdx.x);
		}
		cluster_arrive(); // no block writes to another before that one is ready
	}
	const int32_t n = term_count(p.terms, p.count, p.max_terms);
	const WorkList work = make_work_list<kShrinkThreads>(reinterpret_cast<int32_t *>(shared + Parts::kFloats), n, [&](int32_t i) {
		if (Shape::kGroups && !leads(p.terms, i)) {
			return 0;
		}
		const ShrinkTiling<Shape> tiling(p.terms, i, n);
		return tiling.across * tiling.down;
	});
	int32_t item = blockIdx.x / width, at = 0;
	if (item < work.items()) {
		at = work.term_of(item, 0);
		RankTile first[1];
		rank_tiles_of<Shape::kGroups>(first, p.terms, at, n, (item - work.first[at]) % ShrinkTiling<Shape>(p.terms, at, n).across);
		prefetch_a(p, first[0], block);
	}
	if constexpr (kClusters) {
		cluster_wait();
	}
	if (item >= work.items() && blockIdx.x >= width) {
		return; // the first cluster stays: one kernel never ends before the one before it
	}
	wait_for_previous();
	const ShrinkBlock<Shape, kClusters> self{p, n, block};
	for (uint32_t turn = 0; item < work.items(); item += gridDim.x / width, turn++) {
		at = work.term_of(item, at);
		float *partial = shared + (turn & 1) * Parts::kTurn;
		self.run(at, item - work.first[at], Turn{partial, partial + Parts::kPartial, mailboxes + (turn & 1), (turn >> 1) & 1});
	}
}

} // namespace chorale::lora
