// The C interface of the CUDA library. A process loads it with dlopen, asks
// ch_abi_version first, and then talks to one device through a context.
//
// Nothing here throws or prints. Every call gives a status; on failure `err`,
// which may be null, holds one sentence. After CH_DEVICE the context is lost:
// every later call on it fails alike, and the process should end.
//
// Thread safety: a context may be used by several threads at once, a stream by
// one at a time.
#ifndef CHORALE_KERNELS_H
#define CHORALE_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CH_ABI_VERSION 5

enum ch_status {
	CH_OK = 0,
	CH_INVALID = 1,       // the caller's mistake
	CH_OUT_OF_MEMORY = 2, // the device cannot serve an allocation; nothing changed
	CH_UNSUPPORTED = 3,   // no device, driver too old, library missing, unknown shape
	CH_DEVICE = 4,        // a CUDA error; the context is lost
};

typedef struct ch_error {
	char text[512];
} ch_error;

typedef struct ch_context ch_context;
typedef struct ch_stream ch_stream;

int32_t ch_abi_version(void);

// ch_device_count counts the usable devices.
int32_t ch_device_count(int32_t *count, ch_error *err);

typedef struct ch_device_info {
	char name[128];
	int64_t memory, free_memory; // bytes
	int32_t processors, major, minor;
	int32_t driver; // newest CUDA version that the driver knows, 1000*major + 10*minor
	char uuid[16];  // of the device, whoever counts it
} ch_device_info;

typedef struct ch_options {
	int32_t device;
	// deterministic: a row's result does not depend on the rows beside it, bit
	// for bit. Otherwise products are the fastest for their number of rows.
	int32_t deterministic;
	int32_t tune;          // measure product kernels at their first use
	int32_t reserved;
	const char *cache_dir; // where measurements are kept; null for nowhere
	const char *cublaslt;  // path of libcublasLt; null to look for it
} ch_options;

int32_t ch_open(const ch_options *options, ch_context **out, ch_error *err);
int32_t ch_close(ch_context *c, ch_error *err);
int32_t ch_info(ch_context *c, ch_device_info *out, ch_error *err);

// ch_fault starts a kernel that writes where it must not, so that the context is
// lost: for tests of what its user does then.
int32_t ch_fault(ch_context *c, ch_error *err);

// ch_alloc gives zeroed device memory, 256-byte aligned.
int32_t ch_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err);
// ch_free waits for the device. Null is fine.
int32_t ch_free(ch_context *c, void *data, ch_error *err);
// ch_host_alloc gives pinned host memory.
int32_t ch_host_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err);
int32_t ch_host_free(ch_context *c, void *data, ch_error *err);

// ch_range_alloc gives device memory of unknown contents, 256-byte aligned, for
// what comes and goes while streams run: neither it nor ch_range_free waits for
// the device. No stream may still use what is freed.
int32_t ch_range_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err);
int32_t ch_range_free(ch_context *c, void *data, ch_error *err);

// ch_pin gives pinned host memory for ch_copy, a multiple of 2 MiB, so slowly
// that streams do not suffer. ch_unpin stops the device.
int32_t ch_pin(ch_context *c, int64_t bytes, void **out, ch_error *err);
int32_t ch_unpin(ch_context *c, void *data, int64_t bytes, ch_error *err);

// ch_copy copies memory of ch_pin to the device, beside all streams, in small
// pieces lest they wait for it. It returns when all is there and sleeps meanwhile.
int32_t ch_copy(ch_context *c, void *dst, const void *src, int64_t bytes, ch_error *err);

// A matrix of activations. Rows are `pitch` elements apart: cols rounded up to
// a multiple of 8. Elements are bf16, or float32 when wide. Elements between
// cols and pitch are zero, except in rows that hold a NaN or an infinity.
typedef struct ch_view {
	void *data;
	int32_t cols, pitch;
	int32_t wide, reserved;
} ch_view;

// One layer of a paged cache: page p's keys are at keys + p*page_stride, laid
// out [page_size, kv_heads, head_dim] bf16; its values lie alike.
typedef struct ch_cache {
	void *keys, *values;
	int64_t page_stride; // in elements
	int32_t page_size, kv_heads, head_dim, reserved;
} ch_cache;

