// A token for each row of logits, with what was asked about the row. One block
// per row; a greedy row costs one pass over it, a drawn one two, top-k or top-p
// some two more each.
#pragma once

#include "chorale_kernels.h"
#include "sample_select.cuh"

namespace chorale::sampling {

// Peak is a running maximum with its lowest index, and the sum of
// exp(x - max) of what was seen; at < 0 when that was nothing but NaN.
struct Peak {
	float max;
	int32_t at;
	double sum;
};

__device__ __forceinline__ Peak merge(const Peak &a, const Peak &b) {
	if (b.at < 0) {
		return a;
	}
	if (a.at < 0) {
		return b;
	}
	const bool left = a.max > b.max || (a.max == b.max && a.at < b.at);
	const Peak &hi = left ? a : b, &lo = left ? b : a;
	const float scale = lo.max == hi.max ? 1.f : __expf(lo.max - hi.max);
	return {hi.max, hi.at, hi.sum + lo.sum * scale};
}

__device__ __forceinline__ Peak warp_merge(Peak p) {
#pragma unroll
	for (int d = 1; d < 32; d *= 2) {
		const Peak other = {__shfl_xor_sync(~0u, p.max, d), __shfl_xor_sync(~0u, p.at, d), __shfl_xor_sync(~0u, p.sum, d)};
		p = (threadIdx.x & d) == 0 ? merge(p, other) : merge(other, p);
	}
	return p;
}

// peak_of summarises a row for all threads; *nan tells whether it has any.
template <class In> __device__ Peak peak_of(const In *row, int cols, bool *nan) {
	__shared__ Peak shared[32];
	Peak mine = {-INFINITY, -1, 0};
	float sum = 0; // of this thread's values: few hundred, so float32 is enough
	bool any = false;
	for (int c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
		const Vec8 v = load8(row + c);
		float top = mine.max;
		int at = mine.at;
#pragma unroll
		for (int i = 0; i < 8; i++) {
			if (c + i < cols && (v.v[i] > top || (at < 0 && !isnan(v.v[i])))) {
				top = v.v[i], at = c + i;
			}
		}
		if (top != mine.max) {
			sum *= __expf(mine.max - top);
		}
		mine.max = top, mine.at = at;
#pragma unroll
		for (int i = 0; i < 8; i++) {
			if (c + i < cols) {
				any |= isnan(v.v[i]);
				sum += top == -INFINITY ? 0.f : __expf(v.v[i] - top);
			}
		}
	}
	mine.sum = sum;
	mine = warp_merge(mine);
	if ((threadIdx.x & 31) == 0) {
		shared[threadIdx.x >> 5] = mine;
	}
	*nan = __syncthreads_or(any);
	const int lane = threadIdx.x & 31;
	mine = warp_merge(lane < blockDim.x / 32 ? shared[lane] : Peak{-INFINITY, -1, 0});
	__syncthreads(); // shared may be used again
	return mine;
}

// changed gives a logit with its bias and penalties.
__device__ __forceinline__ float changed(const ch_sample_row &p, float x, float bias, int count, bool seen) {
	x = __fadd_rn(x, bias);
	if (seen && p.repetition != 1.f) {
		x = x > 0 ? __fdiv_rn(x, p.repetition) : __fmul_rn(x, p.repetition);
	}
	// Rounded product by product, as the CPU does.
	return count > 0 ? __fsub_rn(x, __fadd_rn(__fmul_rn(p.frequency, static_cast<float>(count)), p.presence)) : x;
}

// adjust changes a row in place and keeps in the lists what was there; `last` is
// a token that occurred once more than the lists know, or -1. True when it is in
// none of them: *was is its logit.
template <class In> __device__ bool adjust(const ch_sample_row &p, In *row, ch_adjust *list, ch_adjust *bans, int last, float *was) {
	bool listed = false;
	for (int i = threadIdx.x; i < p.adjusts; i += blockDim.x) {
		const ch_adjust a = list[i];
		const bool again = a.id == last;
		const float x = to_float(row[a.id]);
		listed |= again;
		list[i].bias = x;
		put(row + a.id, changed(p, x, a.bias, a.count + again, a.seen != 0 || again));
	}
	const bool unlisted = !__syncthreads_or(listed) && last >= 0;
	if (unlisted) {
		const float x = to_float(row[last]);
		*was = x;
		__syncthreads();
		if (threadIdx.x == 0) {
			put(row + last, changed(p, x, 0, 1, true));
		}
		__syncthreads();
	}
	for (int i = threadIdx.x; i < p.ban_count; i += blockDim.x) {
		bans[i].bias = to_float(row[bans[i].id]);
		put(row + bans[i].id, -INFINITY);
	}
	__syncthreads();
	return unlisted;
}

// before_change finds what adjust kept of a token's logit, for thread 0.
__device__ __forceinline__ float before_change(Shared &s, const ch_sample_row &p, const ch_adjust *list, const ch_adjust *bans, int id, float now) {
	if (threadIdx.x == 0) {
		s.value = now;
	}
	__syncthreads();
	for (int i = threadIdx.x; i < p.ban_count; i += blockDim.x) {
		if (bans[i].id == id) {
			s.value = bans[i].bias;
		}
	}
	__syncthreads();
	for (int i = threadIdx.x; i < p.adjusts; i += blockDim.x) {
		if (list[i].id == id) {
			s.value = list[i].bias;
		}
	}
	__syncthreads();
	return s.value;
}

// draw chooses among the tokens of a row whose largest logit is finite.
template <class In> __device__ int draw(Shared &s, const ch_sample_row &p, const In *row, int cols, float top) {
	const float inverse = p.inverse, reach = p.reach;
	const auto weight = [=](float x) { return __float2ull_rn(expf((x - top) * inverse) * kUnit); };
	const Bins bins = {top, inverse * (kBins / 32)};
	uint64_t cut = 0; // rank of the last token that is left
	if (p.top_k > 0 && p.top_k < cols) {
		const uint64_t k = p.top_k;
		cut = select<false>(s, row, cols, bins, [=](int, float x) { return x - top >= reach; }, [](float) { return 1ull; }, INFINITY, [=](uint64_t) { return k; });
	}
	if (p.top_p < 1) {
		// Tokens so far down that all of them together weigh less than what top-p
		// leaves out need no bin.
		const float rest = static_cast<float>(1 - p.top_p);
		const float skip = rest > 1e-6f ? (logf(cols / rest) + 0.01f) / inverse : INFINITY;
		const uint64_t kept = cut;
		cut = max(cut, select<true>(s, row, cols, bins, [=](int id, float x) { return x - top >= reach && rank_of(x, id) >= kept; }, weight, skip, [&](uint64_t all) {
			const double want = ceil(p.top_p * static_cast<double>(all));
			return want < 1 ? 1ull : min(all, static_cast<uint64_t>(want));
		}));
	}
	const float least = fmaxf(reach, p.min_reach);
	const double u = p.u;
	return locate(s, row, cols, [=](int id, float x) { return x - top >= least && (cut == 0 || rank_of(x, id) >= cut) ? weight(x) : 0; }, [=](uint64_t all) {
		const uint64_t at = static_cast<uint64_t>(u * static_cast<double>(all));
		return at < all ? at : all - 1;
	});
}

// report_top writes the largest logits, n at most, with their ids.
template <class In> __device__ void report_top(Shared &s, uint32_t *out, const In *row, int cols, float top, int n) {
	n = min(n, cols);
	const uint64_t cut = select<false>(s, row, cols, Bins{top, kBins / 32}, [](int, float) { return true; }, [](float) { return 1ull; }, INFINITY, [=](uint64_t) { return static_cast<uint64_t>(n); });
	collect(s, row, cols, [=](int id, float x) { return rank_of(x, id) >= cut; });
	sort(s, n);
	for (int i = threadIdx.x; i < n; i += blockDim.x) {
		const int id = id_of(s.sorted[i]);
		out[2 * i] = id;
		out[2 * i + 1] = __float_as_uint(to_float(row[id]));
	}
	__syncthreads();
}

// Args are what all rows share. tokens [2][max_rows] has the tokens of this
// step and the one before, by turns.
struct Args {
	char *tables;
	int32_t header, list;
	void *logits;
	int32_t cols, pitch;
	uint32_t *results;
	int32_t *tokens;
	int32_t max_rows;
};

// sample_kernel serves the rows of one list; blocks beyond it have nothing to do.
template <class In> __global__ void __launch_bounds__(1024) sample_kernel(Args a) {
	wait_for_before();
	__shared__ Shared s;
	const auto *header = reinterpret_cast<const ch_header *>(a.tables + a.header);
	const ch_samples list = header->samples[a.list];
	if (static_cast<int>(blockIdx.x) >= list.rows) {
		return;
	}
	const ch_sample_row &p = reinterpret_cast<const ch_sample_row *>(a.tables + list.at)[blockIdx.x];
	In *row = static_cast<In *>(a.logits) + static_cast<int64_t>(blockIdx.x) * a.pitch;
	uint32_t *out = a.results + p.out;
	auto *result = reinterpret_cast<ch_sampled *>(out);
	out += sizeof(ch_sampled) / 4;

	bool nan;
	Peak peak = peak_of(row, a.cols, &nan);
	if (threadIdx.x == 0) {
		const float lse = peak.at < 0 ? -INFINITY : static_cast<float>(peak.max + log(peak.sum));
		result->arg_max = max(peak.at, 0), result->max = peak.at < 0 ? to_float(row[0]) : peak.max, result->log_sum_exp = nan ? NAN : lse;
	}
	if (p.top > 0) {
		report_top(s, out, row, a.cols, peak.max, p.top);
		out += 2 * min(p.top, a.cols);
	}
	const auto *ids = reinterpret_cast<const int32_t *>(a.tables + p.ids);
	for (int i = threadIdx.x; i < p.id_count; i += blockDim.x) {
		out[i] = __float_as_uint(to_float(row[ids[i]]));
	}

	int token = p.given;
	float logit = 0;
	if (token < 0) {
		auto *adjusts = reinterpret_cast<ch_adjust *>(a.tables + p.adjust), *bans = reinterpret_cast<ch_adjust *>(a.tables + p.bans);
		const int last = p.last < 0 ? -1 : a.tokens[(1 - header->turn) * a.max_rows + p.last];
		const bool changes = p.adjusts > 0 || p.ban_count > 0 || last >= 0;
		float was = 0;
		bool unlisted = false;
		if (changes) {
			__syncthreads(); // the row was read for ids
			unlisted = adjust(p, row, adjusts, bans, last, &was);
			peak = peak_of(row, a.cols, &nan);
		}
		token = max(peak.at, 0);
		if (p.inverse > 0 && isfinite(peak.max) && peak.at >= 0) {
			token = draw(s, p, row, a.cols, peak.max);
		}
		logit = to_float(row[token]);
		if (changes) {
			logit = before_change(s, p, adjusts, bans, token, unlisted && token == last ? was : logit);
		}
	} else {
		logit = to_float(row[token]);
	}
	if (threadIdx.x == 0) {
		result->token = token, result->logit = logit;
		if (list.first >= 0) {
			a.tokens[header->turn * a.max_rows + list.first + blockIdx.x] = token;
		}
	}
}

} // namespace chorale::sampling
