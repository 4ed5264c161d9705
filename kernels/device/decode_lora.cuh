// The adapters' half of a product of decode rows.
//
// Shrink, v = scale * x A^T, is more rows of the weight: tiles of 16 ranks fill
// the warps, whole batches are multiplied, and what belongs to an adapter's
// rows is kept. The inner dimension of a tile is cut so that all blocks have
// work; who brings the last cut adds them in order and stores v.
//
// Expand, y += v B^T, is more columns of the weight: after its base product a
// block goes on over the ranks that concern its columns.
#pragma once

#include "decode_args.cuh"

namespace chorale::decode {

// ShrinkPlan deals tiles of ranks out: item i is cut i % cuts of tile i / cuts.
struct ShrinkPlan {
	int32_t per;   // tiles of 16 ranks that a block takes at once
	int32_t tiles; // of `per`
	int32_t cuts, items;
	int32_t first, length; // of this block's cut, in stages
	int32_t mine;          // items of this block

	__device__ __forceinline__ ShrinkPlan(int32_t ranks, int32_t steps) {
		const int32_t blocks = gridDim.x, me = blockIdx.x;
		per = blockDim.x / 16;
		tiles = parts_of(ranks, per);
		cuts = tiles == 0 || tiles > blocks ? 1 : least(least(blocks / tiles, parts_of(steps, 4)), kMostCuts);
		items = tiles * cuts;
		mine = items > me ? (items - 1 - me) / blocks + 1 : 0;
		const int32_t cut = me % cuts; // with more than one, a block has at most one item
		first = cuts == 1 ? 0 : cut * steps / cuts;
		length = (cuts == 1 ? steps : (cut + 1) * steps / cuts) - first;
	}
};

// RankTile is 16 ranks of one term; term is null where there is none.
struct RankTile {
	const ch_lora_term *term;
	int32_t index; // in the term
};

__device__ __forceinline__ RankTile rank_tile(const Lists &lists, const ch_lora_term *terms, int32_t index) {
	if (index >= lists.ranks[lists.terms]) {
		return {nullptr, 0};
	}
	const lora::WorkList work = {lists.ranks, lists.terms};
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

// finish_shrink takes the sums of an item.
template <class S> __device__ __forceinline__ void finish_shrink(const DecodeArgs &p, const Lists &lists, const ShrinkPlan &plan, int32_t item, const Sums<S> &sums) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
	const int32_t tile = item / plan.cuts;
	float4 *partial = reinterpret_cast<float4 *>(p.workspace) + (warp * 2 * S::kTiles) * 32 + lane;
	const int64_t each = static_cast<int64_t>(plan.per) * S::kTiles * 32; // of an item
#pragma unroll
	for (int m = 0; m < 2; m++) {
		const RankTile r = rank_tile(lists, p.terms, tile * plan.per + warp * 2 + m);
		if (r.term) {
			each_tile<S>(r.term->row0, r.term->rows, [&](int n) {
				const float(&v)[4] = sums.v[m][n];
				const float4 sum = make_float4(v[0], v[1], v[2], v[3]);
				if (plan.cuts == 1) {
					store_v(p.scratch, r, n, sum);
				} else {
					partial[item * each + (m * S::kTiles + n) * 32] = sum;
				}
			});
		}
	}
	if (plan.cuts > 1) {
		__syncthreads();
		if (threadIdx.x == 0) {
			fence();
			*lists.flag = atomicAdd(&p.counters->cuts[tile], 1u);
			fence();
		}
		__syncthreads();
		if (*lists.flag != static_cast<uint32_t>(plan.cuts - 1)) {
			return;
		}
#pragma unroll
		for (int m = 0; m < 2; m++) {
			const RankTile r = rank_tile(lists, p.terms, tile * plan.per + warp * 2 + m);
			if (r.term) {
				each_tile<S>(r.term->row0, r.term->rows, [&](int n) {
					const float4 *from = partial + tile * plan.cuts * each + (m * S::kTiles + n) * 32;
					float4 part[kMostCuts];
#pragma unroll
					for (int c = 0; c < kMostCuts; c++) {
						part[c] = c < plan.cuts ? load_from_l2(from + c * each) : make_float4(0, 0, 0, 0);
					}
					float4 sum = part[0];
#pragma unroll
					for (int c = 1; c < kMostCuts; c++) {
						sum = make_float4(sum.x + part[c].x, sum.y + part[c].y, sum.z + part[c].z, sum.w + part[c].w);
					}
					store_v(p.scratch, r, n, sum);
				});
			}
		}
	}
	__syncthreads();
	if (threadIdx.x == 0) {
		if (plan.cuts > 1) {
			p.counters->cuts[tile] = 0;
		}
		fence();
		atomicAdd(&p.counters->shrunk, 1u);
	}
}

// pass counts a block that will not look at v's counter again; the last one
// makes the counters ready for the next launch. One thread.
__device__ __forceinline__ void pass(Counters *c) {
	if (atomicAdd(&c->passed, 1u) == gridDim.x - 1) {
		c->passed = 0, c->shrunk = 0;
	}
}

// wait_for_v waits until all tiles of ranks are done, with the whole block.
__device__ __forceinline__ void wait_for_v(Counters *c, int32_t tiles) {
	if (threadIdx.x == 0) {
		while (load_acquire(&c->shrunk) < static_cast<uint32_t>(tiles)) {
			look_again();
		}
		pass(c);
	}
	__syncthreads();
}

// ExpandPlan deals the blocks of 16 ranks of a block's columns out to those who
// share an output tile. A stage takes `each` blocks, their v `span` tiles each.
template <class S> struct ExpandPlan {
	int32_t blocks, each, span;
	int32_t first, stages; // of this block

	__device__ __forceinline__ ExpandPlan(const Lists &lists, int32_t part, int32_t split) {
		constexpr int kRoom = S::kBatchBytes / lora::kTileBytes;
		blocks = lists.blocks[lists.shares];
		span = least(lists.widest, S::kTiles);
		each = least(4, kRoom / span);
		const int32_t all = parts_of(blocks, each);
		first = part * all / split;
		stages = (part + 1) * all / split - first;
	}
};

// find moves a place in the list of shares on to the one that has a block.
__device__ __forceinline__ void find(const Lists &lists, int32_t block, int32_t &at) {
	while (at + 1 < lists.shares && lists.blocks[at + 1] <= block) {
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

// copy_v copies the v of a stage with the whole block. `at` is as in copy_b,
// which comes before.
template <class S> __device__ __forceinline__ void copy_v(char *to, const char *scratch, const Lists &lists, const ExpandPlan<S> &plan, int32_t stage, int32_t at) {
	for (int j = 0; j < plan.each; j++) {
		const int32_t block = (plan.first + stage) * plan.each + j, share = __shfl_sync(~0u, at, j * 2);
		if (block >= plan.blocks) {
			return;
		}
		const Share &s = lists.share[share];
		const char *from = scratch + (static_cast<int64_t>(s.v) + block - lists.blocks[share]) * lora::kTileBytes;
		for (int i = threadIdx.x; i < s.tiles() * 32; i += blockDim.x) {
			copy16(to + (j * plan.span * 32 + i) * 16, from + i / 32 * s.rank_tiles() * lora::kTileBytes + i % 32 * 16, true);
		}
	}
}

// expand adds the product of a stage; `at` is the block's place in the shares.
template <class S> __device__ __forceinline__ void expand(Sums<S> &sums, const char *rows, const char *v, const Lists &lists, const ExpandPlan<S> &plan, int32_t stage, int32_t &at) {
	const int lane = threadIdx.x & 31;
	for (int j = 0; j < plan.each; j++) {
		const int32_t block = (plan.first + stage) * plan.each + j;
		if (block >= plan.blocks) {
			return;
		}
		find(lists, block, at);
		const Share &s = lists.share[at];
		const uint4 a[2] = {left<S>(rows, 0, j), left<S>(rows, 1, j)};
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
			const int32_t col = col0 + threadIdx.x / 32 * kWarpRows + e * 8 + lane / 4 - t.col;
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
