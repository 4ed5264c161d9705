// The rows kernel: tiles of up to 16 query rows, bound by the cache's bytes.
//
// A block takes one (tile, virtual key head, chunk) after another. Its warps
// share out the chunk's blocks of 16 positions by absolute number, each with a
// ring of copies of its own and a softmax of its own, so nothing waits for a
// barrier while positions stream by. At the end of a chunk, while copies of the
// next one are under way, the warps' shares are added in order. Chunks of a tile
// meet either one after another in one block (span), or in the block that
// finishes last, which adds them in order too: both ways do the same operations
// on the same values.
//
// A position that a row does not see leaves that row's registers unchanged to
// the bit. So with chunks at fixed positions a row's result depends on neither
// the tile it is in nor on how its tile was cut.
#pragma once

#include "attention_mma.cuh"
#include "attention_table.cuh"

namespace chorale::attention {

struct RowsArgs {
	const bf16 *q;
	bf16 *out;
	int64_t q_pitch, out_pitch;
	const bf16 *keys, *values;
	int64_t page_stride;
	int32_t slot_stride;  // elements between positions of a page
	int32_t page_shift;   // log2(page_size / 16)
	int32_t heads, split, group; // virtual key head h has query heads [h*group, (h+1)*group)
	int32_t window;
	float scale; // of scores, times log2(e)
	const int32_t *pages;
	const Header *header;
	const int32_t *first_item;
	const Tile *tiles;
	int32_t *counters;
	float *running; // [blocks][running_floats(D)]
	float2 *stats;
	float *parts;
};

constexpr int kPassRows = 4; // rows whose sums meet in shared memory at once

template <int D> struct RowsShape {
	static constexpr int kWarps = D <= 128 ? 4 : 2;
	static constexpr int kThreads = kWarps * 32;
	static constexpr int kStages = D <= 64 ? 3 : 2;
	static constexpr int kTileBytes = kBlock * D * 2;         // keys or values of a block
	static constexpr int kRingBytes = kStages * 2 * kTileBytes; // of a warp
	static constexpr int kSumPitch = D + 8; // floats; spreads rows over the banks
	static constexpr int kSharedBytes = kWarps * (kRingBytes + kPassRows * kSumPitch * 4);
};

// Work is one chunk of one item as a block sees it.
struct Work {
	int32_t item;  // of all heads; items and beyond: none
	Tile tile;
	int32_t index; // of the tile
	int32_t head;  // virtual key head
	int32_t rows;  // tokens * group
	int32_t chunk; // of the tile
	int32_t begin, end; // positions
};

// find_tile gives the tile of an item: the last one that begins at or before
// it. Each round 32 lanes narrow the range by 32.
__device__ __forceinline__ int find_tile(const int32_t *first_item, int tiles, int item) {
	const int lane = threadIdx.x & 31;
	int lo = 0, n = tiles;
	while (n > 1) {
		const int step = (n + 31) / 32, at = lane * step;
		const bool before = at < n && first_item[lo + at] <= item;
		const int hit = __popc(__ballot_sync(~0u, before)) - 1;
		lo += hit * step;
		n = min(step, n - hit * step);
	}
	return lo;
}

// enter sets the positions of a work's chunk.
__device__ __forceinline__ void enter(const RowsArgs &a, Work &w, int chunk) {
	const int size = a.header->chunk, begin = (w.tile.first_chunk + chunk) * size;
	const int seen = a.window > 0 ? w.tile.pos - a.window + 1 : 0;
	w.chunk = chunk;
	w.begin = max(begin, seen);
	w.end = min(begin + size, w.tile.pos + w.tile.tokens);
}

__device__ __forceinline__ Work find_work(const RowsArgs &a, int item) {
	const int heads = a.heads / a.group;
	Work w = {};
	w.item = item;
	if (item >= a.header->items * heads) {
		return w;
	}
	w.head = item % heads;
	w.index = find_tile(a.first_item, a.header->tiles, item / heads);
	w.tile = a.tiles[w.index];
	w.rows = w.tile.tokens * a.group;
	enter(a, w, w.tile.span ? 0 : item / heads - a.first_item[w.index]);
	return w;
}

// next_work is the same tile's next chunk, or this block's next item.
__device__ __forceinline__ Work next_work(const RowsArgs &a, Work w) {
	if (w.tile.span && w.chunk + 1 < w.tile.chunks) {
		enter(a, w, w.chunk + 1);
		return w;
	}
	return find_work(a, w.item + gridDim.x);
}

// Sums is a warp's share of a softmax for rows g and g+8, g = lane/4: maxima and
// sums are complete after reduce, maxima in powers of two.
template <int D> struct Sums {
	float max[2], sum[2];
	float out[D / 8][4];
	__device__ __forceinline__ void clear() {
		max[0] = max[1] = -INFINITY;
		sum[0] = sum[1] = 0;
#pragma unroll
		for (int i = 0; i < D / 8; i++) {
			out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0;
		}
	}
};

// Query holds the rows' queries as operands of mma, and what masks them.
template <int D> struct Query {
	uint32_t a[D / 16][4];
	int32_t pos[2]; // of rows g and g+8; -1 for none
};

template <int D> __device__ __forceinline__ Query<D> load_query(const RowsArgs &a, const Work &w) {
	const int lane = threadIdx.x & 31;
	Query<D> q;
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const int row = lane / 4 + 8 * half, token = row / a.group;
		const bool valid = row < w.rows;
		q.pos[half] = valid ? w.tile.pos + token : -1;
		const bf16 *src = a.q + (w.tile.row + (valid ? token : 0)) * a.q_pitch + (w.head * a.group + (valid ? row - token * a.group : 0)) * D + lane % 4 * 2;
#pragma unroll
		for (int k = 0; k < D / 16; k++) {
			q.a[k][half] = valid ? *reinterpret_cast<const uint32_t *>(src + k * 16) : 0;
			q.a[k][half + 2] = valid ? *reinterpret_cast<const uint32_t *>(src + k * 16 + 8) : 0;
		}
	}
	return q;
}

