// The paged cache, and pieces of the operations on it.

#define TILE 16

// The cache: see kvCache in operands.go.
AI long page_tiles(const ck_cache *c) { return up(c->page_size, TILE); }
AI char *head_base(const ck_cache *c, const int wide, long page, long head) {
	return (char *)c->base + page * c->page_stride + head * 2 * page_tiles(c) * TILE * c->d * (wide ? 4 : 2);
}

AI void norm_head(float *x, const float *w, long d, float eps) {
	const vf inv = inverse_rms(x, d, eps);
	EACH(d, { v_storew(x + i, whole, m, v_mul(v_mul(v_loadw(x + i, whole, m), inv), v_loadw(w + i, whole, m))); });
}
