// Operations that touch the storage type F32 (1: float32, 0: bfloat16): packing,
// embedding, rotary embedding with the write to the cache.

// pack packs c <= 32 rows [c, k] into a panel of zeros.
static void SETNAME(pack)(void *dst, const float *src, long c, long k) {
	for (long j = 0; j < c; j++) {
		const float *row = src + j * k;
		if (F32) {
			for (long i = 0; i < k; i++) ((float *)dst)[i * PANEL + j] = row[i];
			continue;
		}
		uint32_t *to = (uint32_t *)dst + j, pairs[8];
		EACH(k, {
			v_round((uint16_t *)pairs, v_loadw(row + i, whole, m));
			for (long q = 0; q < (whole ? 8 : up(k - i, 2)); q++) to[(i / 2 + q) * PANEL] = pairs[q];
		});
	}
}

static void SETNAME(embed_unit)(void *arg, long t) {
	const ck_embed *a = arg;
	const long h = a->h, id = a->ids[t], c = id % PANEL;
	const char *w = (const char *)a->w + id / PANEL * (F32 ? h : up(h, 2)) * 128;
	float *y = a->y + t * h;
	for (long i = 0; i < h; i++) {
		if (F32) {
			y[i] = ((const float *)w)[i * PANEL + c];
			continue;
		}
		uint32_t pair = ((const uint32_t *)w)[i / 2 * PANEL + c];
		uint32_t bits = i & 1 ? pair & 0xffff0000u : pair << 16;
		memcpy(&y[i], &bits, 4);
	}
	for (const ck_term *l = a->terms; l < a->terms + a->nterms; l++) {
		if (t < l->start || t >= l->end) continue;
		float s[MAX_RANK];
		for (long r = 0; r < l->rank; r++) {
			if (F32) {
				s[r] = ((const float *)l->a)[id * l->rank + r] * l->scale;
				continue;
			}
			uint32_t bits = (uint32_t)((const uint16_t *)l->a)[id * l->rank + r] << 16;
			memcpy(&s[r], &bits, 4);
			s[r] *= l->scale;
		}
		SETNAME(expand)(l, s, a->y, h, t, t + 1, l->offset, l->offset + l->out);
	}
}

static void SETNAME(embed)(ck_pool *pool, ck_embed *a) {
	if (a->m * a->h < SERIAL) {
		for (long t = 0; t < a->m; t++) SETNAME(embed_unit)(a, t);
		return;
	}
	ck_pool_run(pool, SETNAME(embed_unit), a, a->m);
}

static void SETNAME(write_cache)(const ck_rope *a, const ck_place *at, const float *row) {
	const long d = a->kv.d, slot = at->pos % a->kv.page_size, tile = slot / TILE, lane = slot % TILE;
	const long values = page_tiles(&a->kv) * TILE * d;
	for (long h = 0; h < a->kv.kv_heads; h++) {
		const float *k = row + (a->heads + h) * d, *v = k + a->kv.kv_heads * d;
		char *base = head_base(&a->kv, F32, at->page, h);
		if (F32) {
			float *keys = (float *)base + tile * TILE * d;
			for (long i = 0; i < d; i++) keys[i * TILE + lane] = k[i];
			memcpy((float *)base + values + slot * d, v, d * 4);
			continue;
		}
		uint32_t *keys = (uint32_t *)((uint16_t *)base + tile * TILE * d) + lane, pairs[8];
		EACH(d, {
			v_round((uint16_t *)pairs, v_loadw(k + i, whole, m));
			for (long q = 0; q < (whole ? 8 : (d - i) / 2); q++) keys[(i / 2 + q) * TILE] = pairs[q];
		});
		uint16_t *to = (uint16_t *)base + values + slot * d;
		EACH(d, { v_roundw(to + i, whole, m, v_loadw(v + i, whole, m)); });
	}
}

static void SETNAME(rope_row)(const ck_rope *a, long t) {
	const long d = a->kv.d, half = d / 2;
	float *row = a->x + t * (a->heads + 2 * a->kv.kv_heads) * d;
	const float *cos = a->cos + t * half, *sin = a->sin + t * half;
	for (long h = 0; h < a->heads + a->kv.kv_heads; h++) {
		float *x = row + h * d;
		const float *w = h < a->heads ? a->q_norm : a->k_norm;
		if (w) norm_head(x, w, d, a->eps);
		EACH(half, {
			vf lo = v_loadw(x + i, whole, m);
			vf hi = v_loadw(x + half + i, whole, m);
			vf c = v_loadw(cos + i, whole, m);
			vf s = v_loadw(sin + i, whole, m);
			v_storew(x + i, whole, m, v_fnma(hi, s, v_mul(lo, c)));
			v_storew(x + half + i, whole, m, v_fma(lo, s, v_mul(hi, c)));
		});
	}
	SETNAME(write_cache)(a, a->places + t, row);
}

static void SETNAME(rope_unit)(void *arg, long unit) {
	const ck_rope *a = arg;
	const long per = rows_per_unit((a->heads + 2 * a->kv.kv_heads) * a->kv.d);
	for (long t = unit * per; t < least(a->m, (unit + 1) * per); t++) SETNAME(rope_row)(a, t);
}

static void SETNAME(rope)(ck_pool *pool, ck_rope *a) {
	ck_pool_run(pool, SETNAME(rope_unit), a, up(a->m, rows_per_unit((a->heads + 2 * a->kv.kv_heads) * a->kv.d)));
}
