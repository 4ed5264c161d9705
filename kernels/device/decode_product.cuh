// The product of decode rows with a weight, adapters included, in one launch:
//
//	y [rows, out] = x [rows, in] w^T + bias + sum of terms
//
// for at most 64 rows, where reading the weight is what takes time. A block
// owns 32 columns of y per warp; `split` neighbouring blocks share them, each
// with a part of the inner dimension, and add their sums in order. What they
// read streams through a ring, the weight first, then B. Its first stages hold
// weights only and are filled while the launch before still runs.
//
// Where there are adapters, four more warps of each block make v = scale * x A^T
// meanwhile: they wait for memory again and again, which must not hold the ring
// up. Then all blocks must be on the device at once, since a block goes on from
// its base product to expand when all v are there.
//
// Order of sums: fixed by the shapes, the split and the list of terms, so equal
// steps give equal bits; a row's bits may depend on its company.
#pragma once

#include "decode_lora.cuh"

namespace chorale::decode {

// Base is a block's part of the product with the weight.
struct Base {
	int32_t col0, part; // first column; which part of the inner dimension
	int32_t first, stages;

	template <class S> static __device__ __forceinline__ Base of(const DecodeArgs &p) {
		const int32_t part = blockIdx.x % p.split, all = parts_of(p.in, S::kDepth);
		const int32_t first = static_cast<int64_t>(part) * all / p.split;
		return {static_cast<int32_t>(blockIdx.x / p.split) * p.cols, part, first, static_cast<int32_t>(static_cast<int64_t>(part + 1) * all / p.split) - first};
	}
};

// Ring finds the stages in the block's memory.
template <class S> struct Ring {
	char *memory;
	int bytes; // of a stage
	int left;  // of which the rows of warps
	__device__ __forceinline__ char *stage(int i) const { return memory + i % S::kStages * bytes; }
	__device__ __forceinline__ char *rows(int i) const { return stage(i) + threadIdx.x / 32 * kWarpRows * S::kRowBytes; }
	__device__ __forceinline__ char *batch(int i) const { return stage(i) + left; }
};

template <class S> __host__ __device__ constexpr int stage_bytes(int cols) { return cols * S::kRowBytes + S::kBatchBytes; }

// advance makes stage i ready to be used, and its predecessor's room available
// to `fill`, which starts the copies of a later one.
template <class S, class F> __device__ __forceinline__ void advance(int i, int all, int threads, F fill) {
	copies_wait<S::kStages - 2>();
	copies_shown();
	together(kBaseBarrier, threads);
	if (i + S::kStages - 1 < all) {
		fill(i + S::kStages - 1);
	}
	copies_commit();
}

// begin fills the first stages: `left` what no launch before may have made,
// `right` what one has.
template <class S, class L, class R> __device__ __forceinline__ void begin(int all, L left, R right) {
#pragma unroll
	for (int i = 0; i < S::kStages - 1; i++) {
		if (i < all) {
			left(i);
		}
	}
	lora::wait_for_previous();
#pragma unroll
	for (int i = 0; i < S::kStages - 1; i++) {
		if (i < all) {
			right(i);
		}
		copies_commit();
	}
}

// weight_rows is the part of a matrix [rows, pitch] that the warp copies.
__device__ __forceinline__ Operand weight_rows(const DecodeArgs &p, int32_t col0) {
	const int32_t row = col0 + threadIdx.x / 32 * kWarpRows;
	return {row < p.out ? p.w + static_cast<int64_t>(row) * p.in : p.w, p.in, p.out - row};
}

template <class S> __device__ __forceinline__ void base_product(Sums<S> &sums, const DecodeArgs &p, const Base &base, const Ring<S> &ring) {
	const Operand w = weight_rows(p, base.col0), x = {p.x, p.ldx, p.rows};
	const auto left = [&](int i) { copy_rows<S, kWarpRows>(ring.rows(i), w, (base.first + i) * S::kDepth, p.in, 0); };
	const auto right = [&](int i) { copy_batch<S>(ring.batch(i), x, (base.first + i) * S::kDepth, p.in, p.cols); };
	begin<S>(base.stages, left, right);
	sums.clear();
	for (int i = 0; i < base.stages; i++) {
		advance<S>(i, base.stages, p.cols, [&](int next) {
			left(next);
			right(next);
		});
		multiply<S>(sums, ring.stage(i), ring.batch(i), p.cols);
	}
}

// adapted_product is base_product with expand behind it. The lists are needed
// when the last stages of the weight are on their way, not before.
template <class S> __device__ __forceinline__ void adapted_product(Sums<S> &sums, const DecodeArgs &p, const Base &base, const Ring<S> &ring, const Lists &lists) {
	const Operand w = weight_rows(p, base.col0), x = {p.x, p.ldx, p.rows};
	ExpandPlan<S> plan;
	int32_t all = base.stages + 1, filled = 0, used = 0; // filled, used: places in the shares
	const auto left = [&](int i) { copy_rows<S, kWarpRows>(ring.rows(i), w, (base.first + i) * S::kDepth, p.in, 0); };
	const auto right = [&](int i) { copy_batch<S>(ring.batch(i), x, (base.first + i) * S::kDepth, p.in, p.cols); };
	const auto fill = [&](int i) {
		if (i < base.stages) {
			left(i);
			right(i);
			return;
		}
		if (i == base.stages) {
			together(kListBarrier, p.cols + kShrinkWarps * 32);
			plan = ExpandPlan<S>(lists, base.part, p.split);
			all = base.stages + plan.stages;
			if (plan.stages == 0) {
				if (threadIdx.x == 0 && lists.all_ranks() > 0) {
					pass(p.counters);
				}
				return;
			}
		}
		copy_b<S>(ring.rows(i), lists, plan, i - base.stages, filled);
		if (i == base.stages) {
			wait_for_v(p, lists.all_ranks());
		}
		copy_v<S>(ring.batch(i), p, lists, plan, i - base.stages, filled);
	};
	begin<S>(base.stages, left, right);
	sums.clear();
	for (int i = 0; i < base.stages; i++) {
		advance<S>(i, all, p.cols, fill);
		multiply<S>(sums, ring.stage(i), ring.batch(i), p.cols);
	}
	for (int i = base.stages; i < all; i++) {
		advance<S>(i, all, p.cols, fill);
		expand<S>(sums, p, ring.stage(i), ring.batch(i), lists, plan, i - base.stages, used);
	}
	if (lists.head->bias && base.part == 0) {
		add_biases<S>(sums, p, lists.head->terms, base.col0);
	}
}

__device__ __forceinline__ void put4(float *to, float4 v) { *reinterpret_cast<float4 *>(to) = v; }
__device__ __forceinline__ void put4(bf16 *to, float4 v) {
	const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)};
	*reinterpret_cast<uint2 *>(to) = *reinterpret_cast<const uint2 *>(pairs);
}
__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }

