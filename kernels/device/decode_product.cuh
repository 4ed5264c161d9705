// The product of decode rows with a weight, adapters included, in one launch:
//
//	y [rows, out] = x [rows, in] w^T + bias + sum of terms
//
// for at most 64 rows, where reading the weight is what takes time. A block
// owns 32 columns of y per warp; `split` neighbouring blocks share them, each
// with a part of the inner dimension, and add their sums in order. Everything
// that is read streams through one ring: A, then the weight, then B, so the
// memory bus is never idle while one part waits for another. The first stages
// hold weights only and are filled while the launch before still runs.
//
// With adapters all blocks must be on the device at once: expand waits for v,
// which other blocks made before they began their own base product.
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
		return {static_cast<int32_t>(blockIdx.x / p.split * blockDim.x), part, first, static_cast<int32_t>(static_cast<int64_t>(part + 1) * all / p.split) - first};
	}
};

// Ring finds the stages in the block's memory.
template <class S> struct Ring {
	char *memory;
	int bytes; // of a stage
	__device__ __forceinline__ char *stage(int i) const { return memory + i % S::kStages * bytes; }
	__device__ __forceinline__ char *rows(int i) const { return stage(i) + threadIdx.x / 32 * kWarpRows * S::kRowBytes; }
	__device__ __forceinline__ char *batch(int i) const { return stage(i) + blockDim.x * S::kRowBytes; }
};

template <class S> __host__ __device__ constexpr int stage_bytes(int threads) { return threads * S::kRowBytes + S::kBatchBytes; }

// advance makes stage i ready to be used, and its predecessor's room available
// to `fill`, which starts the copies of a later one.
template <class S, class F> __device__ __forceinline__ void advance(int i, int all, F fill) {
	copies_wait<S::kStages - 2>();
	__syncthreads();
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
	const auto right = [&](int i) { copy_batch<S>(ring.batch(i), x, (base.first + i) * S::kDepth, p.in); };
	begin<S>(base.stages, left, right);
	sums.clear();
	for (int i = 0; i < base.stages; i++) {
		advance<S>(i, base.stages, [&](int next) {
			left(next);
			right(next);
		});
		multiply<S>(sums, ring.rows(i), ring.batch(i));
	}
}

// Filler copies the stages of a block with adapters, in order: items of shrink,
// base, expand.
template <class S> struct Filler {
	const DecodeArgs &p;
	const Base &base;
	const Ring<S> &ring;
	const Lists &lists;
	const ShrinkPlan &shrink;
	const ExpandPlan<S> &expand;
	Operand w, a[2];
	int32_t shrinks, item; // stages; of which item a is
	int32_t share;         // where copy_b is in the list

	__device__ __forceinline__ Filler(const DecodeArgs &p, const Base &base, const Ring<S> &ring, const Lists &lists, const ShrinkPlan &shrink, const ExpandPlan<S> &expand)
	    : p(p), base(base), ring(ring), lists(lists), shrink(shrink), expand(expand), w(weight_rows(p, base.col0)), shrinks(shrink.mine * shrink.length), item(-1), share(0) {}

	__device__ __forceinline__ int32_t stages() const { return shrinks + base.stages + expand.stages; }

	__device__ __forceinline__ void look_up(int32_t next) {
		item = next;
		const int32_t tile = (blockIdx.x + item * gridDim.x) / shrink.cuts;
#pragma unroll
		for (int m = 0; m < 2; m++) {
			const RankTile r = rank_tile(lists, p.terms, tile * shrink.per + threadIdx.x / 32 * 2 + m);
			a[m] = {r.term ? static_cast<const bf16 *>(r.term->a) + static_cast<int64_t>(r.index) * 16 * p.in : p.w, p.in, r.term ? r.term->rank - r.index * 16 : 0};
		}
	}

	__device__ __forceinline__ int32_t column(int i) const { return (i < shrinks ? shrink.first + i % shrink.length : base.first + i - shrinks) * S::kDepth; }

	__device__ __forceinline__ void left(int i) {
		if (i < shrinks) {
			if (i / shrink.length != item) {
				look_up(i / shrink.length);
			}
			copy_rows<S, 16>(ring.rows(i), a[0], column(i), p.in, 0);
			copy_rows<S, 16>(ring.rows(i), a[1], column(i), p.in, 16);
		} else if (i < shrinks + base.stages) {
			copy_rows<S, kWarpRows>(ring.rows(i), w, column(i), p.in, 0);
		} else {
			copy_b<S>(ring.rows(i), lists, expand, i - shrinks - base.stages, share);
		}
	}

	__device__ __forceinline__ void right(int i) {
		if (i < shrinks + base.stages) {
			copy_batch<S>(ring.batch(i), {p.x, p.ldx, p.rows}, column(i), p.in);
			return;
		}
		if (i == shrinks + base.stages) {
			wait_for_v(p.counters, shrink.tiles);
		}
		copy_v<S>(ring.batch(i), p.scratch, lists, expand, i - shrinks - base.stages, share);
	}
};