// copy_block starts copying one block's keys and values. Positions from `end`
// on become zeros: what lies there may be no number at all.
template <int D> __device__ __forceinline__ void copy_block(const RowsArgs &a, uint32_t ring, int page, int block, int kv_head, int end) {
	const int lane = threadIdx.x & 31;
	const int slot = (block & ((1 << a.page_shift) - 1)) * kBlock;
	const int64_t at = page * a.page_stride + static_cast<int64_t>(slot) * a.slot_stride + kv_head * D;
	constexpr int kPieces = D / 8;
#pragma unroll
	for (int i = 0; i < kBlock * kPieces / 32; i++) {
		const int row = (i * 32 + lane) / kPieces, piece = (i * 32 + lane) % kPieces;
		copy16(ring + swizzled<D>(row, piece), a.keys + at + row * a.slot_stride + piece * 8, block * kBlock + row < end);
	}
#pragma unroll
	for (int i = 0; i < kBlock * kPieces / 32; i++) {
		const int row = (i * 32 + lane) / kPieces, piece = (i * 32 + lane) % kPieces;
		copy16(ring + RowsShape<D>::kTileBytes + swizzled<D>(row, piece), a.values + at + row * a.slot_stride + piece * 8, block * kBlock + row < end);
	}
}

// mask hides from rows the positions of a block that they do not see.
template <int D> __device__ __forceinline__ void mask(const RowsArgs &a, const Query<D> &q, int block, float (&s)[2][4]) {
	const int lane = threadIdx.x & 31;
#pragma unroll
	for (int i = 0; i < 8; i++) {
		const int at = block * kBlock + i / 4 * 8 + lane % 4 * 2 + i % 2, row = q.pos[i / 2 % 2];
		if (at > row || (a.window > 0 && at <= row - a.window)) {
			s[i / 4][i % 4] = -INFINITY;
		}
	}
}

