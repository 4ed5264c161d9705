// Work lists made on the device: how many items each term has, and which term
// an item belongs to. Grids are fixed when a graph is captured; only the lists
// in device memory change.
#pragma once

#include "lora_ptx.cuh"

namespace chorale::lora {

struct WorkList {
	int32_t *first; // [terms + 1] first item of each term, in shared memory
	int32_t terms;
	__device__ __forceinline__ int32_t items() const { return first[terms]; }

	// term_of finds the term of an item, not before term from.
	__device__ __forceinline__ int32_t term_of(int32_t item, int32_t from) const {
		int32_t lo = from, hi = terms - 1;
		while (lo < hi) {
			int32_t mid = (lo + hi + 1) >> 1;
			if (first[mid] <= item) {
				lo = mid;
			} else {
				hi = mid - 1;
			}
		}
		return lo;
	}
};

// leads says whether term i is the first of its rows: the terms of one adapter
// have equal rows and stand side by side.
__device__ __forceinline__ bool leads(const ch_lora_term *terms, int32_t i) {
	return i == 0 || terms[i].row0 != terms[i - 1].row0 || terms[i].rows != terms[i - 1].rows;
}

// term_count reads how many terms there are, and asks for the terms themselves
// on the way: both come from far, and one need not wait for the other.
__device__ __forceinline__ int32_t term_count(const ch_lora_term *terms, const int32_t *count, int32_t max_terms) {
	for (int32_t i = threadIdx.x * 2; i < max_terms && i < 2048; i += blockDim.x * 2) {
		prefetch_l2(terms + i);
	}
	return min(*count, max_terms);
}

// make_work_list counts items(index) for index 0..n-1 and sums them up, with
// the whole block. storage has n + 33 words.
template <int kThreads, class Items> __device__ __forceinline__ WorkList make_work_list(int32_t *storage, int32_t n, Items items) {
	static_assert(kThreads % 32 == 0 && kThreads <= 1024);
	constexpr int kWarps = kThreads / 32;
	int32_t *sums = storage, *first = storage + 32;
	const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
	int32_t base = 0;
	for (int32_t begin = 0; begin < n; begin += kThreads) {
		const int32_t i = begin + threadIdx.x;
		const int32_t mine = i < n ? items(i) : 0;
		int32_t sum = mine;
#pragma unroll
		for (int d = 1; d < 32; d *= 2) {
			int32_t other = __shfl_up_sync(~0u, sum, d);
			if (lane >= d) {
				sum += other;
			}
		}
		if (lane == 31) {
			sums[warp] = sum;
		}
		__syncthreads();
		int32_t before = base;
#pragma unroll
		for (int w = 0; w < kWarps; w++) {
			before += w < warp ? sums[w] : 0;
			base += sums[w];
		}
		if (i < n) {
			first[i] = before + sum - mine;
		}
		__syncthreads();
	}
	if (threadIdx.x == 0) {
		first[n] = base;
	}
	__syncthreads();
	return {first, n};
}

} // namespace chorale::lora
