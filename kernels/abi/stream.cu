#include "stream.h"

#include <algorithm>

using namespace chorale;

namespace {

void release(Block &b) {
	cudaFree(b.device);
	cudaFreeHost(b.host);
	b = {};
}

// release keeps the events.
void release(Results &r) {
	cudaFree(r.device);
	r.device = nullptr, r.words = 0;
	for (char *&host : r.host) {
		cudaFreeHost(host);
		host = nullptr;
	}
}

// reserve makes a block of at least `bytes`, host and device alike.
Block reserve(int64_t bytes) {
	Block b;
	try {
		check(cudaMallocHost(&b.host, bytes), "pinned memory for tables");
		check(cudaMalloc(&b.device, bytes), "device memory for tables");
	} catch (...) {
		release(b);
		throw;
	}
	memset(b.host, 0, bytes);
	b.bytes = bytes;
	return b;
}

// forget drops all graphs: addresses in them are no longer true.
void forget(ch_stream &s) {
	for (Graph &g : s.graphs) {
		if (g.exec) {
			cudaGraphExecDestroy(g.exec);
		}
	}
	s.graphs.clear();
}

void open_stream(ch_stream &s, const ch_stream_options &o) {
	if (o.max_rows <= 0 || o.ropes < 0) {
		fail(CH_INVALID, "stream of %d rows", o.max_rows);
	}
	s.max_rows = o.max_rows;
	check(cudaStreamCreateWithFlags(&s.cuda, cudaStreamNonBlocking), "stream");
	check(cudaMalloc(&s.workspace, kProductWorkspace), "workspace");
	const size_t tokens = sizeof(int32_t) * 2 * o.max_rows;
	check(cudaMalloc(&s.tokens, tokens), "tokens");
	check(cudaMemset(s.tokens, 0, tokens), "tokens");
	check(cudaEventCreateWithFlags(&s.uploaded, cudaEventDisableTiming), "event");
	for (cudaEvent_t &e : s.results.done) {
		check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "event");
	}
	s.ropes.resize(o.ropes);
	for (int i = 0; i < o.ropes; i++) {
		Rope &r = s.ropes[i];
		r.half = o.half[i], r.scale = o.scale[i];
		check(cudaMalloc(&r.inv_freq, sizeof(float) * r.half), "rope");
		check(cudaMalloc(&r.angles, sizeof(float2) * r.half * o.max_rows), "rope");
		check(cudaMemcpy(r.inv_freq, o.inv_freq[i], sizeof(float) * r.half, cudaMemcpyHostToDevice), "rope");
	}
}

void close_stream(ch_stream &s) {
	forget(s);
	release(s.tables);
	release(s.slots);
	cudaFree(s.lora_scratch);
	cudaFree(s.workspace);
	cudaFree(s.tokens);
	release(s.results);
	for (const cudaEvent_t e : {s.uploaded, s.results.done[0], s.results.done[1]}) {
		if (e) {
			cudaEventDestroy(e);
		}
	}
	for (Rope &r : s.ropes) {
		cudaFree(r.inv_freq);
		cudaFree(r.angles);
	}
	if (s.cuda) {
		cudaStreamDestroy(s.cuda);
	}
}

// grow_slots makes room for more or longer slots and keeps what they hold.
void grow_slots(ch_stream &s, int32_t slots, int32_t terms) {
	if (terms > CH_MAX_TERMS) {
		fail(CH_UNSUPPORTED, "one operation has %d LoRA terms, at most %d are served", terms, CH_MAX_TERMS);
	}
	slots = std::max(slots, s.slot_count), terms = std::max(terms, s.slot_terms);
	const int64_t stride = (16 + static_cast<int64_t>(terms) * sizeof(ch_lora_term) + 15) / 16 * 16;
	Block bigger = reserve(stride * slots);
	for (int32_t i = 0; i < s.slot_count; i++) {
		memcpy(bigger.host + i * stride, s.slots.host + i * s.slot_stride, s.slot_stride);
	}
	release(s.slots);
	s.slots = bigger;
	s.slot_count = slots, s.slot_terms = terms, s.slot_stride = stride;
}

// grow_results makes room for results; what they hold is lost.
void grow_results(ch_stream &s, int32_t words) {
	static_assert(CH_RESULTS == 2);
	release(s.results);
	const int64_t bytes = static_cast<int64_t>(words) * 4;
	check(cudaMalloc(&s.results.device, bytes), "results");
	for (char *&host : s.results.host) {
		check(cudaMallocHost(&host, bytes * (s.ranks ? s.ranks->group->size : 1)), "pinned memory for results");
	}
	if (s.ranks) {
		s.ranks->grow_results(words);
	}
	s.results.words = words;
}