// add_block adds one block that lies in shared memory.
template <int D> __device__ __forceinline__ void add_block(const RowsArgs &a, const Query<D> &q, uint32_t ring, int block, bool masked, Sums<D> &sums) {
	const int lane = threadIdx.x & 31, r = lane & 7;
	float s[2][4] = {};
#pragma unroll
	for (int k = 0; k < D / 16; k++) {
		uint32_t b[4];
		load4(b, ring + swizzled<D>(lane / 16 * 8 + r, k * 2 + (lane / 8 & 1)));
		mma(s[0], q.a[k], b[0], b[1]);
		mma(s[1], q.a[k], b[2], b[3]);
	}
	if (masked) {
		mask<D>(a, q, block, s);
	}
	float factor[2];
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const int i = half * 2;
		float top = fmaxf(fmaxf(s[0][i], s[0][i + 1]), fmaxf(s[1][i], s[1][i + 1]));
		top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
		top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
		top = fmaxf(sums.max[half], top * a.scale);
		factor[half] = sums.max[half] == top ? 1.f : shrink_factor(sums.max[half], top);
		sums.max[half] = top;
		const float base = top == -INFINITY ? 0.f : top;
		float sum = 0;
#pragma unroll
		for (int j = 0; j < 4; j++) {
			float &x = s[j / 2][i + j % 2];
			x = exp2_fast(__fmaf_rn(x, a.scale, -base));
			sum += x;
		}
		sums.sum[half] = __fmaf_rn(sums.sum[half], factor[half], sum);
	}
	if (__any_sync(~0u, factor[0] != 1.f || factor[1] != 1.f)) {
#pragma unroll
		for (int i = 0; i < D / 8; i++) {
#pragma unroll
			for (int j = 0; j < 4; j++) {
				sums.out[i][j] *= factor[j / 2];
			}
		}
	}
	const uint32_t p[4] = {pack(s[0][0], s[0][1]), pack(s[0][2], s[0][3]), pack(s[1][0], s[1][1]), pack(s[1][2], s[1][3])};
#pragma unroll
	for (int d = 0; d < D / 16; d++) {
		uint32_t b[4];
		load4_transposed(b, ring + RowsShape<D>::kTileBytes + swizzled<D>((lane / 8 & 1) * 8 + r, d * 2 + lane / 16));
		mma(sums.out[d * 2], p, b[0], b[1]);
		mma(sums.out[d * 2 + 1], p, b[2], b[3]);
	}
}

// Stream is a warp's way through its blocks of a chunk.
template <int D> struct Stream {
	using Shape = RowsShape<D>;
	uint32_t ring;
	int32_t first, count; // blocks first, first + kWarps, ...
	int32_t page;         // of block number `lane` of these
	int32_t kv_head, end;

	__device__ __forceinline__ void open(const RowsArgs &a, const Work &w) {
		const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, from = w.begin / kBlock;
		first = from + (warp - from % Shape::kWarps + Shape::kWarps) % Shape::kWarps;
		count = max(0, ((w.end + kBlock - 1) / kBlock - first + Shape::kWarps - 1) / Shape::kWarps);
		page = lane < count ? a.pages[w.tile.first_page + ((first + lane * Shape::kWarps) >> a.page_shift)] : 0;
		kv_head = w.head / a.split;
		end = w.end;
	}

	__device__ __forceinline__ int block(int i) const { return first + i * Shape::kWarps; }
	__device__ __forceinline__ uint32_t stage(int i) const { return ring + i % Shape::kStages * 2 * Shape::kTileBytes; }

	// copy starts copying block i, or an empty group.
	__device__ __forceinline__ void copy(const RowsArgs &a, int i) const {
		const int p = __shfl_sync(~0u, page, i & 31);
		if (i < count) {
			copy_block<D>(a, stage(i), p, block(i), kv_head, end);
		}
		copy_commit();
	}

	__device__ __forceinline__ void fill(const RowsArgs &a) const {
#pragma unroll
		for (int i = 0; i < Shape::kStages - 1; i++) {
			copy(a, i);
		}
	}

	// drain adds all blocks.
	__device__ __forceinline__ void drain(const RowsArgs &a, const Work &w, const Query<D> &q, Sums<D> &sums) const {
		const int last = w.tile.pos + w.tile.tokens - 1;
		for (int i = 0; i < count; i++) {
			copy_wait<Shape::kStages - 2>();
			__syncwarp();
			copy(a, i + Shape::kStages - 1);
			const int from = block(i) * kBlock;
			const bool masked = from + kBlock - 1 > w.tile.pos || (a.window > 0 && from <= last - a.window);
			add_block<D>(a, q, stage(i), block(i), masked, sums);
		}
		copy_wait<0>();
		__syncwarp();
	}
};

