// Linear of one storage type ST; names are made by SETNAME.

#define ONE(MR)                                              \
	NOINLINE void SETNAME(block_##MR)(const block *b) {      \
		if (MR > MR_WIDE) {                                  \
			run(MR, 1, ST, b, 0, 1, 0);                      \
			if (b->cols > 16) run(MR, 1, ST, b, 16, 0, 0);   \
		} else if (b->ask) {                                 \
			run(MR, 2, ST, b, 0, 1, 1);                      \
		} else {                                             \
			run(MR, 2, ST, b, 0, 1, 0);                      \
		}                                                    \
	}
ONE(1) ONE(2) ONE(3) ONE(4) ONE(5)
#if MR_MAX > 5
ONE(6) ONE(7) ONE(8) ONE(9) ONE(10) ONE(11) ONE(12)
#endif

static void (*const SETNAME(blocks)[])(const block *) = {
	0, SETNAME(block_1), SETNAME(block_2), SETNAME(block_3), SETNAME(block_4), SETNAME(block_5),
#if MR_MAX > 5
	SETNAME(block_6), SETNAME(block_7), SETNAME(block_8), SETNAME(block_9), SETNAME(block_10), SETNAME(block_11), SETNAME(block_12),
#endif
};

// list collects the lines of B that the terms need for rows [r0, r1) and a
// panel, and returns their number. They are fetched while the panel is
// multiplied, one a step: the pieces are too short for the processor to see
// streams, and it drops prefetches that come all at once.
static long SETNAME(list)(const ck_linear *a, long r0, long r1, long panel, const char **lines, long room) {
	long n = 0;
	for (const ck_term *t = a->terms; t < a->terms + a->nterms; t++) {
		long c0 = most(panel * PANEL, t->offset) - t->offset, c1 = least((panel + 1) * PANEL, t->offset + t->out) - t->offset;
		if (t->start >= r1 || t->end <= r0 || c0 >= c1) continue;
		long size = depth_steps(ST, t->rank) * STEP;
		const char *from = (const char *)t->b + c0 / PANEL * size, *to = (const char *)t->b + up(c1, PANEL) * size;
		for (; from < to && n < room; from += 64) lines[n++] = from;
	}
	return n;
}

#ifdef TILES
#include "linear_tiles.h"
#endif

// multiply writes rows [r0, r1) of panels [p0, p1).
static void SETNAME(multiply)(const plan *p, long r0, long r1, long p0, long p1) {
	const ck_linear *a = p->a;
#ifdef TILES
	if (a->k % TILE_INPUTS == 0) {
		tile_multiply(p, r0, r1, p0, p1);
		return;
	}
#endif
	const char *lines[LINES];
	long n = r1 - r0, blocks = up(n, MR_MAX);
	long depth = blocks > 1 ? DEPTH : a->k;
	for (long panel = p0; panel < p1; panel++) {
		const char *w = (const char *)a->w + panel * p->panel;
		long asked = SETNAME(list)(a, r0, r1, panel, lines, LINES);
		for (long k = 0; k < a->k; k += depth) {
			long end = least(k + depth, a->k);
			block b = {
				.ldx = p->ldx, .w = w + depth_steps(ST, k) * STEP, .ldy = a->n, .load = k > 0,
				.cols = (int)least(PANEL, a->n - panel * PANEL),
				.steps = ST == ST_BF16 ? (end - k) / 2 : depth_steps(ST, end - k), .odd = (end - k) & 1,
				.bias = a->bias && end == a->k ? a->bias + panel * PANEL : 0,
			};
			// Rows after the first find the panel in cache and fetch the next one.
			long bytes = depth_steps(ST, end - k) * STEP;
			b.stride = up(STEP, blocks);
			for (long i = 0; i < blocks; i++) {
				long row = r0 + i * n / blocks, rows = r0 + (i + 1) * n / blocks - row;
				b.next = blocks == 1 ? b.w + AHEAD : b.w + bytes + i * bytes / blocks;
				b.x = p->x + row * p->ldx + k * (ST == ST_DOT ? 2 : 4);
				b.y = a->y + row * a->n + panel * PANEL;
				b.ask = asked ? lines : 0;
				b.last = lines + asked - 1;
				asked = 0;
				SETNAME(blocks)[rows](&b);
			}
		}
	}
}

