// The adapters' half of a product of decode rows.
//
// Shrink, v = scale * x A^T: a block's shrink warps take tiles of 16 ranks of
// one term, its rows alone. The inner dimension of a tile is cut so that all
// blocks have work; who brings the last cut adds them in order and stores v.
//
// Expand, y += v B^T, is more columns of the weight: after its base product a
// block goes on over the ranks that concern its columns.
#pragma once

#include "decode_args.cuh"

namespace chorale::decode {

// ShrinkPlan deals tiles of 16 ranks out: item i is cut i % cuts of tile i / cuts.
struct ShrinkPlan {
	int32_t cuts, items;
	__device__ __forceinline__ ShrinkPlan(int32_t ranks, int32_t in) {
		const int32_t blocks = gridDim.x;
		cuts = ranks == 0 || ranks >= blocks ? 1 : least(least(parts_of(blocks, ranks), most(1, in / 256)), kMostCuts);
		items = ranks * cuts;
	}
};

// RankTile is 16 ranks of one term; term is null where there is none.
struct RankTile {
	const ch_lora_term *term;
	int32_t index; // in the term
};

__device__ __forceinline__ RankTile rank_tile(const Lists &lists, const ch_lora_term *terms, int32_t index) {
	if (index >= lists.all_ranks()) {
		return {nullptr, 0};
	}
	const lora::WorkList work = {lists.ranks, static_cast<int32_t>(lists.head->terms)};
	const int32_t t = work.term_of(index, 0);
	return {terms + t, index - lists.ranks[t]};
}

// store_v writes a 16 x 8 tile of v, split in two bf16, as the right operands
// of expand: per lane {high k0 k1, high k8 k9, low k0 k1, low k8 k9}.
__device__ __forceinline__ void store_v(char *scratch, const RankTile &r, int n, float4 sum) {
	const ch_lora_term &t = *r.term;
	const int lane = threadIdx.x & 31;
	const int32_t tile = 2 * t.s + (n - t.row0 / 8) * lora::rank_tiles(t.rank) + r.index;
	char *at = scratch + static_cast<int64_t>(tile) * lora::kTileBytes + lane / 8 * 16 + lane / 4 % 2 * 2;
	const float v[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
	for (int c = 0; c < 4; c++) {
		const int row = lane % 4 * 2 + c % 2;
		const bool inside = n * 8 + row >= t.row0 && n * 8 + row < t.row0 + t.rows;
		const float value = inside ? v[c] * t.scale : 0;
		const bf16 high = __float2bfloat16_rn(value);
		char *to = at + row * 64 + c / 2 * 4;
		*reinterpret_cast<bf16 *>(to) = high;
		*reinterpret_cast<bf16 *>(to + 8) = __float2bfloat16_rn(value - __bfloat162float(high));
	}
}

// each_tile calls f(n) for the row tiles of some rows, with n known when compiled.
template <class S, class F> __device__ __forceinline__ void each_tile(int32_t row0, int32_t rows, F f) {
	const int first = row0 / 8, last = (row0 + rows - 1) / 8;
#pragma unroll
	for (int n = 0; n < S::kTiles; n++) {
		if (n >= first && n <= last) {
			f(n);
		}
	}
}

// sum_ranks adds a [16 ranks] · x [8 kN rows]^T over columns [begin, end), in
// units of 32. a and x point to the lane's first row; `ranks` and `rows` say how
// many there are from there on. A lane holds 8 neighbours of a row; the two
// products of a unit take 4 each, in the same order for x and a.
template <int kN, int kUnroll> __device__ __forceinline__ void sum_ranks(float (&sums)[kN][4], const bf16 *a, int32_t in, int32_t ranks, const bf16 *x, int32_t ldx, int32_t rows, int32_t begin, int32_t end) {
	const uint4 zero = make_uint4(0, 0, 0, 0);
	for (int32_t k = begin; k < end; k += 32 * kUnroll) {
		uint4 av[kUnroll][2], xv[kUnroll][kN];
#pragma unroll
		for (int u = 0; u < kUnroll; u++) {
			const int32_t at = k + u * 32 + threadIdx.x % 4 * 8;
#pragma unroll
			for (int h = 0; h < 2; h++) {
				av[u][h] = at < end && ranks > h * 8 ? lora::load16_once(a + h * 8 * static_cast<int64_t>(in) + at) : zero;
			}
#pragma unroll
			for (int n = 0; n < kN; n++) {
				xv[u][n] = at < end && n * 8 < rows ? *reinterpret_cast<const uint4 *>(x + n * 8 * static_cast<int64_t>(ldx) + at) : zero;
			}
		}
#pragma unroll
		for (int u = 0; u < kUnroll; u++) {
#pragma unroll
			for (int n = 0; n < kN; n++) {
				lora::mma(sums[n], av[u][0].x, av[u][1].x, av[u][0].y, av[u][1].y, xv[u][n].x, xv[u][n].y);
				lora::mma(sums[n], av[u][0].z, av[u][1].z, av[u][0].w, av[u][1].w, xv[u][n].z, xv[u][n].w);
			}
		}
	}
}

// sum_item leaves a warp's sums of an item, [row tiles][32 lanes], in `to`.
template <int kN, int kUnroll> __device__ __forceinline__ void sum_item(float4 *to, const DecodeArgs &p, const RankTile &r, int32_t begin, int32_t end) {
	const ch_lora_term &t = *r.term;
	const int lane = threadIdx.x & 31, group = lane / 4;
	const int32_t row = t.row0 / 8 * 8 + group; // whole tiles: rows of others do no harm
	float sums[kN][4] = {};
	const bf16 *a = static_cast<const bf16 *>(t.a) + (static_cast<int64_t>(r.index) * 16 + group) * p.in;
	sum_ranks<kN, kUnroll>(sums, a, p.in, t.rank - r.index * 16 - group, p.x + static_cast<int64_t>(row) * p.ldx, p.ldx, p.rows - row, begin, end);
#pragma unroll
	for (int n = 0; n < kN; n++) {
		to[n * 32 + lane] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
	}
}

__device__ __forceinline__ float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// last_cut says whether this block brings the last cut of a tile.
__device__ __forceinline__ bool last_cut(const DecodeArgs &p, const ShrinkPlan &plan, int32_t tile, bool first_thread, uint32_t *word) {
	together(kShrinkBarrier, kShrinkWarps * 32);
	if (first_thread) {
		fence();
		const bool last = atomicAdd(&p.counters->cuts[tile], 1u) == static_cast<uint32_t>(plan.cuts - 1);
		fence();
		*word = last;
		if (last) {
			p.counters->cuts[tile] = 0;
		}
	}
	together(kShrinkBarrier, kShrinkWarps * 32);
	return *word != 0;
}

// pass says once that the block takes no more items, and once that it does not
// look at v's counter again; the last one makes the counters ready for the next
// launch. One thread.
__device__ __forceinline__ void pass(Counters *c) {
	if (atomicAdd(&c->passed, 1u) == 2 * gridDim.x - 1) {
		c->passed = 0, c->shrunk = 0, c->taken = 0;
	}
}

// shrink makes v, with the shrink warps. `memory` holds [warps][row tiles][32].
// Blocks take items as they come, so those that are on the device do them all,
// and nobody ever waits for a block that is not.
template <class S> __device__ __forceinline__ void shrink(const DecodeArgs &p, const Lists &lists, float4 *memory) {
	const int thread = threadIdx.x - p.cols, warp = thread / 32, lane = thread & 31;
	const ShrinkPlan plan(lists.all_ranks(), p.in);
	if (plan.items == 0) {
		return;
	}
	uint32_t next = thread == 0 ? atomicAdd(&p.counters->taken, 1u) : 0;
	while (true) {
		if (thread == 0) {
			lists.head->item = next;
		}
		together(kShrinkBarrier, kShrinkWarps * 32);
		const int32_t item = lists.head->item;
		if (item >= plan.items) {
			break;
		}
		next = thread == 0 ? atomicAdd(&p.counters->taken, 1u) : 0;
		const int32_t tile = item / plan.cuts;
		const RankTile r = rank_tile(lists, p.terms, tile);
		const int32_t units = parts_of(p.in, 32), parts = plan.cuts * kShrinkWarps, part = item % plan.cuts * kShrinkWarps + warp;
		const int32_t begin = static_cast<int64_t>(part) * units / parts * 32, end = least(p.in, static_cast<int64_t>(part + 1) * units / parts * 32);
		const int first = r.term->row0 / 8, tiles = (r.term->row0 + r.term->rows - 1) / 8 - first + 1;
		float4 *mine = memory + warp * S::kTiles * 32;
		if (tiles == 1) {
			sum_item<1, 6>(mine, p, r, begin, end);
		} else if constexpr (S::kTiles > 1) {
			if (tiles == 2) {
				sum_item<2, 4>(mine, p, r, begin, end);
			} else {
				sum_item<S::kTiles, (S::kTiles > 4 ? 1 : 2)>(mine, p, r, begin, end);
			}
		}
		together(kShrinkBarrier, kShrinkWarps * 32);
		float4 *partial = reinterpret_cast<float4 *>(p.workspace) + lane;
		for (int n = warp; n < tiles; n += kShrinkWarps) {
			float4 sum = memory[n * 32 + lane];
#pragma unroll
			for (int w = 1; w < kShrinkWarps; w++) {
				sum = add(sum, memory[(w * S::kTiles + n) * 32 + lane]);
			}
			if (plan.cuts == 1) {
				store_v(p.scratch, r, first + n, sum);
			} else {
				partial[(item * S::kTiles + n) * 32] = sum;
			}
		}
		if (plan.cuts > 1) {
			if (!last_cut(p, plan, tile, thread == 0, &lists.head->last)) {
				continue;
			}
			for (int n = warp; n < tiles; n += kShrinkWarps) {
				float4 cut[kMostCuts];
#pragma unroll
				for (int c = 0; c < kMostCuts; c++) {
					cut[c] = c < plan.cuts ? load_from_l2(partial + ((tile * plan.cuts + c) * S::kTiles + n) * 32) : make_float4(0, 0, 0, 0);
				}
#pragma unroll
				for (int c = 1; c < kMostCuts; c++) {
					cut[0] = add(cut[0], cut[c]);
				}
				store_v(p.scratch, r, first + n, cut[0]);
			}
		}
		together(kShrinkBarrier, kShrinkWarps * 32);
		if (thread == 0) {
			fence();
			atomicAdd(&p.counters->shrunk, 1u);
		}
	}
	if (thread == 0) {
		pass(p.counters);
	}
}

// wait_for_v waits until all tiles of ranks are done, with the base's warps.
__device__ __forceinline__ void wait_for_v(const DecodeArgs &p, int32_t ranks) {
	if (threadIdx.x == 0) {
		for (uint32_t times = 0; load_acquire(&p.counters->shrunk) < static_cast<uint32_t>(ranks); times++) {
			look_again(times);
		}
		pass(p.counters);
	}
	together(kBaseBarrier, p.cols);
}

// ExpandPlan deals the blocks of 16 ranks of a block's columns out to those who
// share an output tile. A stage takes `each` blocks, their v `span` tiles each.
template <class S> struct ExpandPlan {
	int32_t blocks, each, span;
	int32_t first, stages; // of this block

	__device__ __forceinline__ ExpandPlan() : blocks(0), each(1), span(1), first(0), stages(0) {}
	__device__ __forceinline__ ExpandPlan(const Lists &lists, int32_t part, int32_t split) {
		constexpr int kRoom = S::kBatchBytes / lora::kTileBytes;
		blocks = lists.blocks[lists.head->shares];
		span = least(lists.head->widest, S::kTiles);
		each = least(4, kRoom / span);
		const int32_t all = parts_of(blocks, each);
		first = part * all / split;
		stages = (part + 1) * all / split - first;
	}
};

// find moves a place in the list of shares on to the one that has a block.
__device__ __forceinline__ void find(const Lists &lists, int32_t block, int32_t &at) {
	while (at + 1 < static_cast<int32_t>(lists.head->shares) && lists.blocks[at + 1] <= block) {
		at++;
	}
}

// copy_b copies the ranks of a stage for the warp's columns. A lane copies one
// block's half row of every row that it has; `at` is its place in the shares.
template <class S> __device__ __forceinline__ void copy_b(char *to, const Lists &lists, const ExpandPlan<S> &plan, int32_t stage, int32_t &at) {
	constexpr int kStep = 32 / S::kChunks;
	const int lane = threadIdx.x & 31, chunk = lane % S::kChunks, row0 = lane / S::kChunks;
	const int32_t block = (plan.first + stage) * plan.each + chunk / 2;
	if (chunk / 2 >= plan.each || block >= plan.blocks) {
		return;
	}
	find(lists, block, at);
	const Share s = lists.share[at];
	const int32_t rank = (block - lists.blocks[at]) * 16 + chunk % 2 * 8;
#pragma unroll 4
	for (int i = 0; i < kWarpRows / kStep; i++) {
		const int row = row0 + i * kStep, col = threadIdx.x / 32 * kWarpRows + row;
		const bool there = col >= s.from && col < s.to && rank < s.ldb;
		const bf16 *from = there ? s.b + static_cast<int64_t>(col) * s.ldb + rank : s.b;
		char *place = to + chunk_at<S>(row, chunk);
		if (s.ldb % 8 == 0) {
			copy16(place, from, there);
		} else {
			const bool second = there && rank + 4 < s.ldb;
			copy8(place, from, there);
			copy8(place + 8, second ? from + 4 : from, second);
		}
	}
}

// copy_v copies the v of a stage, with the base's warps. `at` is copy_b's, which
// comes before: lane 2 j has the place of block j.
template <class S> __device__ __forceinline__ void copy_v(char *to, const DecodeArgs &p, const Lists &lists, const ExpandPlan<S> &plan, int32_t stage, int32_t at) {
	for (int j = 0; j < plan.each; j++) {
		const int32_t block = (plan.first + stage) * plan.each + j, share = __shfl_sync(~0u, at, j * 2);
		if (block >= plan.blocks) {
			return;
		}
		const Share &s = lists.share[share];
		const char *from = p.scratch + (static_cast<int64_t>(s.v) + block - lists.blocks[share]) * lora::kTileBytes;
		for (int i = threadIdx.x; i < s.tiles() * 32; i += p.cols) {
			copy16(to + (j * plan.span * 32 + i) * 16, from + i / 32 * s.rank_tiles() * lora::kTileBytes + i % 32 * 16, true);
		}
	}
}

// expand adds the product of a stage; `at` is the block's place in the shares.
template <class S> __device__ __forceinline__ void expand(Sums<S> &sums, const DecodeArgs &p, const char *rows, const char *v, const Lists &lists, const ExpandPlan<S> &plan, int32_t stage, int32_t &at) {
	const int lane = threadIdx.x & 31;
	for (int j = 0; j < plan.each; j++) {
		const int32_t block = (plan.first + stage) * plan.each + j;
		if (block >= plan.blocks) {
			return;
		}
		find(lists, block, at);
		const Share &s = lists.share[at];
		const uint4 a[2] = {left<S>(rows, warp_row(p.cols, 0), j), left<S>(rows, warp_row(p.cols, 1), j)};
		const char *from = v + (j * plan.span - s.first_tile()) * lora::kTileBytes + lane * 16;
		each_tile<S>(s.row0, s.rows, [&](int n) {
			const uint4 b = *reinterpret_cast<const uint4 *>(from + n * lora::kTileBytes);
#pragma unroll
			for (int m = 0; m < 2; m++) {
				lora::mma(sums.v[m][n], a[m].x, a[m].y, a[m].z, a[m].w, b.x, b.y);
				lora::mma(sums.v[m][n], a[m].x, a[m].y, a[m].z, a[m].w, b.z, b.w);
			}
		});
	}
}

// add_biases adds what terms bring beside their product.
template <class S> __device__ __forceinline__ void add_biases(Sums<S> &sums, const DecodeArgs &p, int32_t terms, int32_t col0) {
	const int lane = threadIdx.x & 31;
	for (int32_t i = 0; i < terms; i++) {
		const ch_lora_term &t = p.terms[i];
		if (!t.bias || t.rows <= 0) {
			continue;
		}
#pragma unroll
		for (int e = 0; e < 4; e++) { // [m][upper half]
			const int32_t col = col0 + warp_row(p.cols, e / 2) + e % 2 * 8 + lane / 4 - t.col;
			const float bias = col >= 0 && col < t.out ? t.bias[col] : 0;
			each_tile<S>(t.row0, t.rows, [&](int n) {
#pragma unroll
				for (int c = 0; c < 2; c++) {
					const int row = n * 8 + lane % 4 * 2 + c;
					sums.v[e / 2][n][e % 2 * 2 + c] += row >= t.row0 && row < t.row0 + t.rows ? bias : 0;
				}
			});
		}
	}
}

} // namespace chorale::decode