// Total folds shares of a softmax into one, in the order of calls.
struct Total {
	float max = -INFINITY, sum = 0;
	float4 out = {0, 0, 0, 0};
	__device__ __forceinline__ void add(float m, float l, const float4 &o) {
		const float now = fmaxf(max, m), f = shrink_factor(max, now), g = shrink_factor(m, now);
		max = now;
		sum = __fmaf_rn(sum, f, __fmul_rn(l, g));
		out.x = __fmaf_rn(out.x, f, __fmul_rn(o.x, g));
		out.y = __fmaf_rn(out.y, f, __fmul_rn(o.y, g));
		out.z = __fmaf_rn(out.z, f, __fmul_rn(o.z, g));
		out.w = __fmaf_rn(out.w, f, __fmul_rn(o.w, g));
	}
};

// write finishes four channels of one row.
template <int D> __device__ __forceinline__ void write(const RowsArgs &a, const Work &w, int row, int channel, const Total &t) {
	const int token = row / a.group;
	bf16 *dst = a.out + (w.tile.row + token) * a.out_pitch + (w.head * a.group + row - token * a.group) * D + channel;
	const float f = t.sum > 0 ? 1.f / t.sum : 0.f;
	*reinterpret_cast<uint2 *>(dst) = make_uint2(pack(t.out.x * f, t.out.y * f), pack(t.out.z * f, t.out.w * f));
}

// store puts this warp's shares of rows [row0, row0 + kPassRows) into shared
// memory.
template <int D> __device__ __forceinline__ void store(float *shared, float2 (*stats)[kPassRows], const Sums<D> &sums, int row0) {
	const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
	float *out = shared + warp * kPassRows * RowsShape<D>::kSumPitch;
#pragma unroll
	for (int half = 0; half < 2; half++) {
		float sum = sums.sum[half];
		sum += __shfl_xor_sync(~0u, sum, 1);
		sum += __shfl_xor_sync(~0u, sum, 2);
		const int row = lane / 4 + 8 * half - row0;
		if (row < 0 || row >= kPassRows) {
			continue;
		}
		if (lane % 4 == 0) {
			stats[warp][row] = make_float2(sums.max[half], sum);
		}
#pragma unroll
		for (int d = 0; d < D / 8; d++) {
			*reinterpret_cast<float2 *>(out + row * RowsShape<D>::kSumPitch + d * 8 + lane % 4 * 2) = make_float2(sums.out[d][half * 2], sums.out[d][half * 2 + 1]);
		}
	}
}

// gather adds the warps' shares of four channels of one row of a pass.
template <int D> __device__ __forceinline__ Total gather(const float *shared, const float2 (*stats)[kPassRows], int row, int channel) {
	Total t;
#pragma unroll
	for (int warp = 0; warp < RowsShape<D>::kWarps; warp++) {
		const float *out = shared + (warp * kPassRows + row) * RowsShape<D>::kSumPitch + channel;
		t.add(stats[warp][row].x, stats[warp][row].y, *reinterpret_cast<const float4 *>(out));
	}
	return t;
}

// finish_span adds a chunk's sum to the tile's running total, of which each
// thread keeps the channels that it always has.
template <int D> __device__ __forceinline__ void finish_span(const RowsArgs &a, const Work &w, int row, int channel, const Total &now) {
	float *running = a.running + static_cast<int64_t>(blockIdx.x) * running_floats(D);
	float2 *stats = reinterpret_cast<float2 *>(running) + row * (D / 4) + channel / 4; // a copy per thread
	float4 *out = reinterpret_cast<float4 *>(running + kTileRows * D / 2) + row * (D / 4) + channel / 4;
	Total t;
	if (w.chunk > 0) {
		t.max = stats->x;
		t.sum = stats->y;
		t.out = *out;
	}
	t.add(now.max, now.sum, now.out);
	if (w.chunk == w.tile.chunks - 1) {
		write<D>(a, w, row, channel, t);
		return;
	}
	*stats = make_float2(t.max, t.sum);
	*out = t.out;
}

