// Operations of a step that mean all ranks.
#include <algorithm>

#include "launch.h"
#include "sample_shard.cuh"
#include "stream.h"

namespace chorale {

namespace {

using namespace sampling;

// side_by_side_kernel puts the parts of rows, [ranks][count][part_pitch], beside
// one another.
struct SideBySide {
	const float *parts;
	float *dst;
	int32_t count, width, part_pitch, cols, pitch;
};
__global__ void side_by_side_kernel(SideBySide a) {
	wait_for_before();
	const int row = blockIdx.x;
	float *to = a.dst + static_cast<int64_t>(row) * a.pitch;
	for (int c = blockIdx.y * blockDim.x + threadIdx.x; c < a.pitch; c += gridDim.y * blockDim.x) {
		const int rank = c / a.width;
		to[c] = c < a.cols ? a.parts[(static_cast<int64_t>(rank) * a.count + row) * a.part_pitch + c - rank * a.width] : 0.f;
	}
}

int up8(int n) { return (n + 7) / 8 * 8; }

// threads_of is a block for a row of so many values, eight to a thread.
int threads_of(int values) { return std::clamp((values / 8 + 31) / 32 * 32, 32, 1024); }

Ranks &ranks_of(ch_stream &s) {
	if (!s.ranks) {
		fail(CH_INVALID, "an operation of a group on a stream that has joined none");
	}
	return *s.ranks;
}

// at_once is how many rows of a rank's width come together at a time.
int at_once(const Ranks &k, int64_t width8, int64_t total8) {
	const int64_t rows = std::min(kRanksScratch / (width8 * k.group->size), kRanksScratch / total8) / static_cast<int64_t>(sizeof(float));
	if (rows < 1) {
		fail(CH_UNSUPPORTED, "rows of %lld values are too long to be put together", static_cast<long long>(total8));
	}
	return static_cast<int>(std::min<int64_t>(rows, 1 << 16));
}

// shard_args lays the exchange out: best, mass and drawn of all ranks, and kept.
ShardArgs shard_args(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	Ranks &k = ranks_of(s);
	ShardArgs g = {};
	g.first = op.in, g.width = op.x.cols, g.total = op.out;
	g.rank = k.group->rank, g.ranks = k.group->size, g.rows = op.rows;
	const int here = std::max(0, std::min(g.width, g.total - g.first));
	g.a = {s.tables.device, layout.header, op.list, op.x.data, here, op.x.pitch, reinterpret_cast<uint32_t *>(s.results.device), s.tokens, s.max_rows};
	const int64_t each = static_cast<int64_t>(k.max_rows) * g.ranks;
	g.best = reinterpret_cast<Best *>(k.exchange);
	g.mass = reinterpret_cast<uint64_t *>(g.best + each);
	g.kept = reinterpret_cast<Kept *>(g.mass + each);
	g.drawn = reinterpret_cast<int32_t *>(g.kept + k.max_rows);
	g.width8 = up8(g.width), g.total8 = up8(g.total);
	g.packed = reinterpret_cast<float *>(k.packed), g.gathered = reinterpret_cast<float *>(k.gathered), g.whole = reinterpret_cast<float *>(k.whole);
	return g;
}

// exchange brings together what each rank has written at its place.
template <class T> void exchange(ch_stream &s, const ShardArgs &g, T *all) {
	s.ranks->group->all_gather(s.cuda, all + static_cast<int64_t>(g.rank) * g.rows, all, static_cast<int64_t>(sizeof(T)) * g.rows);
}

// draw_whole brings rows together and draws from them, piece by piece.
template <class In> void draw_whole(ch_stream &s, ShardArgs g, int rows) {
	const int most = at_once(*s.ranks, g.width8, g.total8);
	for (g.from = 0; g.from < rows; g.from += g.count) {
		g.count = std::min(most, rows - g.from);
		start(s, pack_kernel<In>, dim3(g.rows, 8), 256, g);
		s.ranks->group->all_gather(s.cuda, g.packed, s.ranks->gathered, static_cast<int64_t>(sizeof(float)) * g.count * g.width8);
		start(s, assemble_kernel, dim3(g.count, 8), 512, g);
		start(s, whole_draw_kernel, g.count, threads_of(g.total8), g);
	}
}

template <class In> void sample_parts(ch_stream &s, const ch_op &op, const ShardArgs &g) {
	const int threads = threads_of(op.x.pitch);
	start(s, shard_stats_kernel<In>, op.rows, threads, g);
	exchange(s, g, g.best);
	if (op.heads) {
		start(s, shard_mass_kernel<In>, op.rows, threads, g);
		exchange(s, g, g.mass);
		start(s, shard_pick_kernel<In>, op.rows, threads, g);
		draw_whole<In>(s, g, op.window);
		exchange(s, g, g.drawn);
	}
	start(s, shard_end_kernel<In>, op.rows, 128, g);
}

} // namespace

void all_reduce(ch_stream &s, const ch_op &op) {
	if (!op.dst.wide) {
		fail(CH_INVALID, "sums over ranks are float32");
	}
	ranks_of(s).group->all_reduce(s.cuda, static_cast<float *>(op.dst.data), static_cast<int64_t>(op.rows) * op.dst.pitch);
}

void all_gather(ch_stream &s, const ch_op &op) {
	if (!s.ranks && op.dst.wide && op.x.wide && op.dst.pitch == op.x.pitch) { // of one rank: a copy
		check(cudaMemcpyAsync(op.dst.data, op.x.data, sizeof(float) * op.rows * op.x.pitch, cudaMemcpyDeviceToDevice, s.cuda), "copy");
		return;
	}
	Ranks &k = ranks_of(s);
	if (!op.dst.wide || !op.x.wide || op.dst.cols != op.x.cols * k.group->size) {
		fail(CH_INVALID, "%d columns of %d ranks gathered into %d", op.x.cols, k.group->size, op.dst.cols);
	}
	const int most = at_once(k, op.x.pitch, op.dst.pitch);
	for (int from = 0; from < op.rows; from += most) {
		const int count = std::min(most, op.rows - from);
		const float *src = static_cast<const float *>(op.x.data) + static_cast<int64_t>(from) * op.x.pitch;
		k.group->all_gather(s.cuda, src, k.gathered, static_cast<int64_t>(sizeof(float)) * count * op.x.pitch);
		const SideBySide a = {reinterpret_cast<const float *>(k.gathered), static_cast<float *>(op.dst.data) + static_cast<int64_t>(from) * op.dst.pitch, count, op.x.cols, op.x.pitch, op.dst.cols, op.dst.pitch};
		start(s, side_by_side_kernel, dim3(count, 8), 256, a);
	}
}

void sample_shard(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	const ShardArgs g = shard_args(s, layout, op);
	if (op.list < 0 || op.list >= CH_LISTS || g.total >= kMaxColumns || op.window < 0 || op.window > op.rows) {
		fail(CH_UNSUPPORTED, "sampling from %d columns, list %d, %d rows put together", g.total, op.list, op.window);
	}
	if (op.x.wide) {
		sample_parts<float>(s, op, g);
	} else {
		sample_parts<bf16>(s, op, g);
	}
}

} // namespace chorale
