// Attention for one storage type F32.

#define SCORES(MR)                                                 \
	NOINLINE void SETNAME(scores_##MR)(state *s, long lane) {      \
		int j = 0;                                                 \
		for (; QK_TILES == 2 && j + 2 <= s->ntiles; j += 2) scores(MR, 2, F32, s, lane, j); \
		for (; j < s->ntiles; j++) scores(MR, 1, F32, s, lane, j);      \
	}
SCORES(1) SCORES(2) SCORES(3) SCORES(4)

#define GATHER(MR)                                                  \
	NOINLINE void SETNAME(gather_##MR)(state *s, long lane) {       \
		long c = 0, d = s->a->kv.d;                                 \
		for (; PV_VECTORS == 4 && c + 64 <= d; c += 64) gather(MR, 4, F32, s, lane, c); \
		for (; PV_VECTORS >= 2 && c + 32 <= d; c += 32) gather(MR, 2, F32, s, lane, c); \
		for (; c < d; c += 16) gather(MR, 1, F32, s, lane, c);           \
	}
GATHER(1) GATHER(2) GATHER(3) GATHER(4)

// attend handles the state's lanes. Positions rise with the lane, so the lanes
// that see a block are neighbours.
static void SETNAME(attend)(state *s) {
	const ck_cache *c = &s->a->kv;
	long last = tile_of(c, s->hi[s->lanes - 1] - 1) / BLOCK;
	for (long block = tile_of(c, s->lo[0]) / BLOCK; block <= last; block++) {
		long a = 0, b = s->lanes;
		while (a < b && tile_of(c, s->hi[a] - 1) / BLOCK < block) a++;
		while (b > a && tile_of(c, s->lo[b - 1]) / BLOCK > block) b--;
		if (a == b) continue;
		find(s, F32, block, s->lo[a], s->hi[b - 1]);
		for (long i = a; i < b; i += 4) {
			switch (least(4, b - i)) {
			case 4: SETNAME(scores_4)(s, i); break;
			case 3: SETNAME(scores_3)(s, i); break;
			case 2: SETNAME(scores_2)(s, i); break;
			default: SETNAME(scores_1)(s, i);
			}
		}
		for (long i = a; i < b; i++) weigh(s, i);
		for (long i = a; i < b; i += 4) {
			switch (least(4, b - i)) {
			case 4: SETNAME(gather_4)(s, i); break;
			case 3: SETNAME(gather_3)(s, i); break;
			case 2: SETNAME(gather_2)(s, i); break;
			default: SETNAME(gather_1)(s, i);
			}
		}
	}
}

// queries handles one ck_queries; next, which may be NULL, comes after it on the
// same thread.
static void SETNAME(queries)(const ck_attention *a, const ck_queries *u, const ck_queries *next) {
	const long d = a->kv.d, per = a->heads / a->kv.kv_heads, ldx = (a->heads + 2 * a->kv.kv_heads) * d;
	state s;
	s.a = a;
	s.u = u;
	for (long i = 0; i < BLOCK; i++) {
		long page = i / page_tiles(&a->kv);
		s.next[i] = 0;
		if (next && page * a->kv.page_size < next->pos + next->n)
			s.next[i] = head_base(&a->kv, F32, next->pages[page], next->kv_head) + i % page_tiles(&a->kv) * TILE * d * (F32 ? 4 : 2);
	}
	for (long from = 0; from < u->n * per; from += QUERIES) {
		s.lanes = least(QUERIES, u->n * per - from);
		for (long i = 0; i < s.lanes; i++) {
			long t = (from + i) / per, h = u->kv_head * per + (from + i) % per;
			s.q[i] = a->x + (u->row + t) * ldx + h * d;
			s.out[i] = a->y + ((u->row + t) * a->heads + h) * d;
			s.hi[i] = u->pos + t + 1;
			s.lo[i] = a->window > 0 ? most(0, s.hi[i] - a->window) : 0;
			s.top[i] = -__builtin_inff();
			s.sum[i] = 0;
			memset(s.out[i], 0, d * 4);
		}
		SETNAME(attend)(&s);
		for (long i = 0; i < s.lanes; i++) {
			long t = (from + i) / per, h = u->kv_head * per + (from + i) % per;
			uint16_t *yb = a->yb ? a->yb + (u->row + t) * a->ldyb + h * d : 0;
			float *out = s.out[i];
			const vf sum = v_set(s.sum[i]);
			EACH(d, {
				vf v = v_div(v_loadw(out + i, whole, m), sum);
				v_storew(out + i, whole, m, v);
				if (yb) v_roundw(yb + i, whole, m, v);
			});
		}
	}
}

// chunk is the number of neighbours that one thread takes at once: kv heads of
// one sequence lie side by side.
AI long SETNAME(chunk)(const ck_attention *a) { return most(1, least(a->kv.kv_heads, a->nunits / (4 * a->threads))); }

static void SETNAME(attention_unit)(void *arg, long unit) {
	const ck_attention *a = arg;
	long n = SETNAME(chunk)(a), end = least(a->nunits, (unit + 1) * n);
	for (long i = unit * n; i < end; i++) SETNAME(queries)(a, &a->units[i], i + 1 < end ? &a->units[i + 1] : 0);
}

static void SETNAME(attention)(ck_pool *pool, ck_attention *a) {
	ck_pool_run(pool, SETNAME(attention_unit), a, up(a->nunits, SETNAME(chunk)(a)));
}
