// Attention: planning on the host, and the choice of kernels.
#include "attention.cuh"

#include <math.h>

#include <algorithm>

#include "attention_launch.h"

namespace chorale {

using namespace attention;

namespace {

constexpr int kFewRows = 64; // rows times heads below which the rows kernel is the faster one

// Planner collects one step's tiles.
class Planner {
public:
	Planner(const AttentionStep &step, void *table)
		: step(step), groups(step.shape.heads, step.shape.kv_heads), layout(step.rows), base(static_cast<char *>(table)),
		  header(reinterpret_cast<Header *>(base)), first_item(reinterpret_cast<int32_t *>(base + layout.first_item)),
		  tiles(reinterpret_cast<Tile *>(base + layout.tiles)), prefill(reinterpret_cast<PrefillTile *>(base + layout.prefill)) {
		*header = {};
	}

	bool run();
	int32_t prefill_tiles() const { return header->prefill_tiles; }

private:
	int heads() const { return step.shape.heads / groups.size; } // virtual key heads
	int max_chunk() const { return step.shape.head_dim <= 128 ? 2048 : 1024; }
	int seen(int pos) const { return step.shape.window > 0 ? std::max(0, pos - step.shape.window + 1) : 0; }
	bool few(const ch_seq &s) const { return step.deterministic || s.q_len * groups.size <= kFewRows; }

	bool add(const ch_seq &s);
	void add_prefill();
	int choose_chunk() const;
	void cut();

