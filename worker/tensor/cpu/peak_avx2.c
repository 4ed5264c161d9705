//go:build cgo && linux && amd64

#pragma GCC target("avx2,fma")
#include <immintrin.h>

#include "peak.h"

#define PIECE (1L << 20)
#define CHAINS 12

static volatile float sink;

typedef struct {
	const char *p;
	long bytes;
} range;

static void read_unit(void *arg, long unit) {
	const range *r = arg;
	const char *p = r->p + unit * PIECE;
	const char *end = p + (r->bytes - unit * PIECE < PIECE ? r->bytes - unit * PIECE : PIECE);
	__m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
	for (; p + 128 <= end; p += 128) {
		_mm_prefetch(p + 4096, _MM_HINT_T0);
		_mm_prefetch(p + 4160, _MM_HINT_T0);
		a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)p));
		b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(p + 32)));
		c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i *)(p + 64)));
		d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i *)(p + 96)));
	}
	a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
	sink = (float)_mm256_extract_epi32(a, 0);
}

void ck_read(ck_pool *pool, const void *p, long bytes) {
	range r = {p, bytes};
	ck_pool_run(pool, read_unit, &r, (bytes + PIECE - 1) / PIECE);
}

static void fma_unit(void *arg, long unit) {
	__m256 acc[CHAINS], u = _mm256_set1_ps(0.5f), v = u;
	(void)unit;
	for (int c = 0; c < CHAINS; c++) acc[c] = _mm256_setzero_ps();
	for (long i = *(long *)arg; i > 0; i--) {
		__asm__ volatile("" : "+x"(u), "+x"(v));
		_Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++) acc[c] = _mm256_fmadd_ps(u, v, acc[c]);
	}
	for (int c = 1; c < CHAINS; c++) acc[0] = _mm256_add_ps(acc[0], acc[c]);
	sink = _mm256_cvtss_f32(acc[0]);
}

double ck_fma_256(ck_pool *pool, long units, long steps) {
	ck_pool_run(pool, fma_unit, &steps, units);
	return (double)steps * CHAINS * 16;
}
