// vf is a vector of 16 floats: two AVX2 registers.
#include <immintrin.h>
#include <stdint.h>

#define AI static inline __attribute__((always_inline))

typedef struct {
	__m256 a, b;
} vf;
typedef struct {
	__m256i a, b;
} vm; // which lanes: all bits or none

AI __m256i v_mask8(long lo, long hi, int first) {
	__m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
	int l = lo < 0 ? 0 : lo > 16 ? 16 : (int)lo, h = hi < 0 ? 0 : hi > 16 ? 16 : (int)hi;
	return _mm256_and_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(h), lane), _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(l - 1)));
}
AI vm v_mask(long lo, long hi) { return (vm){v_mask8(lo, hi, 0), v_mask8(lo, hi, 8)}; }
#define BOTH(f) (vf){f(x.a, y.a), f(x.b, y.b)}
AI vf v_zero(void) { return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
AI vf v_set(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
AI vf v_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
AI void v_store(float *p, vf x) {
	_mm256_storeu_ps(p, x.a);
	_mm256_storeu_ps(p + 8, x.b);
}
AI vf v_loadm(const float *p, vm m) { return (vf){_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)}; }
AI void v_storem(float *p, vm m, vf x) {
	_mm256_maskstore_ps(p, m.a, x.a);
	_mm256_maskstore_ps(p + 8, m.b, x.b);
}
AI vf v_pick(vm m, vf a, vf b) {
	return (vf){_mm256_blendv_ps(b.a, a.a, _mm256_castsi256_ps(m.a)), _mm256_blendv_ps(b.b, a.b, _mm256_castsi256_ps(m.b))};
}
AI vf v_add(vf x, vf y) { return BOTH(_mm256_add_ps); }
AI vf v_sub(vf x, vf y) { return BOTH(_mm256_sub_ps); }
AI vf v_mul(vf x, vf y) { return BOTH(_mm256_mul_ps); }
AI vf v_div(vf x, vf y) { return BOTH(_mm256_div_ps); }
AI vf v_max(vf x, vf y) { return BOTH(_mm256_max_ps); } // y when either is NaN
AI vf v_fma(vf x, vf y, vf c) { return (vf){_mm256_fmadd_ps(x.a, y.a, c.a), _mm256_fmadd_ps(x.b, y.b, c.b)}; }
AI vf v_fnma(vf x, vf y, vf c) { return (vf){_mm256_fnmadd_ps(x.a, y.a, c.a), _mm256_fnmadd_ps(x.b, y.b, c.b)}; }
AI float v_sum(vf x) {
	__m256 s = _mm256_add_ps(x.a, x.b);
	__m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
	q = _mm_add_ps(q, _mm_movehl_ps(q, q));
	return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
AI float v_top(vf x) {
	__m256 s = _mm256_max_ps(x.a, x.b);
	__m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
	q = _mm_max_ps(q, _mm_movehl_ps(q, q));
	return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
AI vm v_gt(vf x, vf y) {
	return (vm){_mm256_castps_si256(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)), _mm256_castps_si256(_mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
}

AI __m256 v_nearest8(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
AI vf v_nearest(vf x) { return (vf){v_nearest8(x.a), v_nearest8(x.b)}; }
// Two factors, so that results below 2^-126 come out right; |n| <= 252.
AI __m256 v_scale28(__m256 y, __m256 n) {
	__m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), one = _mm256_set1_epi32(127);
	__m256i rest = _mm256_sub_epi32(i, half);
	y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, one), 23)));
	return _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, one), 23)));
}
AI vf v_scale2(vf y, vf n) { return (vf){v_scale28(y.a, n.a), v_scale28(y.b, n.b)}; }

AI __m256 v_even8(__m256i w) { return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)); }
AI __m256 v_odd8(__m256i w) { return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000))); }
AI void v_wide2i(__m256i a, __m256i b, vf *even, vf *odd) {
	*even = (vf){v_even8(a), v_even8(b)};
	*odd = (vf){v_odd8(a), v_odd8(b)};
}
AI void v_wide2(const uint16_t *p, vf *even, vf *odd) {
	v_wide2i(_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 16)), even, odd);
}
AI void v_wide2m(const uint16_t *p, vm m, vf *even, vf *odd) {
	v_wide2i(_mm256_maskload_epi32((const int *)p, m.a), _mm256_maskload_epi32((const int *)(p + 16), m.b), even, odd);
}

AI __m256 v_wide8(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
AI vf v_wide(const uint16_t *p) {
	return (vf){v_wide8(_mm_loadu_si128((const __m128i *)p)), v_wide8(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
AI int v_lane(vm m, int i) { return (_mm256_movemask_ps(_mm256_castsi256_ps(i < 8 ? m.a : m.b)) >> (i & 7)) & 1; }
AI vf v_widem(const uint16_t *p, vm m) {
	uint16_t t[16] = {0};
	for (int i = 0; i < 16; i++)
		if (v_lane(m, i)) t[i] = p[i];
	return v_wide(t);
}

AI __m256i v_round8(__m256 x) {
	__m256i u = _mm256_castps_si256(x);
	__m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
	__m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
	__m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
	__m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
	return _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, _mm256_castps_si256(nan)), 16);
}
AI void v_round(uint16_t *p, vf x) {
	__m256i h = _mm256_packus_epi32(v_round8(x.a), v_round8(x.b));
	_mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(h, 0xd8));
}
AI void v_roundm(uint16_t *p, vm m, vf x) {
	uint16_t t[16];
	v_round(t, x);
	for (int i = 0; i < 16; i++)
		if (v_lane(m, i)) p[i] = t[i];
}

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