// adapted_product is base_product with terms. The host sees to it that a block
// has more stages of base than the ring, so v is never asked for before this
// block has done its part of it.
template <class S> __device__ __forceinline__ void adapted_product(Sums<S> &sums, const DecodeArgs &p, const Base &base, const Ring<S> &ring, char *list_memory) {
	const Lists lists = make_lists(list_memory, p, base.col0);
	const ShrinkPlan shrink(lists.ranks[lists.terms], parts_of(p.in, S::kDepth));
	const ExpandPlan<S> expansion(lists, base.part, p.split);
	Filler<S> filler(p, base, ring, lists, shrink, expansion);
	const int32_t all = filler.stages();
	begin<S>(all, [&](int i) { filler.left(i); }, [&](int i) { filler.right(i); });
	const auto fill = [&](int next) {
		filler.left(next);
		filler.right(next);
	};
	int i = 0;
	for (int32_t item = 0; item < shrink.mine; item++) {
		sums.clear();
		for (int32_t k = 0; k < shrink.length; k++, i++) {
			advance<S>(i, all, fill);
			multiply<S>(sums, ring.rows(i), ring.batch(i));
		}
		finish_shrink<S>(p, lists, shrink, blockIdx.x + item * gridDim.x, sums);
	}
	if (expansion.stages == 0 && shrink.tiles > 0 && threadIdx.x == 0) {
		pass(p.counters);
	}
	sums.clear();
	for (int32_t k = 0; k < base.stages; k++, i++) {
		advance<S>(i, all, fill);
		multiply<S>(sums, ring.rows(i), ring.batch(i));
	}
	int32_t share = 0;
	for (int32_t k = 0; k < expansion.stages; k++, i++) {
		advance<S>(i, all, fill);
		expand<S>(sums, ring.rows(i), ring.batch(i), lists, expansion, k, share);
	}
	if (lists.bias && base.part == 0) {
		add_biases<S>(sums, p, lists.terms, base.col0);
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
	const int32_t across = blockDim.x / 4;
	const Out *bias = static_cast<const Out *>(p.bias);
	for (int32_t i = threadIdx.x; i < (end - begin) * across; i += blockDim.x) {
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

__device__ __forceinline__ float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// last_of_tile leaves this block's sums in the workspace and says whether those
// of all parts are there: then this block adds them.
__device__ __forceinline__ bool last_of_tile(const DecodeArgs &p, const float *tile, int pitch, float *to, uint32_t *flag) {
	const int32_t across = blockDim.x / 4;
	for (int32_t i = threadIdx.x; i < p.rows * across; i += blockDim.x) {
		put4(to + i * 4, *reinterpret_cast<const float4 *>(tile + i / across * pitch + i % across * 4));
	}
	__syncthreads();
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
	__syncthreads();
	return *flag != 0;
}

// finish adds the parts of a tile and writes y. The ring is reused: [rows][columns].
template <class S, class Out, bool kCluster> __device__ __forceinline__ void finish(const DecodeArgs &p, const Base &base, const Sums<S> &sums, char *memory) {
	const int lane = threadIdx.x & 31, pitch = blockDim.x + 4; // no two lanes in a bank
	float *tile = reinterpret_cast<float *>(memory);
	copies_wait<0>();
	__syncthreads();
#pragma unroll
	for (int e = 0; e < 8 * S::kTiles; e++) {
		const int m = e / (4 * S::kTiles), n = e / 4 % S::kTiles, c = e % 4;
		tile[(n * 8 + lane % 4 * 2 + c % 2) * pitch + threadIdx.x / 32 * kWarpRows + m * 16 + c / 2 * 8 + lane / 4] = sums.v[m][n][c];
	}
	__syncthreads();
	const auto own = [&](int32_t row, int32_t col) { return *reinterpret_cast<const float4 *>(tile + row * pitch + col); };
	if (p.split == 1) {
		put<Out>(p, base.col0, 0, p.rows, own);
	} else if constexpr (kCluster) {
		lora::cluster_arrive();
		lora::cluster_wait();
		put<Out>(p, base.col0, base.part * p.rows / p.split, (base.part + 1) * p.rows / p.split, [&](int32_t row, int32_t col) {
			const float *at = tile + row * pitch + col;
			float4 sum = *reinterpret_cast<const float4 *>(of_block(at, 0));
			for (int32_t s = 1; s < p.split; s++) {
				sum = add(sum, *reinterpret_cast<const float4 *>(of_block(at, s)));
			}
			return sum;
		});
		lora::cluster_arrive(); // others may still read this block's memory
		lora::cluster_wait();
	} else {
		const int64_t each = static_cast<int64_t>(p.rows) * blockDim.x;
		float *parts = reinterpret_cast<float *>(p.workspace + kShrinkBytes) + (blockIdx.x - base.part) * each;
		uint32_t *flag = reinterpret_cast<uint32_t *>(tile + S::kTiles * 8 * pitch);
		if (last_of_tile(p, tile, pitch, parts + base.part * each, flag)) {
			put<Out>(p, base.col0, 0, p.rows, [&](int32_t row, int32_t col) {
				const float *at = parts + row * static_cast<int32_t>(blockDim.x) + col;
				float4 sum = load_from_l2(reinterpret_cast<const float4 *>(at));
				for (int32_t s = 1; s < p.split; s++) {
					sum = add(sum, load_from_l2(reinterpret_cast<const float4 *>(at + s * each)));
				}
				return sum;
			});
		}
	}
}

template <class S, class Out, bool kCluster, bool kAdapters> __global__ void __launch_bounds__(32 * kMostWarps, 2) decode_kernel(DecodeArgs p) {
	lora::let_next_begin();
	char *memory = block_memory();
	const Ring<S> ring = {memory, stage_bytes<S>(blockDim.x)};
	const Base base = Base::of<S>(p);
	Sums<S> sums;
	if constexpr (kAdapters) {
		adapted_product<S>(sums, p, base, ring, memory + S::kStages * ring.bytes);
	} else {
		base_product<S>(sums, p, base, ring);
	}
	finish<S, Out, kCluster>(p, base, sums, memory);
}

} // namespace chorale::decode
