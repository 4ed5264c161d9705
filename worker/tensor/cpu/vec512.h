// vf is a vector of 16 floats: one AVX-512 register.
#include <immintrin.h>
#include <stdint.h>

#define AI static inline __attribute__((always_inline))

typedef __m512 vf;
typedef __mmask16 vm; // which lanes

AI vm v_mask(long lo, long hi) {
	unsigned all = (1u << (hi < 0 ? 0 : hi > 16 ? 16 : hi)) - 1;
	return (vm)(all & ~((1u << (lo < 0 ? 0 : lo > 16 ? 16 : lo)) - 1));
}
AI vf v_zero(void) { return _mm512_setzero_ps(); }
AI vf v_set(float x) { return _mm512_set1_ps(x); }
AI vf v_load(const float *p) { return _mm512_loadu_ps(p); }
AI void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
AI vf v_loadm(const float *p, vm m) { return _mm512_maskz_loadu_ps(m, p); }
AI void v_storem(float *p, vm m, vf x) { _mm512_mask_storeu_ps(p, m, x); }
AI vf v_pick(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); } // m ? a : b
AI vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
AI vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
AI vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
AI vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
AI vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); } // b when either is NaN
AI vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
AI vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } // c - a*b
AI float v_sum(vf a) { return _mm512_reduce_add_ps(a); }
AI float v_top(vf a) { return _mm512_reduce_max_ps(a); }
AI vm v_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }

// v_exp2i is round-to-nearest n of x and 2^n times y.
AI vf v_nearest(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
AI vf v_scale2(vf y, vf n) { return _mm512_scalef_ps(y, n); }

// v_wide2 widens 16 pairs of bfloat16.
AI void v_wide2i(__m512i w, vf *even, vf *odd) {
	*even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
	*odd = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)));
}
AI void v_wide2(const uint16_t *p, vf *even, vf *odd) { v_wide2i(_mm512_loadu_si512(p), even, odd); }
AI void v_wide2m(const uint16_t *p, vm m, vf *even, vf *odd) { v_wide2i(_mm512_maskz_loadu_epi32(m, p), even, odd); }

// v_wide widens 16 adjacent bfloat16.
AI vf v_wideh(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
AI vf v_wide(const uint16_t *p) { return v_wideh(_mm256_loadu_si256((const __m256i *)p)); }
AI vf v_widem(const uint16_t *p, vm m) { return v_wideh(_mm256_maskz_loadu_epi16(m, p)); }

// v_round rounds to bfloat16, ties to even; NaN stays NaN.
AI __m256i v_roundh(vf x) {
	__m512i u = _mm512_castps_si512(x);
	__m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
	__m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
	r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
	return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
AI void v_round(uint16_t *p, vf x) { _mm256_storeu_si256((__m256i *)p, v_roundh(x)); }
AI void v_roundm(uint16_t *p, vm m, vf x) { _mm256_mask_storeu_epi16(p, m, v_roundh(x)); }

// A vector of which only some lanes may exist. Whole vectors avoid masked
// stores, which later loads cannot be forwarded from.
AI vf v_loadw(const float *p, int whole, vm m) { return whole ? v_load(p) : v_loadm(p, m); }
AI void v_storew(float *p, int whole, vm m, vf x) {
	if (whole) v_store(p, x);
	else v_storem(p, m, x);
}
AI void v_roundw(uint16_t *p, int whole, vm m, vf x) {
	if (whole) v_round(p, x);
	else v_roundm(p, m, x);
}

// EACH runs body for the vectors of n values: i is the first lane, whole a
// constant, m the lanes of the last vector.
#define EACH(n, body)                              \
	do {                                           \
		long i = 0;                                \
		for (; i + 16 <= (n); i += 16) {           \
			const int whole = 1;                   \
			const vm m = v_mask(0, 16);            \
			(void)whole, (void)m;                  \
			body                                   \
		}                                          \
		if (i < (n)) {                             \
			const int whole = 0;                   \
			const vm m = v_mask(0, (n) - i);       \
			(void)whole;                           \
			body                                   \
		}                                          \
	} while (0)