// finish_part keeps a chunk's sum for the block that adds them.
template <int D> __device__ __forceinline__ void finish_part(const RowsArgs &a, const Work &w, int row, int channel, const Total &now) {
	const int64_t part = w.tile.slot + static_cast<int64_t>(w.chunk) * w.tile.tokens * a.heads + w.head * w.rows + row;
	__stcg(reinterpret_cast<float4 *>(a.parts + part * D + channel), now.out);
	if (channel == 0) {
		__stcg(a.stats + part, make_float2(now.max, now.sum));
	}
}

// finish_last adds the parts of all chunks of a tile.
template <int D> __device__ __forceinline__ void finish_last(const RowsArgs &a, const Work &w) {
	const int64_t stride = static_cast<int64_t>(w.tile.tokens) * a.heads;
	for (int e = threadIdx.x; e < w.rows * (D / 4); e += RowsShape<D>::kThreads) {
		const int row = e / (D / 4), channel = e % (D / 4) * 4;
		const int64_t first = w.tile.slot + w.head * w.rows + row;
		Total t;
#pragma unroll 4
		for (int c = 0; c < w.tile.chunks; c++) {
			const float2 s = __ldcg(a.stats + first + c * stride);
			t.add(s.x, s.y, __ldcg(reinterpret_cast<const float4 *>(a.parts + (first + c * stride) * D + channel)));
		}
		write<D>(a, w, row, channel, t);
	}
}

// last_of_tile tells whether this block's chunk was the tile's last to be
// finished; then all parts are visible and the counter is ready for the next run.
__device__ __forceinline__ bool last_of_tile(const RowsArgs &a, const Work &w, int *shared) {
	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0) {
		int32_t *counter = a.counters + w.index * (a.heads / a.group) + w.head;
		const bool last = atomicAdd(counter, 1) == w.tile.chunks - 1;
		if (last) {
			*counter = 0;
		}
		*shared = last;
		__threadfence();
	}
	__syncthreads();
	return *shared;
}

// finish adds the warps' shares, a few rows at a time, and hands them on.
template <int D> __device__ __forceinline__ void finish(const RowsArgs &a, const Work &w, float *shared, const Sums<D> &sums) {
	__shared__ float2 stats[RowsShape<D>::kWarps][kPassRows];
	__shared__ int last;
	for (int row0 = 0; row0 < w.rows; row0 += kPassRows) {
		store<D>(shared, stats, sums, row0);
		__syncthreads();
		for (int e = threadIdx.x; e < min(kPassRows, w.rows - row0) * (D / 4); e += RowsShape<D>::kThreads) {
			const int row = e / (D / 4), channel = e % (D / 4) * 4;
			const Total now = gather<D>(shared, stats, row, channel);
			if (w.tile.span) {
				finish_span<D>(a, w, row0 + row, channel, now);
			} else {
				finish_part<D>(a, w, row0 + row, channel, now);
			}
		}
		__syncthreads();
	}
	if (!w.tile.span && last_of_tile(a, w, &last)) {
		finish_last<D>(a, w);
	}
}

template <int D> __global__ void __launch_bounds__(RowsShape<D>::kThreads, 2) rows_kernel(const __grid_constant__ RowsArgs a) {
	using Shape = RowsShape<D>;
	extern __shared__ __align__(128) char shared[];
	Stream<D> stream;
	stream.ring = shared_address(shared) + threadIdx.x / 32 * Shape::kRingBytes;
	Work w = find_work(a, blockIdx.x);
	const int items = a.header->items * (a.heads / a.group);
	if (w.item >= items) {
		return;
	}
	stream.open(a, w);
	stream.fill(a);
	Query<D> q = load_query<D>(a, w);
	while (true) {
		const Work next = next_work(a, w);
		Sums<D> sums;
		sums.clear();
		stream.drain(a, w, q, sums);
		if (next.item < items) {
			stream.open(a, next);
			stream.fill(a);
		}
		finish<D>(a, w, reinterpret_cast<float *>(shared + Shape::kWarps * Shape::kRingBytes), sums);
		if (next.item >= items) {
			return;
		}
		if (next.item != w.item) {
			q = load_query<D>(a, next);
		}
		w = next;
	}
}

} // namespace chorale::attention
