// The inner loops of Linear and its LoRA terms, for every storage type ST.
// The including file chooses the vectors (vec512.h or vec256.h) and defines
// MR_MAX (rows of a block), MR_WIDE (rows up to which a block has both vectors
// of a panel), SHRINK_MR (rows of a shrink), and DOTS for VDPBF16PS.

enum { ST_BF16, ST_F32, ST_DOT };

#define PANEL 32
#define STEP 128        // bytes of a panel for one step: 2 inputs (bfloat16) or 1
#define DEPTH 2048      // inputs in one pass when rows must be blocked
#define ROW_BYTES (256 << 10) // rows that share a panel while they are in L2
#define UNIT_BYTES (96 << 10) // weights in one unit of work
#define AHEAD 8192      // prefetch distance in bytes when a panel is read once
#define SHRINK_AHEAD 4096
#define SHRINK_ROWS 32  // rows in one shrink unit
#define LANES 4         // accumulators of a shrink sum

AI long least(long a, long b) { return a < b ? a : b; }
AI long most(long a, long b) { return a > b ? a : b; }
AI long up(long a, long b) { return (a + b - 1) / b; }

AI long depth_steps(const int ST, long k) { return ST == ST_F32 ? k : up(k, 2); }

// block is one register block: rows of x times (half) a panel.
typedef struct {
	const char *x;   // first row at the first step
	long ldx;        // bytes
	const char *w;   // panel at the first step
	const char *next; // what to prefetch, spread over the steps
	long stride;     // bytes of next per step
	long steps;      // whole steps
	int odd;         // then one more input
	int load;        // continue the sums in y
	float *y;
	long ldy;
	int cols;        // valid columns of the panel
	const float *bias; // of the panel, added at the end; or NULL
	const char *const *ask, *const *last; // lines to fetch, one a step; or NULL
} block;

// step adds one step's products. ST_BF16 adds the even input, then the odd one:
// two roundings in a fixed order.
AI void step(const int MR, const int NV, const int ST, vf acc[][2], const char *x, long ldx, const char *w) {
	if (ST == ST_F32) {
		vf b[2];
#pragma GCC unroll 2
		for (int v = 0; v < NV; v++) b[v] = v_load((const float *)(w + 64 * v));
#pragma GCC unroll 16
		for (int i = 0; i < MR; i++) {
			vf a = v_set(*(const float *)(x + i * ldx));
#pragma GCC unroll 2
			for (int v = 0; v < NV; v++) acc[i][v] = v_fma(a, b[v], acc[i][v]);
		}
	}
	if (ST == ST_BF16) {
		vf even[2], odd[2];
#pragma GCC unroll 2
		for (int v = 0; v < NV; v++) v_wide2((const uint16_t *)(w + 64 * v), &even[v], &odd[v]);
#pragma GCC unroll 16
		for (int i = 0; i < MR; i++) {
			vf a = v_set(*(const float *)(x + i * ldx));
#pragma GCC unroll 2
			for (int v = 0; v < NV; v++) acc[i][v] = v_fma(a, even[v], acc[i][v]);
		}
#pragma GCC unroll 16
		for (int i = 0; i < MR; i++) {
			vf a = v_set(*(const float *)(x + i * ldx + 4));
#pragma GCC unroll 2
			for (int v = 0; v < NV; v++) acc[i][v] = v_fma(a, odd[v], acc[i][v]);
		}
	}
#ifdef DOTS
	if (ST == ST_DOT) {
		__m512bh b[2];
#pragma GCC unroll 2
		for (int v = 0; v < NV; v++) b[v] = (__m512bh)_mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 16
		for (int i = 0; i < MR; i++) {
			__m512bh a = (__m512bh)_mm512_set1_epi32(*(const int *)(x + i * ldx));
#pragma GCC unroll 2
			for (int v = 0; v < NV; v++) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], b[v], a);
		}
	}
#endif
}

// odd_step adds the last input of an odd depth.
AI void odd_step(const int MR, const int NV, vf acc[][2], const char *x, long ldx, const char *w) {
#pragma GCC unroll 2
	for (int v = 0; v < NV; v++) {
		vf even, odd;
		v_wide2((const uint16_t *)(w + 64 * v), &even, &odd);
#pragma GCC unroll 16
		for (int i = 0; i < MR; i++) acc[i][v] = v_fma(v_set(*(const float *)(x + i * ldx)), even, acc[i][v]);
	}
}