// make_room grows what is too small. The stream is idle meanwhile.
void make_room(ch_stream &s, const ch_tables &need, ch_tables &now) {
	now = {};
	const bool slots = need.slots > s.slot_count || need.terms > s.slot_terms;
	if (need.bytes > s.tables.bytes || slots || need.tiles > s.lora_tiles || need.words > s.results.words) {
		check(cudaStreamSynchronize(s.cuda), "making room");
		forget(s);
	}
	if (need.bytes > s.tables.bytes) {
		const Block bigger = reserve(need.bytes * 2);
		if (s.tables.bytes > 0) {
			memcpy(bigger.host, s.tables.host, s.tables.bytes);
		}
		release(s.tables);
		s.tables = bigger;
	}
	if (slots) {
		const auto up = [](int32_t want, int32_t have) { return want <= have ? have : std::max(want, have * 2); };
		grow_slots(s, up(need.slots, s.slot_count), std::min(up(need.terms, s.slot_terms), std::max(need.terms, CH_MAX_TERMS)));
		now.moved = 1;
	}
	if (need.tiles > s.lora_tiles) {
		cudaFree(s.lora_scratch);
		s.lora_scratch = nullptr, s.lora_tiles = 0;
		const int64_t tiles = need.tiles * 3 / 2;
		check(cudaMalloc(&s.lora_scratch, tiles * 512), "LoRA scratch");
		s.lora_tiles = tiles;
	}
	if (need.words > s.results.words) {
		grow_results(s, need.words * 2);
	}
	now.words = s.results.words;
	std::copy(s.results.host, s.results.host + CH_RESULTS, reinterpret_cast<char **>(now.results));
	now.bytes = s.tables.bytes, now.tiles = s.lora_tiles;
	now.slots = s.slot_count, now.terms = s.slot_terms, now.slot_stride = s.slot_stride;
	now.tables = s.tables.host, now.slot_data = s.slots.host;
}

void upload(ch_stream &s, const ch_submission &sub) {
	if (sub.used_bytes < 0 || sub.used_bytes > s.tables.bytes || sub.first_slot < 0 || sub.last_slot > s.slot_count || sub.slot_bytes > s.slot_stride) {
		fail(CH_INVALID, "tables of %d bytes, slots [%d, %d) of %d bytes", sub.used_bytes, sub.first_slot, sub.last_slot, sub.slot_bytes);
	}
	if (sub.used_bytes > 0) {
		check(cudaMemcpyAsync(s.tables.device, s.tables.host, sub.used_bytes, cudaMemcpyHostToDevice, s.cuda), "uploading tables");
	}
	if (sub.first_slot < sub.last_slot && sub.slot_bytes > 0) {
		const int64_t at = sub.first_slot * s.slot_stride;
		check(cudaMemcpy2DAsync(s.slots.device + at, s.slot_stride, s.slots.host + at, s.slot_stride, sub.slot_bytes, sub.last_slot - sub.first_slot, cudaMemcpyHostToDevice, s.cuda), "uploading LoRA terms");
	}
}

// fetch brings results to the host, and marks the end of the submission.
void fetch(ch_stream &s, const ch_submission &sub) {
	if (sub.words > 0) {
		int64_t bytes = static_cast<int64_t>(sub.words) * 4;
		const char *from = s.results.device;
		if (sub.gather && s.ranks) {
			s.ranks->group->all_gather(s.cuda, from, s.ranks->results, bytes);
			from = s.ranks->results, bytes *= s.ranks->group->size;
		}
		check(cudaMemcpyAsync(s.results.host[sub.result], from, bytes, cudaMemcpyDeviceToHost, s.cuda), "fetching results");
	}
	check(cudaEventRecord(s.results.done[sub.result], s.cuda), "marking the end of a step");
}

void launch_all(ch_stream &s, const ch_submission &sub) {
	for (int32_t i = 0; i < sub.count; i++) {
		launch(s, sub.layout, sub.ops[i]);
	}
}

// record captures the operations as a graph.
cudaGraphExec_t record(ch_stream &s, const ch_submission &sub) {
	cudaGraph_t graph = nullptr;
	cudaGraphExec_t exec = nullptr;
	check(cudaStreamBeginCapture(s.cuda, cudaStreamCaptureModeThreadLocal), "recording a graph");
	try {
		launch_all(s, sub);
	} catch (...) {
		cudaStreamEndCapture(s.cuda, &graph);
		cudaGraphDestroy(graph);
		throw;
	}
	check(cudaStreamEndCapture(s.cuda, &graph), "recording a graph");
	const cudaError_t e = cudaGraphInstantiate(&exec, graph, 0);
	cudaGraphDestroy(graph);
	check(e, "instantiating a graph");
	return exec;
}

