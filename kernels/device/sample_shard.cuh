// Sampling from a vocabulary that is shared out: each rank has some columns of
// each row, and all ranks find the token that one rank would find in the whole
// row. Between the kernels here the ranks exchange a few bytes a row:
//
//	shard_stats  what the row is like, changes to it, its largest logit   -> best
//	shard_mass   the weight of what may be drawn, relative to the largest -> mass
//	shard_pick   whose part the draw falls into, and there on which token -> drawn
//	shard_end    the token for everybody, and its logit where it lies
//
// Weights are the fixed-point numbers of one rank, so sums over ranks are exact.
// Rows that are cut by number or weight (top-k, top-p) are put together and drawn
// from whole (pack, assemble, whole_draw): where the cut lies can hardly be told
// from parts.
#pragma once

#include "sample.cuh"

namespace chorale::sampling {

// Best is the largest logit of a part of a row; id < 0 when all is NaN.
struct Best {
	float max;
	int32_t id;
};

// Kept is a logit that was changed though no list has it; id < 0 for none.
struct Kept {
	float was;
	int32_t id;
};

// ShardArgs are what the kernels share. What is exchanged is [ranks][rows].
struct ShardArgs {
	Args a; // cols are those of this rank that are in the vocabulary
	int32_t first, width, total; // this rank's first token, tokens of a rank, of all
	int32_t rank, ranks, rows;
	Best *best;
	uint64_t *mass;
	int32_t *drawn;
	Kept *kept; // [rows]
	// Rows that are put together, from number `from` on, `count` at most.
	int32_t from, count;
	float *packed;         // [count][width8]
	const float *gathered; // [ranks][count][width8]
	float *whole;          // [count][total8]
	int32_t width8, total8;
};

// ShardRow is a row of the list that a block serves.
template <class In> struct ShardRow {
	const ch_header *header;
	ch_samples list;
	const ch_sample_row *p;
	In *logits;
	__device__ ShardRow(const ShardArgs &g, int row) {
		header = reinterpret_cast<const ch_header *>(g.a.tables + g.a.header);
		list = header->samples[g.a.list];
		p = reinterpret_cast<const ch_sample_row *>(g.a.tables + list.at) + row;
		logits = static_cast<In *>(g.a.logits) + static_cast<int64_t>(row) * g.a.pitch;
	}
	__device__ bool draws() const { return p->given < 0 && p->inverse > 0; }
	// The token that counts once more, from the part's start; -1 when it is not here.
	__device__ int last(const ShardArgs &g) const {
		if (p->given >= 0 || p->last < 0) {
			return -1;
		}
		const int id = g.a.tokens[(1 - header->turn) * g.a.max_rows + p->last] - g.first;
		return id >= 0 && id < g.a.cols ? id : -1;
	}
};

// best_of is the largest logit of the whole row.
__device__ __forceinline__ Best best_of(const ShardArgs &g, int row) {
	Best b = {-INFINITY, -1};
	for (int r = 0; r < g.ranks; r++) { // by ascending ids
		const Best o = g.best[r * g.rows + row];
		if (o.id >= 0 && (b.id < 0 || o.max > b.max)) {
			b = o;
		}
	}
	return b;
}

// shard_weight is the weight of a logit that may be drawn, as draw has it.
struct ShardWeight {
	float top, inverse, least;
	__device__ ShardWeight(const ch_sample_row &p, float top) : top(top), inverse(p.inverse), least(fmaxf(p.reach, p.min_reach)) {}
	__device__ uint64_t operator()(int, float x) const { return x - top >= least ? __float2ull_rn(expf((x - top) * inverse) * kUnit) : 0; }
};

// shard_stats_kernel begins a row: the parts of its results, and its changes.
template <class In> __global__ void __launch_bounds__(1024) shard_stats_kernel(ShardArgs g) {
	wait_for_before();
	__shared__ Shared s;
	const int row = blockIdx.x, cols = g.a.cols;
	const ShardRow<In> r(g, row);
	if (row >= r.list.rows) {
		return;
	}
	const ch_sample_row &p = *r.p;
	uint32_t *out = g.a.results + p.out;
	auto *result = reinterpret_cast<ch_sampled *>(out);
	out += sizeof(ch_sampled) / 4;

	bool nan;
	Peak peak = peak_of(r.logits, cols, &nan);
	if (threadIdx.x == 0) {
		const float lse = peak.at < 0 ? -INFINITY : static_cast<float>(peak.max + log(peak.sum));
		result->arg_max = peak.at < 0 ? -1 : peak.at + g.first, result->max = peak.at < 0 ? NAN : peak.max, result->log_sum_exp = nan ? NAN : lse;
	}
	if (p.top > 0) {
		const int n = min(p.top, cols), room = min(p.top, g.width);
		if (n > 0) {
			report_top(s, out, r.logits, cols, peak.max, n);
		}
		for (int i = threadIdx.x; i < room; i += blockDim.x) {
			if (i >= n) {
				out[2 * i] = ~0u, out[2 * i + 1] = 0;
			} else {
				out[2 * i] += g.first; // written by this thread
			}
		}
		out += 2 * room;
	}
	const auto *ids = reinterpret_cast<const int32_t *>(g.a.tables + p.ids);
	for (int i = threadIdx.x; i < p.id_count; i += blockDim.x) {
		const int id = ids[i] - g.first;
		out[i] = id >= 0 && id < cols ? __float_as_uint(to_float(r.logits[id])) : 0;
	}
	Kept kept = {0, -1};
	const int last = r.last(g);
	if (p.given < 0 && (p.adjusts > 0 || p.ban_count > 0 || last >= 0)) {
		__syncthreads(); // the row was read for ids
		float was = 0;
		if (adjust(p, r.logits, reinterpret_cast<ch_adjust *>(g.a.tables + p.adjust), reinterpret_cast<ch_adjust *>(g.a.tables + p.bans), last, &was)) {
			kept = {was, last};
		}
		peak = peak_of(r.logits, cols, &nan);
	}
	if (threadIdx.x == 0) {
		g.best[g.rank * g.rows + row] = {peak.max, peak.at < 0 ? -1 : peak.at + g.first};
		g.kept[row] = kept;
	}
}

// shard_mass_kernel sums this rank's weights of a row.
template <class In> __global__ void __launch_bounds__(1024) shard_mass_kernel(ShardArgs g) {
	wait_for_before();
	__shared__ Shared s;
	const int row = blockIdx.x;
	const ShardRow<In> r(g, row);
	if (row >= r.list.rows || !r.draws() || r.p->gathered > 0) {
		return;
	}
	const Best top = best_of(g, row);
	const ShardWeight weight(*r.p, top.max);
	uint64_t sum = 0, all = 0;
	if (top.id >= 0 && isfinite(top.max)) {
		walk(r.logits, g.a.cols, [&](int id, float x, bool valid) { sum += valid ? weight(id, x) : 0; });
	}
	block_scan(s, sum, &all);
	if (threadIdx.x == 0) {
		g.mass[g.rank * g.rows + row] = all;
	}
}

// shard_pick_kernel draws, on the rank that has the token; -1 on others.
template <class In> __global__ void __launch_bounds__(1024) shard_pick_kernel(ShardArgs g) {
	wait_for_before();
	__shared__ Shared s;
	const int row = blockIdx.x;
	const ShardRow<In> r(g, row);
	if (row >= r.list.rows || !r.draws() || r.p->gathered > 0) {
		return;
	}
	uint64_t all = 0, before = 0;
	for (int i = 0; i < g.ranks; i++) {
		const uint64_t m = g.mass[i * g.rows + row];
		before += i < g.rank ? m : 0;
		all += m;
	}
	const uint64_t mine = g.mass[g.rank * g.rows + row];
	int token = -1;
	if (all > 0) {
		uint64_t at = static_cast<uint64_t>(r.p->u * static_cast<double>(all));
		at = at < all ? at : all - 1;
		if (at >= before && at - before < mine) {
			token = locate(s, r.logits, g.a.cols, ShardWeight(*r.p, best_of(g, row).max), [=](uint64_t) { return at - before; }) + g.first;
		}
	}
	if (threadIdx.x == 0) {
		g.drawn[g.rank * g.rows + row] = token;
	}
}

// pack_kernel copies the rows that are to be put together; blocks of y share one.
template <class In> __global__ void pack_kernel(ShardArgs g) {
	wait_for_before();
	const int row = blockIdx.x;
	const ShardRow<In> r(g, row);
	const int place = row < r.list.rows ? r.p->gathered - 1 - g.from : -1;
	if (place < 0 || place >= g.count) {
		return;
	}
	float *to = g.packed + static_cast<int64_t>(place) * g.width8;
	for (int c = (blockIdx.y * blockDim.x + threadIdx.x) * 8; c < g.a.cols; c += gridDim.y * blockDim.x * 8) {
		store8(to + c, load8(r.logits + c)); // rows are whole vectors long
	}
}

// assemble_kernel puts the parts of rows side by side.
static __global__ void assemble_kernel(ShardArgs g) {
	wait_for_before();
	const int place = blockIdx.x;
	float *to = g.whole + static_cast<int64_t>(place) * g.total8;
	for (int c = blockIdx.y * blockDim.x + threadIdx.x; c < g.total8; c += gridDim.y * blockDim.x) {
		const int rank = c / g.width;
		to[c] = c < g.total ? g.gathered[(static_cast<int64_t>(rank) * g.count + place) * g.width8 + c - rank * g.width] : 0.f;
	}
}

// whole_draw_kernel draws from rows that were put together. A block finds the row
// that is at its place; the same on all ranks.
static __global__ void __launch_bounds__(1024) whole_draw_kernel(ShardArgs g) {
	wait_for_before();
	__shared__ Shared s;
	__shared__ int found;
	if (threadIdx.x == 0) {
		found = -1;
	}
	__syncthreads();
	const int place = blockIdx.x;
	const ShardRow<float> first(g, 0);
	for (int i = threadIdx.x; i < first.list.rows; i += blockDim.x) {
		if (first.p[i].gathered == g.from + place + 1) {
			found = i;
		}
	}
	__syncthreads();
	const int row = found;
	if (row < 0) {
		return;
	}
	const Best top = best_of(g, row);
	int token = -1;
	if (top.id >= 0 && isfinite(top.max)) {
		token = draw(s, first.p[row], g.whole + static_cast<int64_t>(place) * g.total8, g.total, top.max);
	}
	if (threadIdx.x == 0) {
		g.drawn[g.rank * g.rows + row] = token;
	}
}

// shard_end_kernel gives a row its token.
template <class In> __global__ void shard_end_kernel(ShardArgs g) {
	wait_for_before();
	__shared__ Shared s;
	const int row = blockIdx.x;
	const ShardRow<In> r(g, row);
	if (row >= r.list.rows) {
		return;
	}
	const ch_sample_row &p = *r.p;
	int token = p.given >= 0 ? p.given : max(best_of(g, row).id, 0);
	for (int i = 0; i < g.ranks && r.draws(); i++) {
		const int drawn = g.drawn[i * g.rows + row];
		token = drawn >= 0 ? drawn : token;
	}
	const int here = token - g.first;
	float logit = 0;
	if (here >= 0 && here < g.a.cols) {
		logit = to_float(r.logits[here]);
		const Kept kept = g.kept[row];
		if (kept.id == here) {
			logit = kept.was;
		}
		if (p.given < 0 && (p.adjusts > 0 || p.ban_count > 0 || kept.id >= 0)) {
			logit = before_change(s, p, reinterpret_cast<ch_adjust *>(g.a.tables + p.adjust), reinterpret_cast<ch_adjust *>(g.a.tables + p.bans), here, logit);
		}
	}
	if (threadIdx.x == 0) {
		auto *result = reinterpret_cast<ch_sampled *>(g.a.results + p.out);
		result->token = token, result->logit = logit;
		if (r.list.first >= 0) {
			g.a.tokens[r.header->turn * g.a.max_rows + r.list.first + row] = token;
		}
	}
}

} // namespace chorale::sampling