AI void store(const int MR, const int NV, vf acc[][2], const block *b, int from) {
#pragma GCC unroll 2
	for (int v = 0; v < NV; v++) {
		int c = from + 16 * v;
		vm m = v_mask(0, b->cols - c);
		if (b->bias) {
			vf add = v_loadm(b->bias + c, m);
#pragma GCC unroll 16
			for (int i = 0; i < MR; i++) acc[i][v] = v_add(acc[i][v], add);
		}
		if (b->cols - c >= 16) {
#pragma GCC unroll 16
			for (int i = 0; i < MR; i++) v_store(b->y + i * b->ldy + c, acc[i][v]);
		} else {
#pragma GCC unroll 16
			for (int i = 0; i < MR; i++) v_storem(b->y + i * b->ldy + c, m, acc[i][v]);
		}
	}
}

// run computes NV vectors of a block from column from.
AI void run(const int MR, const int NV, const int ST, const block *b, int from, const int fetch, const int asks) {
	vf acc[MR_MAX][2];
#pragma GCC unroll 2
	for (int v = 0; v < NV; v++)
#pragma GCC unroll 16
		for (int i = 0; i < MR; i++) acc[i][v] = v_zero();
	if (b->load) {
#pragma GCC unroll 2
		for (int v = 0; v < NV; v++) {
			vm m = v_mask(0, b->cols - from - 16 * v);
#pragma GCC unroll 16
			for (int i = 0; i < MR; i++) acc[i][v] = v_loadm(b->y + i * b->ldy + from + 16 * v, m);
		}
	}
	const char *x = b->x, *w = b->w + 4 * from, *next = b->next;
	const char *const *ask = b->ask, *const *last = b->last;
	const long ldx = b->ldx, stride = b->stride, inputs = ST == ST_BF16 ? 8 : 4;
	for (const char *end = w + b->steps * STEP; w < end; w += STEP) {
		if (fetch) {
			_mm_prefetch(next, _MM_HINT_T0);
			_mm_prefetch(next + 64, _MM_HINT_T0);
			next += stride;
		}
		if (asks) {
			_mm_prefetch(*ask, _MM_HINT_T0);
			ask += ask < last;
		}
		step(MR, NV, ST, acc, x, ldx, w);
		x += inputs;
	}
	if (ST == ST_BF16 && b->odd) odd_step(MR, NV, acc, x, ldx, w);
	store(MR, NV, acc, b, from);
}

// SLOTS bounds the threads that take part in one Linear.
#define SLOTS 128

// A span is the units that one thread begins with: neighbours, so that what is
// fetched ahead is what it reads next. Who has finished takes from the others.
typedef struct {
	_Atomic long next;
	long end;
} __attribute__((aligned(64))) span;

// plan is a Linear cut into units: first the shrinks, then panels times rows.
typedef struct {
	ck_linear *a;
	const char *x;
	long ldx;     // bytes
	long panel;   // bytes
	long group;   // panels in a unit
	long rows;    // rows in a unit
	long chunks;  // units of rows
	long slots;   // spans in use
	span shrinks; // units that come first
	_Atomic long left __attribute__((aligned(64))); // shrink units not done
	span spans[SLOTS];
} plan;