// hash_of mixes the bytes of operations, eight at a time.
uint64_t hash_of(const ch_submission &sub) {
	static_assert(sizeof(ch_op) % 8 == 0);
	uint64_t h = static_cast<uint64_t>(sub.layout.rows) + 0x9e3779b97f4a7c15u;
	const auto *words = reinterpret_cast<const char *>(sub.ops);
	for (size_t i = 0; i < sizeof(ch_op) * sub.count; i += 8) {
		uint64_t w;
		memcpy(&w, words + i, 8);
		h = (h ^ w) * 0xff51afd7ed558ccdu;
		h ^= h >> 32;
	}
	return h;
}

bool same(const Graph &g, const ch_submission &sub, uint64_t hash) {
	return g.hash == hash && g.ops.size() == static_cast<size_t>(sub.count) && memcmp(&g.layout, &sub.layout, sizeof g.layout) == 0 &&
	       memcmp(g.ops.data(), sub.ops, sizeof(ch_op) * sub.count) == 0;
}

// seen finds the submission among those of before and puts it first; a new one
// is entered without a graph.
Graph &seen(ch_stream &s, const ch_submission &sub, bool *before) {
	const uint64_t hash = hash_of(sub);
	for (auto it = s.graphs.begin(); it != s.graphs.end(); ++it) {
		if (same(*it, sub, hash)) {
			s.graphs.splice(s.graphs.begin(), s.graphs, it);
			*before = true;
			return s.graphs.front();
		}
	}
	if (s.graphs.size() >= kGraphs) {
		if (s.graphs.back().exec) {
			cudaGraphExecDestroy(s.graphs.back().exec);
		}
		s.graphs.pop_back();
	}
	s.graphs.push_front({hash, sub.layout, {sub.ops, sub.ops + sub.count}, nullptr});
	*before = false;
	return s.graphs.front();
}

// replay runs a submission by its graph: nothing the first time, recording it
// the second time (kernels are chosen by then). False when there is none.
bool replay(ch_stream &s, const ch_submission &sub) {
	bool before = false;
	Graph &g = seen(s, sub, &before);
	if (!before) {
		return false;
	}
	if (!g.exec) {
		g.exec = record(s, sub);
		s.stats.captured++;
	}
	check(cudaGraphLaunch(g.exec, s.cuda), "graph");
	s.stats.replayed++;
	return true;
}

void submit(ch_stream &s, const ch_submission &sub) {
	if (sub.result < 0 || sub.result >= CH_RESULTS || sub.words < 0 || sub.words > s.results.words) {
		fail(CH_INVALID, "%d words of results into buffer %d", sub.words, sub.result);
	}
	upload(s, sub);
	s.attention.prepare(s, sub);
	check(cudaEventRecord(s.uploaded, s.cuda), "uploading tables");
	if (!sub.graph || !replay(s, sub)) {
		launch_all(s, sub);
		s.stats.eager++;
	}
	fetch(s, sub);
}

template <class F> int32_t on_stream(ch_stream *s, ch_error *err, F f) { return guarded(s ? s->context : nullptr, err, f); }

} // namespace

CH_EXPORT int32_t ch_stream_open(ch_context *c, const ch_stream_options *options, ch_stream **out, ch_error *err) {
	auto s = std::make_unique<ch_stream>();
	s->context = c;
	const int32_t status = guarded(c, err, [&] { open_stream(*s, *options); });
	if (status != CH_OK) {
		close_stream(*s);
		return status;
	}
	*out = s.release();
	return CH_OK;
}

CH_EXPORT int32_t ch_stream_close(ch_stream *s, ch_error *err) {
	const int32_t status = on_stream(s, err, [&] { check(cudaStreamSynchronize(s->cuda), "closing a stream"); });
	if (s != nullptr) {
		close_stream(*s);
		delete s;
	}
	return status;
}

CH_EXPORT int32_t ch_stream_tables(ch_stream *s, const ch_tables *need, ch_tables *now, ch_error *err) {
	return on_stream(s, err, [&] { make_room(*s, *need, *now); });
}

CH_EXPORT int32_t ch_submit(ch_stream *s, const ch_submission *sub, ch_error *err) {
	return on_stream(s, err, [&] { submit(*s, *sub); });
}

CH_EXPORT int32_t ch_ready(ch_stream *s, ch_error *err) {
	return on_stream(s, err, [&] { check(cudaEventSynchronize(s->uploaded), "step"); });
}

CH_EXPORT int32_t ch_wait(ch_stream *s, int32_t result, ch_error *err) {
	return on_stream(s, err, [&] {
		if (result >= CH_RESULTS) {
			fail(CH_INVALID, "result buffer %d of %d", result, CH_RESULTS);
		}
		check(result < 0 ? cudaStreamSynchronize(s->cuda) : cudaEventSynchronize(s->results.done[result]), "step");
	});
}

CH_EXPORT int32_t ch_stream_statistics(ch_stream *s, ch_stream_stats *out, ch_error *err) {
	return on_stream(s, err, [&] { *out = s->stats; });
}