// put writes rows [begin, end) of the block's columns; part(row, col) gives
// four sums.
template <class Out, class F> __device__ __forceinline__ void put(const DecodeArgs &p, int32_t col0, int32_t begin, int32_t end, F part) {
	const int32_t across = p.cols / 4;
	const Out *bias = static_cast<const Out *>(p.bias);
	for (int32_t i = threadIdx.x; i < (end - begin) * across; i += p.cols) {
		const int32_t row = begin + i / across, col = i % across * 4;
		if (col0 + col >= p.out) {
			continue;
		}
		float4 v = part(row, col);
		if (bias) {
			const Out *b = bias + col0 + col;
			v = make_float4(v.x + to_float(b[0]), v.y + to_float(b[1]), v.z + to_float(b[2]), v.w + to_float(b[3]));
		}
		put4(static_cast<Out *>(p.y) + static_cast<int64_t>(row) * p.ldy + col0 + col, v);
	}
}

constexpr int kMostSplit = 8;

// last_of_tile leaves this block's sums in the workspace and says whether those
// of all parts are there: then this block adds them.
__device__ __forceinline__ bool last_of_tile(const DecodeArgs &p, const float *tile, int pitch, float *to, uint32_t *flag) {
	const int32_t across = p.cols / 4;
	for (int32_t i = threadIdx.x; i < p.rows * across; i += p.cols) {
		put4(to + i * 4, *reinterpret_cast<const float4 *>(tile + i / across * pitch + i % across * 4));
	}
	together(kBaseBarrier, p.cols);
	if (threadIdx.x == 0) {
		uint32_t *count = &p.counters->tiles[blockIdx.x / p.split];
		fence();
		const bool last = atomicAdd(count, 1u) == static_cast<uint32_t>(p.split - 1);
		fence();
		*flag = last;
		if (last) {
			*count = 0;
		}
	}
	together(kBaseBarrier, p.cols);
	return *flag != 0;
}