// shrink_rows writes s [MR, n] of one group of n ranks. a is the group.
AI void shrink_rows(const int MR, const int ST, const plan *p, const ck_term *t, long row, long rank, long n, const char *a) {
	vf acc[SHRINK_MR][LANES];
#pragma GCC unroll 4
	for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
		for (int u = 0; u < LANES; u++) acc[i][u] = v_zero();
	const vm m = v_mask(0, n);
	const long k = p->a->k, ldx = p->ldx, pairs = ST == ST_DOT ? up(k, 2) : k / 2;
	const char *x = p->x + row * ldx;
	for (long at = 0; at < pairs; at += LANES) {
#pragma GCC unroll 4
		for (int u = 0; u < LANES; u++) {
			if (at + u >= pairs) break;
			const char *w = a + (at + u) * n * (ST == ST_F32 ? 8 : 4);
			_mm_prefetch(w + SHRINK_AHEAD, _MM_HINT_T0);
			vf even, odd;
			if (ST == ST_F32) {
				_mm_prefetch(w + SHRINK_AHEAD + 64, _MM_HINT_T0);
				even = v_loadm((const float *)w, m);
				odd = v_loadm((const float *)w + n, m);
			}
			if (ST == ST_BF16) v_wide2m((const uint16_t *)w, m, &even, &odd);
#pragma GCC unroll 4
			for (int i = 0; i < MR; i++) {
#ifdef DOTS
				if (ST == ST_DOT) {
					__m512bh xv = (__m512bh)_mm512_set1_epi32(*(const int *)(x + i * ldx + (at + u) * 4));
					acc[i][u] = _mm512_dpbf16_ps(acc[i][u], (__m512bh)_mm512_maskz_loadu_epi32(m, w), xv);
					continue;
				}
#endif
				const float *xf = (const float *)(x + i * ldx) + 2 * (at + u);
				acc[i][u] = v_fma(v_set(xf[0]), even, acc[i][u]);
				acc[i][u] = v_fma(v_set(xf[1]), odd, acc[i][u]);
			}
		}
	}
	if (ST != ST_DOT && (k & 1)) { // pair number pairs has one input
		const char *w = a + pairs * n * (ST == ST_F32 ? 8 : 4);
		vf even, odd;
		if (ST == ST_F32) even = v_loadm((const float *)w, m);
		else v_wide2m((const uint16_t *)w, m, &even, &odd);
#pragma GCC unroll 4
		for (int i = 0; i < MR; i++) {
			vf xv = v_set(((const float *)(x + i * ldx))[k - 1]);
#pragma GCC unroll 4
			for (int u = 0; u < LANES; u++)
				if (u == pairs % LANES) acc[i][u] = v_fma(xv, even, acc[i][u]);
		}
	}
#pragma GCC unroll 4
	for (int i = 0; i < MR; i++) {
		vf s = v_add(v_add(acc[i][0], acc[i][1]), v_add(acc[i][2], acc[i][3]));
		v_storem(t->s + (row + i - t->start) * t->rank + rank, m, v_mul(s, v_set(t->scale)));
	}
}

// expand_step adds one step of NP panels of B, size bytes apart, to MR rows.
AI void expand_step(const int MR, const int NP, const int ST, const int half, vf acc[][4], const float *s, long rank, const char *b, long size) {
	vf even[4], odd[4];
#pragma GCC unroll 4
	for (int v = 0; v < 2 * NP; v++) {
		const char *at = b + v / 2 * size + v % 2 * 64;
		if (ST == ST_F32) even[v] = v_load((const float *)at);
		else v_wide2((const uint16_t *)at, &even[v], &odd[v]);
	}
#pragma GCC unroll 8
	for (int i = 0; i < MR; i++) {
		vf a = v_set(s[i * rank]);
#pragma GCC unroll 4
		for (int v = 0; v < 2 * NP; v++) acc[i][v] = v_fma(a, even[v], acc[i][v]);
		if (half) continue;
		a = v_set(s[i * rank + 1]);
#pragma GCC unroll 4
		for (int v = 0; v < 2 * NP; v++) acc[i][v] = v_fma(a, odd[v], acc[i][v]);
	}
}

// expand_rows adds B·s of NP panels of B to MR rows; y and s are the first row's,
// lanes [lo, hi) of the panels count.
AI void expand_rows(const int MR, const int NP, const int ST, const float *s, const char *b, long rank, float *y, long ldy, long lo, long hi) {
	const long size = depth_steps(ST, rank) * STEP;
	vf acc[8][4];
#pragma GCC unroll 8
	for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
		for (int v = 0; v < 2 * NP; v++) acc[i][v] = v_zero();
	const int per = ST == ST_F32 ? 1 : 2; // ranks in a step
	for (const float *end = s + rank / per * per; s < end; s += per, b += STEP) expand_step(MR, NP, ST, ST == ST_F32, acc, s, rank, b, size);
	if (rank % per) expand_step(MR, NP, ST, 1, acc, s, rank, b, size);
	const int whole = lo == 0 && hi == NP * PANEL;
	// All loads before all stores: rows of y may lie a multiple of 4 KiB apart,
	// and then a load waits for any store before it.
#pragma GCC unroll 4
	for (int v = 0; v < 2 * NP; v++) {
		vm m = v_mask(lo - 16 * v, hi - 16 * v);
#pragma GCC unroll 8
		for (int i = 0; i < MR; i++) acc[i][v] = v_add(v_loadw(y + i * ldy + 16 * v, whole, m), acc[i][v]);
	}
#pragma GCC unroll 4
	for (int v = 0; v < 2 * NP; v++) {
		vm m = v_mask(lo - 16 * v, hi - 16 * v);
#pragma GCC unroll 8
		for (int i = 0; i < MR; i++) v_storew(y + i * ldy + 16 * v, whole, m, acc[i][v]);
	}
}

#define LINES 512 // of B fetched during one panel
#ifndef ROW_STEP
#define ROW_STEP MR_MAX // rows of a unit are a multiple of this
#endif

#define NOINLINE static __attribute__((noinline))
