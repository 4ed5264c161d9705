#include "attention_ops.h"

#include <cstring>

#include "stream.h"

namespace chorale {

namespace {

// What a stream spends on keeping parts of long contexts apart.
constexpr int64_t kPartsBudget = 64 << 20;

AttentionShape shape_of(const ch_op &op) { return {op.heads, op.cache.kv_heads, op.cache.head_dim, op.cache.page_size, op.window}; }

bool same(const AttentionShape &a, const AttentionShape &b) { return memcmp(&a, &b, sizeof a) == 0; }

bool served(const ch_op &op) { return op.scale > 0 && attention_supports(shape_of(op)) == CH_OK; }

} // namespace

AttentionOps::~AttentionOps() {
	for (Planned &p : planned_) {
		cudaFreeHost(p.host);
		cudaFree(p.device);
	}
	for (Workspace &w : workspaces_) {
		cudaFree(w.memory);
	}
}

Planned *AttentionOps::find(const AttentionShape &shape) {
	for (Planned &p : planned_) {
		if (same(p.shape, shape)) {
			return &p;
		}
	}
	return nullptr;
}

Workspace &AttentionOps::workspace(ch_stream &s, const AttentionShape &shape) {
	for (Workspace &w : workspaces_) {
		if (w.heads == shape.heads && w.head_dim == shape.head_dim) {
			return w;
		}
	}
	Workspace w;
	w.heads = shape.heads, w.head_dim = shape.head_dim;
	w.space = attention_space(s.max_rows, shape.heads, shape.head_dim, s.context->info.processors, kPartsBudget);
	check(cudaMalloc(&w.memory, w.space.bytes), "attention workspace");
	workspaces_.push_back(w);
	check(cudaMemsetAsync(w.memory, 0, w.space.bytes, s.cuda), "attention workspace");
	return workspaces_.back();
}

void AttentionOps::prepare(ch_stream &s, const ch_submission &sub) {
	for (Planned &p : planned_) {
		p.current = false;
	}
	for (int32_t i = 0; i < sub.count; i++) {
		const ch_op &op = sub.ops[i];
		if (op.kind == CH_ATTENTION && served(op)) {
			const AttentionShape shape = shape_of(op);
			const Planned *p = find(shape);
			if (p == nullptr || !p->current) {
				plan(s, sub, shape);
			}
		}
	}
}

void AttentionOps::plan(ch_stream &s, const ch_submission &sub, const AttentionShape &shape) {
	Planned *p = find(shape);
	if (p == nullptr) {
		const int64_t bytes = attention_table_bytes(s.max_rows);
		Planned made;
		made.shape = shape;
		check(cudaMallocHost(&made.host, bytes), "attention tables");
		planned_.push_back(made); // owns its memory from here on
		p = &planned_.back();
		check(cudaMalloc(&p->device, bytes), "attention tables");
	}
	const auto *header = reinterpret_cast<const ch_header *>(s.tables.host + sub.layout.header);
	AttentionStep step = {};
	step.shape = shape;
	step.seqs = reinterpret_cast<const ch_seq *>(s.tables.host + sub.layout.seqs);
	step.count = header->seqs, step.rows = sub.layout.rows;
	step.processors = s.context->info.processors;
	step.spare_parts = workspace(s, shape).space.parts;
	step.deterministic = s.context->deterministic;
	if (attention_plan(step, p->host, &p->plan) != CH_OK) {
		fail(CH_INVALID, "attention of %d sequences in %d rows does not fit its plan", step.count, step.rows);
	}
	check(cudaMemcpyAsync(p->device, p->host, p->plan.used_bytes, cudaMemcpyHostToDevice, s.cuda), "uploading attention plans");
	p->current = true;
}

bool AttentionOps::run(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	if (!served(op)) {
		return false;
	}
	const AttentionShape shape = shape_of(op);
	const Planned *p = find(shape);
	const Workspace &w = workspace(s, shape);
	AttentionRun run = {};
	run.shape = shape, run.scale = op.scale;
	run.q = static_cast<const __nv_bfloat16 *>(op.x.data), run.q_pitch = op.x.pitch;
	run.out = static_cast<__nv_bfloat16 *>(op.dst.data), run.out_pitch = op.dst.pitch;
	run.cache = op.cache;
	run.pages = reinterpret_cast<const int32_t *>(s.tables.device + layout.pages);
	run.table = p->device;
	run.memory = w.memory, run.space = w.space;
	run.rows = op.rows, run.prefill_tiles = p->plan.prefill_tiles;
	run.processors = s.context->info.processors;
	run.hopper = s.context->info.major == 9;
	const int32_t status = attention_run(run, s.cuda);
	if (status != CH_OK) {
		const cudaError_t e = cudaGetLastError();
		fail(status, "attention of %d rows, %d heads of %d: %s", op.rows, op.heads, op.cache.head_dim, e == cudaSuccess ? "refused" : cudaGetErrorString(e));
	}
	return true;
}

} // namespace chorale
