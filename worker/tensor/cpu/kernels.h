// The C kernels: operands and one table of functions per instruction set.
// Sizes have been checked by Go; layouts are described in operands.go.
#ifndef CHORALE_KERNELS_H
#define CHORALE_KERNELS_H

#include <stdint.h>

#include "pool.h"

// ck_term is one LoRA term: rows [start, end), columns [offset, offset+out).
typedef struct {
	long start, end, offset, out;
	long rank;       // 0: only a bias
	const void *a;   // groups of 16 ranks; for an embedding adapter [vocab][rank]
	const void *b;   // panels
	const float *bias;
	float *s;        // intermediate [end-start, rank]
	float scale;
	long unit0;      // filled by linear: its first shrink unit
} ck_term;

typedef struct {
	const float *x;
	const uint16_t *xb; // rounded x, rows padded with zeros to ldxb; or NULL
	float *y;
	const void *w;
	const float *bias;
	ck_term *terms;
	long ldxb, m, k, n, nterms;
	int threads;
} ck_linear;

typedef struct {
	float *y;
	const void *w;
	const int32_t *ids;
	const ck_term *terms;
	long m, h, nterms;
} ck_embed;

typedef struct {
	float *y, *x;
	uint16_t *yb; // rounded y to keep up to date, or NULL
	const float *delta, *w;
	long ldyb, m, n;
	float eps;
} ck_norm;

typedef struct {
	float *y;
	uint16_t *yb;
	const float *x; // [m, 2f]
	long ldyb, m, f;
} ck_silu;

// ck_place is where a row's key and value go.
typedef struct {
	int32_t pos, page;
} ck_place;

// ck_cache is one layer of the cache.
typedef struct {
	void *base;
	long page_stride; // bytes from page to page
	long kv_heads, d, page_size;
} ck_cache;

typedef struct {
	float *x; // [m, (heads+2*kv_heads)*d]
	ck_cache kv;
	const float *cos, *sin, *q_norm, *k_norm;
	const ck_place *places;
	long m, heads;
	float eps;
} ck_rope;

// ck_queries is one unit of attention: n consecutive rows of a sequence.
typedef struct {
	const int32_t *pages;
	long row, n, pos, kv_head;
} ck_queries;

typedef struct {
	float *y;
	uint16_t *yb;
	const float *x;
	ck_cache kv;
	const ck_queries *units;
	long ldyb, heads, nunits, window;
	float scale;
	int threads;
} ck_attention;

typedef struct {
	float max;
	int32_t arg_max;
	float log_sum_exp;
} ck_stat;

typedef struct {
	ck_stat *out;
	const float *x;
	long m, n;
} ck_stats;

typedef struct {
	const float *x;
	uint16_t *xb;
	long ldxb, m, n;
} ck_round;

// ck_set is the kernels of one instruction set and storage type.
typedef struct {
	const char *name;
	int f32; // storage is float32
	int rounds; // linear reads rounded rows
	void (*linear)(ck_pool *, ck_linear *);
	void (*embed)(ck_pool *, ck_embed *);
	void (*norm)(ck_pool *, ck_norm *);
	void (*silu)(ck_pool *, ck_silu *);
	void (*rope)(ck_pool *, ck_rope *);
	void (*attention)(ck_pool *, ck_attention *);
	void (*stats)(ck_pool *, ck_stats *);
	void (*round)(ck_pool *, ck_round *);
	void (*pack)(void *dst, const float *src, long c, long k);
	long attention_lanes; // query rows times heads per kv head that one unit handles at once
} ck_set;

// ck_sets ends with NULL. All sets are in the binary; Go asks the processor
// which may run.
extern const ck_set *const ck_sets[];

#endif