NOINLINE void SETNAME(shrink)(const plan *p, const ck_term *t, long r0, long r1) {
#ifdef TILES
	if (p->a->k % TILE_INPUTS == 0) {
		tile_shrink(p, t, r0, r1);
		return;
	}
#endif
	const long even = depth_steps(ST, p->a->k) * 4;
	for (long rank = 0; rank < t->rank; rank += 16) {
		long n = least(16, t->rank - rank), row = r0;
		const char *a = (const char *)t->a + rank * even;
		for (long i = 0; i < SHRINK_AHEAD; i += 64) _mm_prefetch(a + i, _MM_HINT_T0);
#if SHRINK_MR >= 4
		for (; row + 4 <= r1; row += 4) shrink_rows(4, ST, p, t, row, rank, n, a);
#endif
#if SHRINK_MR >= 2
		for (; row + 2 <= r1; row += 2) shrink_rows(2, ST, p, t, row, rank, n, a);
#endif
		for (; row < r1; row++) shrink_rows(1, ST, p, t, row, rank, n, a);
	}
}

#define EXPAND(MR, NP)                                                                                    \
	NOINLINE void SETNAME(expand_##MR##_##NP)(const float *s, const char *b, long rank, float *y, long ldy, long lo, long hi) { \
		expand_rows(MR, NP, ST, s, b, rank, y, ldy, lo, hi);                                              \
	}
EXPAND(1, 1) EXPAND(2, 1)
#if MR_MAX > 5
EXPAND(1, 2) EXPAND(4, 1) EXPAND(8, 1)
#endif
#undef EXPAND

// expand adds a term's contribution to rows [r0, r1) and columns [c0, c1) of y
// [.., ldy], which lie inside the term. s is the intermediate of row r0.
NOINLINE void SETNAME(expand)(const ck_term *t, const float *s, float *y, long ldy, long r0, long r1, long c0, long c1) {
	const long rank = t->rank, size = depth_steps(ST, rank) * STEP, n = r1 - r0;
	for (long c = (c0 - t->offset) / PANEL * PANEL; rank && c < c1 - t->offset; c += PANEL) {
		const char *b = (const char *)t->b + c / PANEL * size;
		const long lo = most(0, c0 - t->offset - c), hi = least(PANEL, c1 - t->offset - c);
		float *at = y + r0 * ldy + t->offset + c;
		long i = 0;
#if MR_MAX > 5
		if (n == 1 && c + 2 * PANEL <= c1 - t->offset) { // enough sums at once for one row
			SETNAME(expand_1_2)(s, b, rank, at, ldy, lo, 2 * PANEL);
			c += PANEL;
			continue;
		}
		for (; i + 8 <= n; i += 8) SETNAME(expand_8_1)(s + i * rank, b, rank, at + i * ldy, ldy, lo, hi);
		for (; i + 4 <= n; i += 4) SETNAME(expand_4_1)(s + i * rank, b, rank, at + i * ldy, ldy, lo, hi);
#endif
		for (; i + 2 <= n; i += 2) SETNAME(expand_2_1)(s + i * rank, b, rank, at + i * ldy, ldy, lo, hi);
		for (; i < n; i++) SETNAME(expand_1_1)(s + i * rank, b, rank, at + i * ldy, ldy, lo, hi);
	}
	if (!t->bias) return;
	for (long r = r0; r < r1; r++)
		for (long c = c0; c < c1; c++) y[r * ldy + c] += t->bias[c - t->offset];
}

