// A stream: its tables, its scratch, and the graphs that it has recorded.
#pragma once

#include <cstring>
#include <list>
#include <vector>

#include "attention_ops.h"
#include "context.h"
#include "ranks.h"

namespace chorale {

// Block is memory that grows and does not shrink; contents are not kept.
struct Block {
	char *host = nullptr, *device = nullptr;
	int64_t bytes = 0;
};

struct Rope {
	int32_t half = 0;
	float scale = 1;
	float *inv_freq = nullptr; // device [half]
	float2 *angles = nullptr;  // device [max_rows, half]
};

// Results of sampling, in words: the device's, and those of the last
// submissions on the host.
struct Results {
	int32_t words = 0;
	char *device = nullptr, *host[CH_RESULTS] = {};
	cudaEvent_t done[CH_RESULTS] = {};
};

// Graph is one recorded submission, or the memory of one that was seen once.
struct Graph {
	uint64_t hash = 0;
	ch_layout layout = {};
	std::vector<ch_op> ops;
	cudaGraphExec_t exec = nullptr;
};

// Most submissions that a stream remembers: each size of a decode step with
// adapters and without, and room for adapters of some modules only.
constexpr size_t kGraphs = 192;

} // namespace chorale

struct ch_stream {
	ch_context *context = nullptr;
	cudaStream_t cuda = nullptr;
	int32_t max_rows = 0;
	std::vector<chorale::Rope> ropes;
	void *workspace = nullptr; // of products

	chorale::Block tables;       // of the step
	chorale::Results results;
	int32_t *tokens = nullptr;   // device [2][max_rows]: drawn in this step and the one before
	cudaEvent_t uploaded = nullptr;
	chorale::Block slots;        // of LoRA terms
	int32_t slot_count = 0, slot_terms = 0;
	int64_t slot_stride = 0;
	void *lora_scratch = nullptr;
	int64_t lora_tiles = 0;

	chorale::AttentionOps attention;
	std::unique_ptr<chorale::Ranks> ranks; // of a stream that has joined a group

	std::list<chorale::Graph> graphs; // most recently used first
	ch_stream_stats stats = {};
};

namespace chorale {

// launch starts the kernels of one operation.
void launch(ch_stream &s, const ch_layout &layout, const ch_op &op);

} // namespace chorale