// One sequence of a step: its rows and its context, which includes them.
typedef struct ch_seq {
	int32_t q_start, q_len, ctx_len;
	int32_t first_page; // index into the step's pages
} ch_seq;

enum ch_kind {
	CH_ANGLES = 1,      // cos and sin of all ropes for the step's positions
	CH_EMBED = 2,       // dst = w[ids - in] (+ terms); with out > 0, w has out rows and other ids give zeros
	CH_RMS_NORM = 3,    // dst = norm(x) * w
	CH_ADD_RMS_NORM = 4, // x += y; dst = norm(x) * w
	CH_LINEAR = 5,      // dst = x w^T + bias (+ terms)
	CH_ROPE_KV = 6,     // dst is q|k|v, in place; w, w2 are the norms of q and k
	CH_ATTENTION = 7,   // dst = attention of x, which is q|k|v
	CH_SILU_MUL = 8,    // dst = silu(gate) * up of x = gate|up
	CH_GATHER = 9,      // dst[i] = x[list[i]]
	CH_SAMPLE = 10,     // serves each row of x as the step's list of ch_sample_row says
	CH_TO_HOST = 11,    // host = rows of x, float32 [rows, cols]
	// Between the ranks of the stream's group (chorale_comm.h):
	CH_ALL_REDUCE = 12, // dst, which is wide, = the sum of all ranks' dst
	CH_ALL_GATHER = 13, // dst = all ranks' x beside one another; without a group, x
};
// A CH_SAMPLE with out > 0 is of a vocabulary of out tokens of which x has those
// from number `in` on. It is told by `heads` whether any row draws, and by
// `window` how many rows (padded) are brought together to draw from.

// One operation. Unused fields are zero. It holds only what is the same in
// every step of one kind and padded size: two steps with equal operations may
// run as one recorded graph. Everything else is in the step's tables.
typedef struct ch_op {
	int32_t kind;
	int32_t rows; // padded
	ch_view dst, x, y;
	const void *w, *w2; // bf16 [out, in], pitch in; or float32 vectors
	const void *bias;   // a vector as ch_vector_bytes lays it out, or null
	int32_t out, in;    // of w, rounded up to multiples of 8
	ch_cache cache;
	void *host;
	int32_t heads, window, rope;
	int32_t list; // of gather and sample: which list of the step
	int32_t slot; // table of LoRA terms plus 1, or 0
	float eps, scale;
	int32_t reserved;
} ch_op;

// A vector is `n8` float32 values followed by as many bf16, n8 being its
// length rounded up to a multiple of 8, the rest zeros.
#define CH_VECTOR_BYTES(n8) ((int64_t)(n8) * 6)

// The tables of a step, in one block of host memory: offsets in bytes from its
// start, multiples of 16. They depend on `rows` alone.
#define CH_LISTS 8
typedef struct ch_layout {
	int32_t rows; // padded
	int32_t header, ids, pos, row_seq, seqs, lists, pages;
} ch_layout;

// Where a list of ch_sample_row lies. Its tokens are kept on the device under
// the numbers first, first + 1, ... for the next step; -1 keeps none.
typedef struct ch_samples {
	int32_t at; // bytes from the start of the tables
	int32_t rows, first, reserved;
} ch_samples;

typedef struct ch_header {
	int32_t rows, seqs; // true numbers
	int32_t turn;       // 0 or 1, the other one in the next step
	int32_t reserved;
	ch_samples samples[CH_LISTS];
} ch_header;

// Changes one logit: += bias, then the row's penalties.
typedef struct ch_adjust {
	int32_t id;
	float bias; // the kernel leaves the logit here as it was
	int32_t count, seen;
} ch_adjust;

// What is asked of one row of logits. Offsets are in bytes from the start of
// the tables; ids lie inside the row and lists hold each at most once.
typedef struct ch_sample_row {
	double u;      // the draw, [0, 1)
	double top_p;  // >= 1: all
	float inverse; // 1 / temperature; 0: the largest
	float reach, min_reach; // least differences to the largest logit: to weigh anything, to be drawn
	float repetition, frequency, presence;
	int32_t top_k; // 0: all
	int32_t given; // report this token and draw none; -1: draw
	int32_t last;  // number of a token of the step before that occurred once more; -1: none
	int32_t adjust, adjusts; // ch_adjust
	int32_t bans, ban_count; // ch_adjust, of which the id counts
	int32_t ids, id_count;   // int32
	int32_t top;   // how many of the largest to report
	int32_t out;   // of the result, in words
	int32_t gathered; // place among the rows that are brought together, plus 1; 0 for none
} ch_sample_row;

