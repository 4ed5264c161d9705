// The inner loops of causal attention over the paged cache. A lane is one query
// row of one head; the lanes of a unit share a kv head. Per lane: online softmax
// over blocks of BLOCK tiles cut at absolute positions.

#define BLOCK 8   // tiles; blockTiles in kernels.go
#define QUERIES 32 // lanes handled together

// tile16 is one tile that some lane of the block sees.
typedef struct {
	const char *k, *v;
	long pos; // of slot 0
	int slots;
} tile16;

// The pieces of a sequence's cache lie scattered and are too short for the
// processor to see streams, so each pass asks for what comes next: scores for
// the values of its tiles and the keys of the tiles after, gather for the first
// keys of the next unit.

typedef struct {
	const ck_attention *a;
	const ck_queries *u;
	long lanes;
	const float *q[QUERIES];
	float *out[QUERIES];
	long lo[QUERIES], hi[QUERIES]; // visible positions
	float top[QUERIES], sum[QUERIES], fade[QUERIES];
	tile16 tiles[BLOCK];
	int ntiles;
	const char *next[BLOCK]; // keys that the next unit begins with
	float p[QUERIES][BLOCK * TILE]; // scores, then weights
} state;

// scores writes q·k of MR lanes and NT tiles.
AI void scores(const int MR, const int NT, const int wide, state *s, long lane, int tile) {
	const long d = s->a->kv.d;
	const char *after[2];
	vf acc[4][2];
#pragma GCC unroll 2
	for (int j = 0; j < NT; j++) after[j] = s->tiles[least(tile + NT + j, s->ntiles - 1)].k;
#pragma GCC unroll 4
	for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
		for (int j = 0; j < NT; j++) acc[i][j] = v_zero();
	for (long c = 0; c < d; c += 2) {
		if (lane == 0) {
#pragma GCC unroll 2
			for (int j = 0; j < NT; j++) {
				_mm_prefetch(s->tiles[tile + j].v + c * 2 * TILE, _MM_HINT_T0);
				_mm_prefetch(after[j] + c * 2 * TILE, _MM_HINT_T0);
			}
		}
		vf even[2], odd[2];
#pragma GCC unroll 2
		for (int j = 0; j < NT; j++) {
			if (wide) {
				even[j] = v_load((const float *)s->tiles[tile + j].k + c * TILE);
				odd[j] = v_load((const float *)s->tiles[tile + j].k + (c + 1) * TILE);
			} else {
				v_wide2((const uint16_t *)s->tiles[tile + j].k + c * TILE, &even[j], &odd[j]);
			}
		}
#pragma GCC unroll 4
		for (int i = 0; i < MR; i++) {
			vf a = v_set(s->q[lane + i][c]), b = v_set(s->q[lane + i][c + 1]);
#pragma GCC unroll 2
			for (int j = 0; j < NT; j++) acc[i][j] = v_fma(b, odd[j], v_fma(a, even[j], acc[i][j]));
		}
	}
#pragma GCC unroll 4
	for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
		for (int j = 0; j < NT; j++) v_store(s->p[lane + i] + (tile + j) * TILE, acc[i][j]);
}

// weigh turns a lane's scores into weights and updates its maximum and sum.
static void weigh(state *s, long lane) {
	float *p = s->p[lane];
	const vf scale = v_set(s->a->scale), none = v_set(-__builtin_inff());
	vf top = none;
	vm seen[BLOCK];
	for (int j = 0; j < s->ntiles; j++) {
		const tile16 *t = &s->tiles[j];
		seen[j] = v_mask(s->lo[lane] - t->pos, least(s->hi[lane] - t->pos, t->slots));
		vf v = v_pick(seen[j], v_mul(v_load(p + j * TILE), scale), none);
		v_store(p + j * TILE, v);
		top = v_max(v, top);
	}
	float old = s->top[lane], now = v_top(top);
	now = now > old ? now : old;
	vf sum = v_zero();
	for (int j = 0; j < s->ntiles; j++) {
		vf v = v_pick(seen[j], v_exp(v_sub(v_load(p + j * TILE), v_set(now))), v_zero());
		v_store(p + j * TILE, v);
		sum = v_add(sum, v);
	}
	float fades[16];
	v_store(fades, v_exp(v_set(old - now)));
	s->top[lane] = now;
	s->fade[lane] = fades[0];
	s->sum[lane] = s->sum[lane] * fades[0] + v_sum(sum);
}

// gather adds the block's values to MR lanes, NC vectors of channels from c.
AI void gather(const int MR, const int NC, const int wide, state *s, long lane, long c) {
	const long d = s->a->kv.d, lo = s->lo[lane], hi = s->hi[lane + MR - 1];
	vm m[4];
	vf acc[4][4];
#pragma GCC unroll 4
	for (int j = 0; j < NC; j++) m[j] = v_mask(0, d - c - 16 * j);
#pragma GCC unroll 4
	for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
		for (int j = 0; j < NC; j++) acc[i][j] = v_mul(v_loadw(s->out[lane + i] + c + 16 * j, c + 16 * NC <= d, m[j]), v_set(s->fade[lane + i]));
	const int whole = c + 16 * NC <= d, fetch = lane == 0;
	for (int t = 0; t < s->ntiles; t++) {
		const tile16 *tile = &s->tiles[t];
		long from = most(0, lo - tile->pos), to = least(hi - tile->pos, tile->slots);
		for (long slot = from; slot < to; slot++) {
			vf v[4];
			if (fetch && s->next[t]) {
#pragma GCC unroll 2
				for (int j = 0; j < NC; j += 2) _mm_prefetch(s->next[t] + (slot * d + c + 16 * j) * 2, _MM_HINT_T1);
			}
#pragma GCC unroll 4
			for (int j = 0; j < NC; j++) {
				long at = slot * d + c + 16 * j;
				if (wide) v[j] = v_loadw((const float *)tile->v + at, whole, m[j]);
				else if (whole) v[j] = v_wide((const uint16_t *)tile->v + at);
				else v[j] = v_widem((const uint16_t *)tile->v + at, m[j]);
			}
#pragma GCC unroll 4
			for (int i = 0; i < MR; i++) {
				vf p = v_set(s->p[lane + i][t * TILE + slot]);
#pragma GCC unroll 4
				for (int j = 0; j < NC; j++) acc[i][j] = v_fma(p, v[j], acc[i][j]);
			}
		}
	}
#pragma GCC unroll 4
	for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
		for (int j = 0; j < NC; j++) v_storew(s->out[lane + i] + c + 16 * j, whole, m[j], acc[i][j]);
}

// find fills the tiles of a block that lie in [lo, hi).
AI void find(state *s, const int wide, long block, long lo, long hi) {
	const ck_cache *c = &s->a->kv;
	const long per = page_tiles(c), tile_bytes = TILE * c->d * (wide ? 4 : 2);
	s->ntiles = 0;
	for (long i = block * BLOCK; i < (block + 1) * BLOCK; i++) {
		long page = i / per, sub = i % per;
		tile16 t = {.pos = page * c->page_size + sub * TILE, .slots = (int)least(TILE, c->page_size - sub * TILE)};
		if (t.pos >= hi || t.pos + t.slots <= lo) continue;
		t.k = head_base(c, wide, s->u->pages[page], s->u->kv_head) + sub * tile_bytes;
		t.v = t.k + per * tile_bytes;
		s->tiles[s->ntiles++] = t;
	}
}

AI long tile_of(const ck_cache *c, long pos) { return pos / c->page_size * page_tiles(c) + pos % c->page_size / TILE; }
