// Causal attention over the paged cache: what a caller needs.
//
// A step is planned once on the host and run once per layer. Two kernels share
// its rows:
//   rows:    tiles of up to 16 query rows (rows of one sequence times the heads
//            of one key head), their context split into chunks: decode rows,
//            short prompts, and everything in deterministic mode;
//   prefill: tiles of 128 query rows, each over its whole context; on Hopper with
//            its own matrix instruction, except for head_dim 96.
//
// Shapes: heads % kv_heads == 0; head_dim 64, 96, 128 or 256; page_size a power
// of two, at least 16; heads per key head at most 16, or a multiple of a
// divisor that is. Strides are 64-bit: caches may be of any size.
//
// A launch of the rows kernel depends on nothing but AttentionRun, so a graph of
// it serves every later plan of the same `rows`. A step that has prefill tiles
// (AttentionPlan::prefill_tiles) needs their exact number in AttentionRun.
//
// What lies in a cache beyond a tile's last position never counts, whatever it
// is. Other values that a row does not see, later rows' and those up to 127
// positions before its window, have weight 0, but must be finite.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "chorale_kernels.h"

namespace chorale {

struct AttentionShape {
	int32_t heads, kv_heads, head_dim, page_size;
	int32_t window; // positions that a query sees, itself included; 0 for all
};

// What a plan is made for. `rows` is the padded number of rows of the step.
struct AttentionStep {
	AttentionShape shape;
	const ch_seq *seqs; // in any order; q_len 0 is skipped
	int32_t count, rows;
	int32_t processors;  // of the device
	int64_t spare_parts; // AttentionSpace::parts of the workspace
	// deterministic: a row's result does not depend, by a bit, on other rows,
	// on chunking, or on whether it was a decode row. Chunks then are 512
	// positions, at multiples of 512.
	bool deterministic;
};

struct AttentionPlan {
	int32_t prefill_tiles; // 0 in every step of decode rows
	int32_t used_bytes;    // of the table
};

// The device memory that all steps of a stream share. It must be zero before
// its first use, and keep its layout; only one step may use it at a time.
struct AttentionSpace {
	int64_t bytes;
	int64_t parts; // rows x heads x chunks that may be kept apart
	int64_t running, stats, values; // offsets
};

struct AttentionRun {
	AttentionShape shape;
	float scale; // > 0
	const __nv_bfloat16 *q; // [rows, heads, head_dim], rows q_pitch elements apart
	__nv_bfloat16 *out;     // alike
	int64_t q_pitch, out_pitch;
	ch_cache cache;
	const int32_t *pages; // device; ch_seq::first_page counts from here
	const void *table;    // device copy of the plan's table
	void *memory;         // of space.bytes, 256-byte aligned
	AttentionSpace space;
	int32_t rows;          // padded, as planned
	int32_t prefill_tiles; // as planned; 0 leaves the launch out
	int32_t processors;
	bool hopper; // the device is an sm_90: its own prefill kernel may be used
};

// attention_supports gives CH_OK, or CH_UNSUPPORTED for a shape that only the
// plain kernel can do.
int32_t attention_supports(const AttentionShape &shape);

// attention_table_bytes is the size of a step's table: a function of rows alone.
int64_t attention_table_bytes(int32_t rows);

// attention_space lays out the workspace for steps of at most `rows` rows,
// `heads` heads and head_dim channels. budget is what may be spent on keeping
// chunks apart, in bytes; the more, the better long contexts are spread (64 MiB
// is plenty).
AttentionSpace attention_space(int32_t rows, int32_t heads, int32_t head_dim, int32_t processors, int64_t budget);

// attention_plan fills `table` (attention_table_bytes(step.rows), host memory)
// for one window. Cost: about 40 ns a sequence. CH_INVALID for sequences that
// do not fit the shape or rows.
int32_t attention_plan(const AttentionStep &step, void *table, AttentionPlan *plan);

// attention_run starts one layer's attention. Rows of no sequence are left as
// they are. CH_INVALID, CH_UNSUPPORTED, or CH_DEVICE when a launch fails.
int32_t attention_run(const AttentionRun &run, cudaStream_t stream);

} // namespace chorale
