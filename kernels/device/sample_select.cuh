// Finding where a row is cut: by number (top-k) or by weight (top-p), without
// sorting it. A histogram finds the bin that the cut falls into; what lies in
// the bin is sorted when it fits, else divided again.
#pragma once

#include "sample_block.cuh"

namespace chorale::sampling {

// Bins divides logits below `top`, evenly in value; the last bin takes the rest
// and NaN. Larger logits never come after smaller ones.
struct Bins {
	float top, scale;
	__device__ int operator()(float x) const {
		const float at = (top - x) * scale;
		return at < kBins - 1 ? static_cast<int>(at) : kBins - 1;
	}
};

// add_to counts an entry in a bin: 1, or its weight in limbs.
template <bool kMass> __device__ __forceinline__ void add_to(Shared &s, int bin, uint64_t amount) {
	if (!kMass) {
		atomicAdd(&s.bins[0][bin], 1u);
		return;
	}
	constexpr uint32_t mask = (1u << kLimb) - 1;
#pragma unroll
	for (int i = 0; i < kLimbs; i++) {
		// The highest limb keeps what is above: kUnit itself.
		const uint32_t part = i == kLimbs - 1 ? static_cast<uint32_t>(amount >> (kLimb * i)) : static_cast<uint32_t>(amount >> (kLimb * i)) & mask;
		if (part != 0) {
			atomicAdd(&s.bins[i][bin], part);
		}
	}
}

static __device__ void clear_bins(Shared &s) {
	__syncthreads();
	for (int i = threadIdx.x; i < kBins; i += blockDim.x) {
#pragma unroll
		for (int l = 0; l < kLimbs; l++) {
			s.bins[l][i] = 0;
		}
	}
	__syncthreads();
}

template <bool kMass> __device__ uint64_t bin_sum(const Shared &s, int bin) {
	uint64_t sum = s.bins[0][bin];
	if (kMass) {
#pragma unroll
		for (int l = 1; l < kLimbs; l++) {
			sum += static_cast<uint64_t>(s.bins[l][bin]) << (kLimb * l);
		}
	}
	return sum;
}

// find_bin gives the first bin at which before and the bins' sum reach
// goal(sum of all bins); *before grows by the bins above it. -1 when none does.
template <bool kMass, class G> __device__ int find_bin(Shared &s, uint64_t *before, G goal) {
	const int each = (kBins + blockDim.x - 1) / blockDim.x, from = threadIdx.x * each, end = min(kBins, from + each);
	uint64_t sum = 0;
	__syncthreads();
	for (int i = from; i < end; i++) {
		sum += bin_sum<kMass>(s, i);
	}
	uint64_t all;
	uint64_t upto = *before + block_scan(s, sum, &all);
	const uint64_t want = goal(all);
	if (threadIdx.x == 0) {
		s.id = -1, s.before = *before;
	}
	__syncthreads();
	if (upto < want && want <= upto + sum) {
		int i = from;
		for (uint64_t bin; bin = bin_sum<kMass>(s, i), upto + bin < want; i++) {
			upto += bin;
		}
		s.id = i, s.before = upto;
	}
	__syncthreads();
	const int found = s.id;
	*before = s.before;
	__syncthreads();
	return found;
}

// settle sorts s.sorted[:n] and gives the first entry at which before and the
// sum of amounts reach goal.
template <class A> __device__ uint64_t settle(Shared &s, int n, uint64_t before, uint64_t goal, A amount) {
	sort(s, n);
	const int each = (n + blockDim.x - 1) / blockDim.x, from = min(n, static_cast<int>(threadIdx.x) * each), end = min(n, from + each);
	uint64_t sum = 0, all;
	for (int i = from; i < end; i++) {
		sum += amount(logit_of(s.sorted[i]));
	}
	uint64_t upto = before + block_scan(s, sum, &all);
	if (threadIdx.x == 0) {
		s.found = s.sorted[n - 1];
	}
	__syncthreads();
	if (upto < goal && goal <= upto + sum) {
		int i = from;
		for (; upto + amount(logit_of(s.sorted[i])) < goal; i++) {
			upto += amount(logit_of(s.sorted[i]));
		}
		s.found = s.sorted[i];
	}
	__syncthreads();
	const uint64_t found = s.found;
	__syncthreads();
	return found;
}

// select gives the rank of the first entry, in order of ranks, at which the
// running sum of amount(logit) over those that take part reaches goal(sum of
// all); 0 when none does. Entries that take no part in the first histogram must
// not matter: `beyond` adds their amount to the sum of all.
template <bool kMass, class In, class T, class A, class G>
__device__ uint64_t select(Shared &s, const In *row, int cols, Bins first, T takes_part, A amount, float skip, G goal) {
	clear_bins(s);
	uint64_t skipped = 0;
	walk(row, cols, [&](int id, float x, bool valid) {
		if (!valid || !takes_part(id, x)) {
			return;
		}
		const uint64_t a = amount(x);
		if (first.top - x > skip) {
			skipped += a;
		} else {
			add_to<kMass>(s, first(x), a);
		}
	});
	uint64_t beyond = 0, before = 0, want = 0;
	if (kMass) {
		block_scan(s, skipped, &beyond);
	}
	const int bin = find_bin<kMass>(s, &before, [&](uint64_t all) { return want = goal(all + beyond); });
	if (bin < 0) {
		return 0;
	}
	collect(s, row, cols, [&](int id, float x) { return takes_part(id, x) && first(x) == bin; });
	while (s.count > kSorted) {
		const uint32_t low = s.low, high = s.high;
		if (low == high) { // ties: the id decides
			const uint64_t one = amount(float_of(low)), nth = (want - before + one - 1) / one;
			const int id = locate(s, row, cols, [&](int i, float x) { return static_cast<uint64_t>(order_of(x) == low && takes_part(i, x)); }, [&](uint64_t) { return nth - 1; });
			return rank_of(float_of(low), id);
		}
		const uint32_t width = (high - low) / kBins + 1;
		clear_bins(s);
		walk(row, cols, [&](int id, float x, bool valid) {
			const uint32_t order = order_of(x);
			if (valid && order >= low && order <= high && takes_part(id, x)) {
				add_to<kMass>(s, (high - order) / width, amount(x));
			}
		});
		const int part = find_bin<kMass>(s, &before, [&](uint64_t) { return want; });
		const uint32_t top = high - part * width, bottom = top - low < width ? low : top - width + 1;
		collect(s, row, cols, [&](int id, float x) {
			const uint32_t order = order_of(x);
			return order >= bottom && order <= top && takes_part(id, x);
		});
	}
	return settle(s, s.count, before, want, amount);
}

} // namespace chorale::sampling
