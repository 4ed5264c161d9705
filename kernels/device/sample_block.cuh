// What a block does with one row of logits: walk it, sum it, find places in it.
//
// Weights are fixed-point, so that sums are exact and the order in which
// threads add does not matter: a row's token depends on the row alone.
#pragma once

#include "vec.cuh"

namespace chorale::sampling {

constexpr int kBins = 2048;     // of a histogram
constexpr int kSorted = 4096;   // entries that are sorted at once
constexpr int kSegments = 1024; // of a row
constexpr int kLimb = 13;       // bits of a weight that one bin counter takes per entry
constexpr int kLimbs = 3;
constexpr float kUnit = 1ll << (kLimb * kLimbs); // the largest weight
// So many entries fit a counter of 32 bits.
constexpr int kMaxColumns = 1 << (32 - kLimb);

// Shared is the block's memory: one of the three at a time.
struct Shared {
	union {
		uint32_t bins[kLimbs][kBins];
		uint64_t sorted[kSorted];
		uint64_t segments[kSegments];
	};
	uint64_t warps[33];
	uint64_t found, before;
	uint32_t count, low, high;
	int32_t id;
	float value;
};

// order_of puts floats in order: NaN lowest, both zeros alike.
__device__ __forceinline__ uint32_t order_of(float x) {
	if (isnan(x)) {
		return 0;
	}
	const uint32_t bits = __float_as_uint(x + 0.f);
	return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float float_of(uint32_t order) {
	return order == 0 ? NAN : __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

// rank_of orders entries: larger logits first, then lower ids.
__device__ __forceinline__ uint64_t rank_of(float x, int id) { return static_cast<uint64_t>(order_of(x)) << 32 | (0xffffffffu - static_cast<uint32_t>(id)); }
__device__ __forceinline__ int id_of(uint64_t rank) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(rank)); }
__device__ __forceinline__ float logit_of(uint64_t rank) { return float_of(static_cast<uint32_t>(rank >> 32)); }

// warp_scan gives each lane the sum up to and with its own.
__device__ __forceinline__ uint64_t warp_scan(uint64_t x) {
	const int lane = threadIdx.x & 31;
#pragma unroll
	for (int d = 1; d < 32; d *= 2) {
		const uint64_t other = __shfl_up_sync(~0u, x, d);
		x += lane >= d ? other : 0;
	}
	return x;
}

// block_scan gives each thread the sum before its own, and all of it in *total.
static __device__ uint64_t block_scan(Shared &s, uint64_t x, uint64_t *total) {
	const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
	const uint64_t mine = warp_scan(x);
	if (lane == 31) {
		s.warps[warp] = mine;
	}
	__syncthreads();
	if (warp == 0) {
		const uint64_t sum = lane < warps ? s.warps[lane] : 0, all = warp_scan(sum);
		s.warps[lane] = all - sum;
		if (lane == 31) {
			s.warps[32] = all;
		}
	}
	__syncthreads();
	const uint64_t before = s.warps[warp] + mine - x;
	*total = s.warps[32];
	__syncthreads(); // s.warps may be used again
	return before;
}

// walk calls f(id, logit, valid) for a row; all lanes of a warp call together.
template <class In, class F> __device__ __forceinline__ void walk(const In *row, int cols, F f) {
	for (int from = 0; from < cols; from += blockDim.x * 8) {
		const int c = from + threadIdx.x * 8;
		Vec8 v = {};
		if (c < cols) {
			v = load8(row + c);
		}
#pragma unroll
		for (int i = 0; i < 8; i++) {
			f(c + i, v.v[i], c + i < cols);
		}
	}
}

// locate finds the first id at which the running sum of weight(id, logit), in
// order of ids, exceeds target(sum of all).
template <class In, class W, class T> __device__ int locate(Shared &s, const In *row, int cols, W weight, T target) {
	const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
	const int span = 256 * ((cols + 256 * kSegments - 1) / (256 * kSegments));
	const int segments = (cols + span - 1) / span;
	const auto eight = [&](int c, int end) {
		uint64_t sum = 0;
		if (c < end) {
			const Vec8 v = load8(row + c);
#pragma unroll
			for (int i = 0; i < 8; i++) {
				sum += c + i < end ? weight(c + i, v.v[i]) : 0;
			}
		}
		return sum;
	};
	__syncthreads();
	for (int segment = warp; segment < segments; segment += warps) {
		const int end = min(cols, (segment + 1) * span);
		uint64_t sum = 0;
		for (int c = segment * span; c < end; c += 256) {
			sum += eight(c + lane * 8, end);
		}
		sum = warp_scan(sum);
		if (lane == 31) {
			s.segments[segment] = sum;
		}
	}
	__syncthreads();
	if (warp == 0) { // the segment
		const int each = (segments + 31) / 32;
		uint64_t sum = 0;
		for (int i = lane * each; i < min(segments, (lane + 1) * each); i++) {
			sum += s.segments[i];
		}
		const uint64_t upto = warp_scan(sum);
		if (lane == 31) {
			s.found = target(upto);
			s.id = 0;
		}
		__syncwarp();
		uint64_t before = upto - sum;
		if (before <= s.found && s.found < upto) {
			int i = lane * each;
			for (; before + s.segments[i] <= s.found; i++) {
				before += s.segments[i];
			}
			s.id = i, s.before = before;
		}
		__syncwarp();
	}
	__syncthreads();
	if (warp == 0) { // the id
		const int from = s.id * span, end = min(cols, from + span);
		const uint64_t target_at = s.found;
		uint64_t before = s.before;
		__syncwarp();
		for (int c = from; c < end; c += 256) {
			const uint64_t mine = eight(c + lane * 8, end), upto = before + warp_scan(mine);
			uint64_t sum = upto - mine;
			if (sum <= target_at && target_at < upto) {
				const Vec8 v = load8(row + c + lane * 8);
				int i = 0;
				for (; i < 7; i++) {
					sum += c + lane * 8 + i < end ? weight(c + lane * 8 + i, v.v[i]) : 0;
					if (sum > target_at) {
						break;
					}
				}
				s.id = c + lane * 8 + i;
			}
			before = __shfl_sync(~0u, upto, 31);
		}
		__syncwarp();
	}
	__syncthreads();
	return s.id;
}

// sort puts the first n entries of s.sorted in order, largest first.
static __device__ void sort(Shared &s, int n) {
	int size = 2;
	while (size < n) {
		size *= 2;
	}
	for (int i = n + threadIdx.x; i < size; i += blockDim.x) {
		s.sorted[i] = 0;
	}
	__syncthreads();
	for (int run = 2; run <= size; run *= 2) {
		for (int apart = run / 2; apart > 0; apart /= 2) {
			for (int t = threadIdx.x; t < size / 2; t += blockDim.x) {
				const int i = t / apart * apart * 2 + t % apart, j = i + apart;
				const uint64_t a = s.sorted[i], b = s.sorted[j];
				if ((a < b) == ((i & run) == 0)) {
					s.sorted[i] = b, s.sorted[j] = a;
				}
			}
			__syncthreads();
		}
	}
}

// collect writes the ranks of entries that keep(id, logit) wants to s.sorted,
// in no order, as many as fit, and counts all of them in s.count. s.low and
// s.high get the orders of the least and the largest.
template <class In, class K> __device__ void collect(Shared &s, const In *row, int cols, K keep) {
	__syncthreads();
	if (threadIdx.x == 0) {
		s.count = 0, s.low = ~0u, s.high = 0;
	}
	__syncthreads();
	uint32_t low = ~0u, high = 0;
	walk(row, cols, [&](int id, float x, bool valid) {
		const bool mine = valid && keep(id, x);
		const uint32_t votes = __ballot_sync(~0u, mine);
		if (votes == 0) {
			return;
		}
		const int lane = threadIdx.x & 31, leader = __ffs(votes) - 1;
		uint32_t at = 0;
		if (lane == leader) {
			at = atomicAdd(&s.count, __popc(votes));
		}
		at = __shfl_sync(~0u, at, leader) + __popc(votes & ((1u << lane) - 1));
		if (mine) {
			const uint32_t order = order_of(x);
			low = min(low, order), high = max(high, order);
			if (at < kSorted) {
				s.sorted[at] = rank_of(x, id);
			}
		}
	});
	if (low <= high) {
		atomicMin(&s.low, low);
		atomicMax(&s.high, high);
	}
	__syncthreads();
}

} // namespace chorale::sampling