// sum_parts adds four sums of all parts, in order; get(s) reads those of one.
template <class F> __device__ __forceinline__ float4 sum_parts(int32_t split, F get) {
	float4 part[kMostSplit]; // all are on their way before the first is needed
#pragma unroll
	for (int s = 0; s < kMostSplit; s++) {
		part[s] = s < split ? get(s) : make_float4(0, 0, 0, 0);
	}
	float4 sum = part[0];
#pragma unroll
	for (int s = 1; s < kMostSplit; s++) {
		sum = add(sum, part[s]);
	}
	return sum;
}

// store_sums lays a block's sums out as [rows][columns].
template <class S> __device__ __forceinline__ void store_sums(float *tile, int pitch, const Sums<S> &sums) {
	const int lane = threadIdx.x & 31;
#pragma unroll
	for (int e = 0; e < 8 * S::kTiles; e++) {
		const int m = e / (4 * S::kTiles), n = e / 4 % S::kTiles, c = e % 4;
		tile[(n * 8 + lane % 4 * 2 + c % 2) * pitch + warp_row(pitch - 4, m) + c / 2 * 8 + lane / 4] = sums.v[m][n][c];
	}
}

// finish adds the parts of a tile and writes y, with the warps that multiplied.
// `tile` is where the ring was.
template <class S, class Out, bool kCluster> __device__ __forceinline__ void finish(const DecodeArgs &p, const Base &base, const float *tile) {
	const int pitch = p.cols + 4;
	if (p.split == 1) {
		put<Out>(p, base.col0, 0, p.rows, [&](int32_t row, int32_t col) { return *reinterpret_cast<const float4 *>(tile + row * pitch + col); });
	} else if constexpr (kCluster) {
		put<Out>(p, base.col0, base.part * p.rows / p.split, (base.part + 1) * p.rows / p.split, [&](int32_t row, int32_t col) {
			return sum_parts(p.split, [&](int s) { return *reinterpret_cast<const float4 *>(of_block(tile + row * pitch + col, s)); });
		});
	} else {
		const int32_t each = p.rows * p.cols;
		float *parts = reinterpret_cast<float *>(p.workspace + kShrinkBytes) + static_cast<int64_t>(blockIdx.x - base.part) * each;
		uint32_t *flag = reinterpret_cast<uint32_t *>(const_cast<float *>(tile) + S::kTiles * 8 * pitch);
		if (last_of_tile(p, tile, pitch, parts + base.part * each, flag)) {
			put<Out>(p, base.col0, 0, p.rows, [&](int32_t row, int32_t col) {
				return sum_parts(p.split, [&](int s) { return load_from_l2(reinterpret_cast<const float4 *>(parts + s * each + row * p.cols + col)); });
			});
		}
	}
}

// A cluster's blocks wait for each other's sums, and before they leave.
template <bool kCluster> __device__ __forceinline__ void meet() {
	if constexpr (kCluster) {
		lora::cluster_arrive();
		lora::cluster_wait();
	}
}

constexpr int most_threads(bool adapters) { return adapters ? 512 : 32 * kMostWarps; } // 512: at most 128 registers

template <class S, class Out, bool kCluster, bool kAdapters> __global__ void __launch_bounds__(most_threads(kAdapters), kAdapters ? 1 : 2) decode_kernel(DecodeArgs p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
	if constexpr (kCluster) {
		return; // never launched
	}
#endif
	lora::let_next_begin();
	char *memory = block_memory();
	const Ring<S> ring = {memory, stage_bytes<S>(p.cols), p.cols * S::kRowBytes};
	const Base base = Base::of<S>(p);
	Sums<S> sums;
	if constexpr (kAdapters) {
		char *beyond = memory + S::kStages * ring.bytes;
		const Lists lists = lists_in(beyond, p.max_terms);
		if (static_cast<int32_t>(threadIdx.x) >= p.cols) {
			make_lists(lists, p, base.col0);
			together(kListBarrier, p.cols + kShrinkWarps * 32);
			lora::wait_for_previous();
			shrink<S>(p, lists, reinterpret_cast<float4 *>(beyond + list_bytes(p.max_terms)));
			meet<kCluster>();
			meet<kCluster>();
			return;
		}
		adapted_product<S>(sums, p, base, ring, lists);
	} else {
		base_product<S>(sums, p, base, ring);
	}
	copies_wait<0>();
	together(kBaseBarrier, p.cols);
	float *tile = reinterpret_cast<float *>(memory);
	store_sums<S>(tile, p.cols + 4, sums);
	together(kBaseBarrier, p.cols);
	meet<kCluster>();
	finish<S, Out, kCluster>(p, base, tile);
	meet<kCluster>();
}

} // namespace chorale::decode
