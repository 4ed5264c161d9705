//go:build cgo && linux && amd64

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#include <immintrin.h>

#include "peak.h"

#define CHAINS 20 // more than latency times issue width on every processor

static volatile float sink;

#define PEAK(name, how)                                                        \
	static void name##_unit(void *arg, long unit) {                            \
		__m512 acc[CHAINS];                                                    \
		__m512i u = _mm512_set1_epi16(0x3c00), v = u;                          \
		(void)unit;                                                            \
		for (int c = 0; c < CHAINS; c++) acc[c] = _mm512_setzero_ps();         \
		for (long i = *(long *)arg; i > 0; i--) {                              \
			__asm__ volatile("" : "+v"(u), "+v"(v));                           \
			_Pragma("GCC unroll 20") for (int c = 0; c < CHAINS; c++) acc[c] = how; \
		}                                                                      \
		for (int c = 1; c < CHAINS; c++) acc[0] = _mm512_add_ps(acc[0], acc[c]); \
		sink = _mm512_reduce_add_ps(acc[0]);                                   \
	}
PEAK(fma, _mm512_fmadd_ps((__m512)u, (__m512)v, acc[c]))
PEAK(dot, _mm512_dpbf16_ps(acc[c], (__m512bh)u, (__m512bh)v))

double ck_fma_512(ck_pool *pool, long units, long steps) {
	ck_pool_run(pool, fma_unit, &steps, units);
	return (double)steps * CHAINS * 32;
}

double ck_dot_512(ck_pool *pool, long units, long steps) {
	ck_pool_run(pool, dot_unit, &steps, units);
	return (double)steps * CHAINS * 64;
}
