// The paged cache, and pieces of the operations on it.

#define TILE 16

AI uint16_t half_bits(float v) {
	uint32_t u;
	memcpy(&u, &v, 4);
	if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

// The cache: see kvCache in operands.go.
AI long page_tiles(const ck_cache *c) { return up(c->page_size, TILE); }
AI char *head_base(const ck_cache *c, const int wide, long page, long head) {
	return (char *)c->base + (page * c->kv_heads + head) * 2 * page_tiles(c) * TILE * c->d * (wide ? 4 : 2);
}

AI void norm_head(float *x, const float *w, long d, float eps) {
	vf sum = v_zero();
	for (long i = 0; i < d; i += 16) {
		vf v = v_loadm(x + i, v_mask(0, d - i));
		sum = v_fma(v, v, sum);
	}
	vf inv = v_set(1.0f / __builtin_sqrtf(v_sum(sum) / (float)d + eps));
	for (long i = 0; i < d; i += 16) {
		vm m = v_mask(0, d - i);
		v_storem(x + i, m, v_mul(v_mul(v_loadm(x + i, m), inv), v_loadm(w + i, m)));
	}
}