// add_terms adds the terms' shares of a finished piece of y.
static void SETNAME(add_terms)(const plan *p, long r0, long r1, long c0, long c1) {
	const ck_linear *a = p->a;
	for (const ck_term *t = a->terms; t < a->terms + a->nterms; t++) {
		long tr0 = most(r0, t->start), tr1 = least(r1, t->end);
		long tc0 = most(c0, t->offset), tc1 = least(c1, t->offset + t->out);
		if (tr0 >= tr1 || tc0 >= tc1) continue;
		SETNAME(expand)(t, t->s + (tr0 - t->start) * t->rank, a->y, a->n, tr0, tr1, tc0, tc1);
	}
}

static void SETNAME(shrink_unit)(plan *p, long unit) {
	const ck_linear *a = p->a;
	const ck_term *t = a->terms;
	while (t + 1 < a->terms + a->nterms && t[1].unit0 <= unit) t++;
	long r0 = t->start + (unit - t->unit0) * SHRINK_ROWS;
	SETNAME(shrink)(p, t, r0, least(r0 + SHRINK_ROWS, t->end));
	p->left--;
}

static void SETNAME(panel_unit)(plan *p, long unit) {
	const ck_linear *a = p->a;
	long p0 = unit / p->chunks * p->group, p1 = least(p0 + p->group, up(a->n, PANEL));
	long r0 = unit % p->chunks * p->rows, r1 = least(r0 + p->rows, a->m);
	long c0 = p0 * PANEL, c1 = least(p1 * PANEL, a->n);
	SETNAME(multiply)(p, r0, r1, p0, p1);
	// All shrink units were taken before any other, so some thread is at them.
	for (unsigned n = 1; p->left; n++) ck_pause(n);
	SETNAME(add_terms)(p, r0, r1, c0, c1);
}

// slot is one thread's share of a Linear.
static void SETNAME(slot)(void *arg, long slot) {
	plan *p = arg;
	long unit;
	while ((unit = p->shrinks.next++) < p->shrinks.end) SETNAME(shrink_unit)(p, unit);
	for (long i = 0; i < p->slots; i++) {
		span *s = &p->spans[(slot + i) % p->slots];
		while ((unit = s->next++) < s->end) SETNAME(panel_unit)(p, unit);
	}
}

void SETNAME(linear)(ck_pool *pool, ck_linear *a) {
	plan p;
	p.a = a;
	p.panel = depth_steps(ST, a->k) * STEP;
	p.x = ST == ST_DOT ? (const char *)a->xb : (const char *)a->x;
	p.ldx = ST == ST_DOT ? a->ldxb * 2 : a->k * 4;
	p.shrinks.next = p.shrinks.end = 0;
	for (ck_term *t = a->terms; t < a->terms + a->nterms; t++) {
		t->unit0 = p.shrinks.end;
		if (t->rank) p.shrinks.end += up(t->end - t->start, SHRINK_ROWS);
	}
	p.left = p.shrinks.end;
	const long panels = up(a->n, PANEL);
	p.rows = most(ROW_BYTES / (least(a->k, DEPTH) * (ST == ST_DOT ? 2 : 4)), 2 * ROW_STEP) / ROW_STEP * ROW_STEP;
	p.chunks = up(a->m, p.rows);
	p.rows = up(up(a->m, p.chunks), ROW_STEP) * ROW_STEP;
	p.chunks = up(a->m, p.rows);
	p.group = most(1, least(UNIT_BYTES / p.panel, panels * p.chunks / (4 * a->threads)));
	const long units = up(panels, p.group) * p.chunks;
	p.slots = least(least(a->threads, SLOTS), units);
	for (long i = 0; i < p.slots; i++) {
		p.spans[i].next = i * units / p.slots;
		p.spans[i].end = (i + 1) * units / p.slots;
	}
	ck_pool_run(pool, SETNAME(slot), &p, p.slots);
}