	const AttentionStep &step;
	const Groups groups;
	const Layout layout;
	char *const base;
	Header *const header;
	int32_t *const first_item;
	Tile *const tiles;
	PrefillTile *const prefill;
};

bool Planner::add(const ch_seq &s) {
	const int pos = s.ctx_len - s.q_len;
	if (s.q_len < 0 || pos < 0 || s.q_start < 0 || s.q_start + s.q_len > step.rows || s.first_page < 0) {
		return false;
	}
	if (!few(s)) {
		return true;
	}
	const int most = kTileRows / groups.size;
	for (int t = 0; t < s.q_len; t += most) {
		if (header->tiles >= step.rows) {
			return false;
		}
		tiles[header->tiles++] = {s.q_start + t, std::min(most, s.q_len - t), pos + t, s.first_page, 0, 0, 0, 0};
	}
	return true;
}

// add_prefill makes the prefill tiles, those with the longest context first.
void Planner::add_prefill() {
	const int most = kPrefillRows / groups.size;
	for (int i = 0; i < step.count; i++) {
		const ch_seq &s = step.seqs[i];
		for (int t = 0; !few(s) && t < s.q_len; t += most) {
			prefill[header->prefill_tiles++] = {s.q_start + t, std::min(most, s.q_len - t), s.ctx_len - s.q_len + t, s.first_page};
		}
	}
	std::sort(prefill, prefill + header->prefill_tiles, [](const PrefillTile &a, const PrefillTile &b) { return a.pos != b.pos ? a.pos > b.pos : a.row < b.row; });
}

// choose_chunk weighs what each chunk costs beside its positions against the
// processors that stand idle while the last chunks finish.
int Planner::choose_chunk() const {
	if (step.deterministic) {
		return kFixedChunk;
	}
	constexpr double kItem = 80; // positions that are read in the time which an item takes beside its own
	const double blocks = static_cast<double>(step.processors) * kRowsBlocks;
	int best = 128;
	double best_cost = INFINITY;
	for (int chunk = 128; chunk <= max_chunk(); chunk *= 2) {
		double work = 0;
		int longest = 0;
		for (int i = 0; i < header->tiles; i++) {
			const int begin = seen(tiles[i].pos), end = tiles[i].pos + tiles[i].tokens;
			work += end - begin + kItem * ((end - 1) / chunk - begin / chunk + 1);
			longest = std::max(longest, std::min(chunk, end - begin));
		}
		const double cost = work * heads() / blocks + 0.5 * (longest + kItem);
		if (cost < best_cost) {
			best = chunk, best_cost = cost;
		}
	}
	return best;
}

// cut makes chunks of the tiles. Tiles are computed in one go where there is
// but one chunk, where tiles enough keep every processor busy (prompts in
// deterministic mode), and where no room is left to keep chunks apart.
void Planner::cut() {
	const int chunk = header->chunk = choose_chunk();
	int64_t parts = 0;
	for (int i = 0; i < header->tiles; i++) {
		Tile &t = tiles[i];
		t.first_chunk = seen(t.pos) / chunk;
		t.chunks = (t.pos + t.tokens - 1) / chunk - t.first_chunk + 1;
		const int64_t need = static_cast<int64_t>(t.chunks) * t.tokens * step.shape.heads;
		const bool many = step.deterministic && static_cast<int64_t>(header->tiles) * heads() >= 8 * step.processors && t.tokens > 1;
		t.span = t.chunks == 1 || many || parts + need > step.spare_parts;
		if (!t.span) {
			t.slot = static_cast<int32_t>(parts);
			parts += need;
		}
		first_item[i] = header->items;
		header->items += t.span ? 1 : t.chunks;
	}
	first_item[header->tiles] = header->items;
}

bool Planner::run() {
	for (int i = 0; i < step.count; i++) {
		if (!add(step.seqs[i])) {
			return false;
		}
	}
	add_prefill();
	cut();
	return true;
}

int log2_of(int n) {
	int k = 0;
	while (1 << k < n) {
		k++;
	}
	return k;
}

template <int D> cudaError_t start(const AttentionRun &run, cudaStream_t stream) {
	const Groups groups(run.shape.heads, run.shape.kv_heads);
	const Layout layout(run.rows);
	const char *table = static_cast<const char *>(run.table);
	const auto *keys = static_cast<const bf16 *>(run.cache.keys), *values = static_cast<const bf16 *>(run.cache.values);
	const int32_t slot_stride = run.shape.kv_heads * D, page_shift = log2_of(run.shape.page_size / kBlock);
	const float scale = run.scale * static_cast<float>(M_LOG2E);
	if (run.prefill_tiles > 0) {
		const PrefillArgs args = {run.q, run.out, run.q_pitch, run.out_pitch, keys, values, run.cache.page_stride, slot_stride, page_shift,
			run.shape.heads, groups.split, groups.size, run.shape.window, scale, run.pages, reinterpret_cast<const PrefillTile *>(table + layout.prefill)};
		if (const cudaError_t e = Launch<D>::prefill(args, run.prefill_tiles, run.hopper, stream); e != cudaSuccess) {
			return e;
		}
	}
	const int blocks = run.processors * kRowsBlocks;
	char *base = static_cast<char *>(run.memory);
	const RowsArgs args = {run.q, run.out, run.q_pitch, run.out_pitch, keys, values, run.cache.page_stride, slot_stride, page_shift,
		run.shape.heads, groups.split, groups.size, run.shape.window, scale, run.pages,
		reinterpret_cast<const Header *>(table), reinterpret_cast<const int32_t *>(table + layout.first_item), reinterpret_cast<const Tile *>(table + layout.tiles),
		reinterpret_cast<int32_t *>(base), reinterpret_cast<float *>(base + run.space.running), reinterpret_cast<float2 *>(base + run.space.stats), reinterpret_cast<float *>(base + run.space.values)};
	return Launch<D>::rows(args, blocks, stream);
}

} // namespace

int32_t attention_supports(const AttentionShape &s) {
	const bool dim = s.head_dim == 64 || s.head_dim == 96 || s.head_dim == 128 || s.head_dim == 256;
	const bool page = s.page_size >= kBlock && (s.page_size & (s.page_size - 1)) == 0;
	if (!dim || !page || s.kv_heads <= 0 || s.heads <= 0 || s.heads % s.kv_heads != 0 || s.window < 0) {
		return CH_UNSUPPORTED;
	}
	return Groups(s.heads, s.kv_heads).size <= kTileRows ? CH_OK : CH_UNSUPPORTED;
}

int64_t attention_table_bytes(int32_t rows) { return Layout(rows).bytes; }

AttentionSpace attention_space(int32_t rows, int32_t heads, int32_t head_dim, int32_t processors, int64_t budget) {
	AttentionSpace s = {};
	s.parts = std::max<int64_t>(0, budget / (8 + 4 * head_dim));
	s.running = align16(int64_t{4} * rows * heads); // counters come first
	s.stats = s.running + int64_t{4} * processors * kRowsBlocks * running_floats(head_dim);
	s.values = align16(s.stats + s.parts * 8);
	s.bytes = s.values + s.parts * head_dim * 4;
	return s;
}

int32_t attention_plan(const AttentionStep &step, void *table, AttentionPlan *plan) {
	if (attention_supports(step.shape) != CH_OK) {
		return CH_UNSUPPORTED;
	}
	Planner planner(step, table);
	if (!planner.run()) {
		return CH_INVALID;
	}
	const Layout layout(step.rows);
	plan->prefill_tiles = planner.prefill_tiles();
	plan->used_bytes = static_cast<int32_t>(layout.prefill + sizeof(PrefillTile) * plan->prefill_tiles);
	return CH_OK;
}

int32_t attention_run(const AttentionRun &run, cudaStream_t stream) {
	if (attention_supports(run.shape) != CH_OK) {
		return CH_UNSUPPORTED;
	}
	if (!(run.scale > 0) || run.q_pitch % 8 != 0 || run.out_pitch % 8 != 0) {
		return CH_INVALID;
	}
	cudaError_t e = cudaErrorInvalidValue;
	switch (run.shape.head_dim) {
	case 64: e = start<64>(run, stream); break;
	case 96: e = start<96>(run, stream); break;
	case 128: e = start<128>(run, stream); break;
	case 256: e = start<256>(run, stream); break;
	}
	return e == cudaSuccess ? CH_OK : CH_DEVICE;
}

} // namespace chorale