// A result: this, then `top` pairs of id and logit (float32), largest first,
// then the logits of ids. Logits are those before any change.
//
// Of a part of a vocabulary: arg_max is -1 where all is NaN, pairs that are not
// there have id -1, logits of ids elsewhere (of the token, too) are 0. Ids of
// tokens count from the vocabulary's start, but those of adjust and bans, which
// have only what is here, from the part's.
typedef struct ch_sampled {
	int32_t token, arg_max;
	float max, log_sum_exp, logit;
} ch_sampled;
#define CH_MAX_TOP 2048

typedef struct ch_stream_options {
	int32_t max_rows; // padded
	int32_t ropes;
	const int32_t *half;           // [ropes] pairs of channels
	const float *const *inv_freq;  // [ropes][half]
	const float *scale;            // [ropes]
} ch_stream_options;

int32_t ch_stream_open(ch_context *c, const ch_stream_options *options, ch_stream **out, ch_error *err);
int32_t ch_stream_close(ch_stream *s, ch_error *err);

// ch_stream_tables makes room for at least `bytes` of tables, `words` of results
// and `slots` tables of `terms` (at most CH_MAX_TERMS) LoRA terms each, with
// `tiles` tiles of scratch, and tells in `now` what there is. Contents of tables
// and slots are kept, results are not; when `moved` all slots must be uploaded
// again.
// A slot is 16 bytes (the number of terms, int32, then nothing) and the terms.
#define CH_MAX_TERMS 4096
#define CH_RESULTS 2
typedef struct ch_tables {
	int64_t bytes, tiles;
	int32_t slots, terms;
	int64_t slot_stride; // out: bytes from slot to slot
	void *tables, *slot_data; // out: host memory
	int32_t moved;            // out
	int32_t words;
	void *results[CH_RESULTS]; // out: host memory of words, for each rank
} ch_tables;
int32_t ch_stream_tables(ch_stream *s, const ch_tables *need, ch_tables *now, ch_error *err);

// One LoRA term: y[row0 : row0+rows, col : col+out] += scale * (x a^T) b^T +
// bias, with a [rank, in] and b [out, ch_lora_ldb(rank)] bf16. Of an embedding,
// a is [vocab, rank]. kernels/device/lora_term.cuh has the same struct.
#ifndef CH_LORA_TERM
#define CH_LORA_TERM
struct ch_lora_term {
	const void *a;
	const void *b;
	const float *bias;
	int32_t row0, rows, rank, out, col, s;
	float scale;
	int32_t pad;
};
#endif

typedef struct ch_submission {
	const ch_op *ops;
	int32_t count;
	int32_t graph; // may be recorded
	ch_layout layout;
	int32_t used_bytes;                // of the tables
	int32_t first_slot, last_slot;     // slots that changed: [first, last)
	int32_t slot_bytes;                // most bytes used in one of them
	int32_t words;                     // of results to bring to the host
	int32_t result;                    // into which of the host's buffers
	int32_t gather, reserved;          // bring the results of all ranks, one after another
} ch_submission;

// ch_submit uploads tables and starts the operations. ch_ready waits until the
// host may write the tables again, ch_wait until all that was submitted with a
// result buffer (-1: with any) has ended and the buffer is filled.
int32_t ch_submit(ch_stream *s, const ch_submission *sub, ch_error *err);
int32_t ch_ready(ch_stream *s, ch_error *err);
int32_t ch_wait(ch_stream *s, int32_t result, ch_error *err);

// What a stream has done, for metrics and tests.
typedef struct ch_stream_stats {
	int64_t eager, captured, replayed; // submissions
} ch_stream_stats;
int32_t ch_stream_statistics(ch_stream *s, ch_stream_stats *out, ch_error *err);

#ifdef __cplusplus
}
#endif
#endif
