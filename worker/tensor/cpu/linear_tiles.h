// Products on AMX tiles (Intel SDM vol. 1, ch. 18): C [16, 16] += A [16, 32] · B [32, 16]
// with A rows of bfloat16 and B in pairs, which is how panels are packed. A
// panel is two tiles wide, a block of rows two tiles high. A tile has as many
// rows as there are, and each element of C adds its products in the order of
// the inputs, so a row's result does not depend on the rows beside it.

#define TILE_ROWS 16
#define TILE_INPUTS 32
#define TILE_STEP (TILE_INPUTS / 2 * STEP) // bytes of a panel
#define TILE_DEPTH 512 // inputs in one pass of many rows: a panel's stay in the first cache

// The tile intrinsics do not tell the compiler what memory they use.
AI void tile_fence(void) { __asm__ volatile("" ::: "memory"); }

// tile_shape is the operand of LDTILECFG.
typedef struct {
	uint8_t palette, start, none[14];
	uint16_t bytes[16];
	uint8_t rows[16];
} __attribute__((aligned(64))) tile_shape;

static void tile_configure(const tile_shape *s) {
	tile_fence();
	_tile_loadconfig(s);
}

// Of a product, tiles 0 to 3 are the sums: upper rows left and right, lower rows left and
// right. 4 and 5 are upper and lower rows of x, 6 and 7 the panel.
static void tile_shapes(int upper, int lower) {
	const int rows[8] = {upper, upper, lower, lower, upper, lower, TILE_ROWS, TILE_ROWS};
	tile_shape s = {.palette = 1};
	for (int i = 0; i < 8; i++) {
		s.rows[i] = (uint8_t)(rows[i] ? rows[i] : 1); // a tile without rows is no tile
		s.bytes[i] = 64;
	}
	tile_configure(&s);
}

// tile_sums computes a block's sums from its x and panel into y, ldy floats
// apart, or continues those that are there.
AI void tile_sums(const int two, const block *b, float *y, long ldy, long lines) {
	const long row = ldy * (long)sizeof(float);
	float *low = y + TILE_ROWS * ldy;
	tile_fence();
	if (b->load) {
		_tile_loadd(0, y, row);
		_tile_loadd(1, y + 16, row);
		if (two) {
			_tile_loadd(2, low, row);
			_tile_loadd(3, low + 16, row);
		}
	} else {
		_tile_zero(0);
		_tile_zero(1);
		if (two) {
			_tile_zero(2);
			_tile_zero(3);
		}
	}
	const char *x = b->x, *next = b->next;
	const char *const *ask = b->ask, *const *last = b->last;
	for (const char *w = b->w, *end = w + b->steps * STEP; w < end; w += TILE_STEP) {
		for (long i = 0; i < lines; i++) _mm_prefetch(next + 64 * i, _MM_HINT_T0);
		next += 64 * lines;
		for (int i = 0; ask && ask <= last && i < TILE_INPUTS / 2; i++) _mm_prefetch(*ask++, _MM_HINT_T0);
		_tile_loadd(6, w, STEP);
		_tile_loadd(4, x, b->ldx);
		_tile_loadd(7, w + 64, STEP);
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(1, 4, 7);
		if (two) {
			_tile_loadd(5, x + TILE_ROWS * b->ldx, b->ldx);
			_tile_dpbf16ps(2, 5, 6);
			_tile_dpbf16ps(3, 5, 7);
		}
		x += TILE_INPUTS * 2;
	}
	_tile_stored(0, y, row);
	_tile_stored(1, y + 16, row);
	if (two) {
		_tile_stored(2, low, row);
		_tile_stored(3, low + 16, row);
	}
	tile_fence();
}

NOINLINE void tile_sums_1(const block *b, float *y, long ldy, long lines) { tile_sums(0, b, y, ldy, lines); }
NOINLINE void tile_sums_2(const block *b, float *y, long ldy, long lines) { tile_sums(1, b, y, ldy, lines); }

// tile_block computes up to two tiles of rows of one panel. Narrow panels and
// sums that get a bias pass through scratch.
static void tile_block(const block *b, long rows, long lines) {
	float scratch[2 * TILE_ROWS * PANEL] __attribute__((aligned(64)));
	const int direct = b->cols == PANEL && !b->bias;
	float *y = direct ? b->y : scratch;
	const long ldy = direct ? b->ldy : PANEL;
	if (!direct && b->load)
		for (long i = 0; i < rows; i++) memcpy(y + i * ldy, b->y + i * b->ldy, sizeof(float) * (size_t)b->cols);
	(rows > TILE_ROWS ? tile_sums_2 : tile_sums_1)(b, y, ldy, lines);
	if (direct) return;
	for (long i = 0; i < rows; i++)
		for (int c = 0; c < b->cols; c++) b->y[i * b->ldy + c] = b->bias ? y[i * ldy + c] + b->bias[c] : y[i * ldy + c];
}

// tile_panel computes rows [r0, r1) of a panel from input k on. lines of B are
// fetched meanwhile.
static void tile_panel(const plan *p, long r0, long r1, block b, long k, const char *const *lines, long asked) {
	const long n = r1 - r0, blocks = up(n, 2 * TILE_ROWS), bytes = b.steps * STEP;
	for (long i = 0; i < blocks; i++) {
		const long row = r0 + i * 2 * TILE_ROWS, rows = least(2 * TILE_ROWS, r1 - row);
		if (i == 0 || rows < 2 * TILE_ROWS) tile_shapes((int)least(rows, TILE_ROWS), (int)most(rows - TILE_ROWS, 0));
		b.x = p->x + row * p->ldx + k * 2;
		b.y += i ? 2 * TILE_ROWS * b.ldy : 0;
		// Rows after the first find the panel in cache and fetch the next one.
		b.next = blocks == 1 ? b.w + AHEAD : b.w + bytes + i * bytes / blocks;
		b.ask = asked ? lines : 0;
		b.last = lines + asked - 1;
		asked = 0;
		tile_block(&b, rows, up(TILE_STEP / 64, blocks));
	}
}

// tile_multiply writes rows [r0, r1) of panels [p0, p1); the depth is a
// multiple of TILE_INPUTS.
static void tile_multiply(const plan *p, long r0, long r1, long p0, long p1) {
	const ck_linear *a = p->a;
	const char *lines[LINES];
	const long depth = r1 - r0 > 2 * TILE_ROWS ? TILE_DEPTH : a->k;
	for (long panel = p0; panel < p1; panel++) {
		const char *w = (const char *)a->w + panel * p->panel;
		long asked = SETNAME(list)(a, r0, r1, panel, lines, LINES);
		for (long k = 0; k < a->k; k += depth) {
			const long end = least(k + depth, a->k);
			const block b = {
				.ldx = p->ldx, .w = w + k / 2 * STEP, .steps = (end - k) / 2, .load = k > 0,
				.y = a->y + r0 * a->n + panel * PANEL, .ldy = a->n, .cols = (int)least(PANEL, a->n - panel * PANEL),
				.bias = a->bias && end == a->k ? a->bias + panel * PANEL : 0,
			};
			tile_panel(p, r0, r1, b, k, lines, asked);
			asked = 0;
		}
	}
	_tile_release(); // or every switch of threads saves 8 KiB of tiles
}

// Of a shrink, tiles 0 to 3 are sums of every fourth 32 inputs, for n ranks; 4
// and 5 are x, 6 and 7 the group.
static void tile_shrink_shapes(int rows, int n) {
	tile_shape s = {.palette = 1};
	for (int i = 0; i < 8; i++) {
		s.rows[i] = (uint8_t)(i < 6 ? rows : TILE_ROWS);
		s.bytes[i] = (uint16_t)(i == 4 || i == 5 ? 64 : 4 * n);
	}
	tile_configure(&s);
}

// tile_shrink_sums computes the four sums of one group of n ranks.
static void tile_shrink_sums(const char *x, long ldx, const char *a, long n, long k, float *sums) {
	const long group = TILE_INPUTS * 2 * n; // bytes
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	// Each pair of tiles is loaded anew while the other is multiplied.
#define ADD(sum, xt, at)                                                      \
	if (k <= 0) break;                                                        \
	for (long i = 0; i < group; i += 64) _mm_prefetch(a + SHRINK_AHEAD + i, _MM_HINT_T0); \
	_tile_loadd(at, a, 4 * n);                                                \
	_tile_loadd(xt, x, ldx);                                                  \
	_tile_dpbf16ps(sum, xt, at);                                              \
	a += group, x += 2 * TILE_INPUTS, k -= TILE_INPUTS;
	for (;;) {
		ADD(0, 4, 6)
		ADD(1, 5, 7)
		ADD(2, 4, 6)
		ADD(3, 5, 7)
	}
#undef ADD
	_tile_stored(0, sums, 64);
	_tile_stored(1, sums + 256, 64);
	_tile_stored(2, sums + 512, 64);
	_tile_stored(3, sums + 768, 64);
	tile_fence();
}

// tile_shrink writes s of rows [r0, r1) of a term; the depth is a multiple of
// TILE_INPUTS.
static void tile_shrink(const plan *p, const ck_term *t, long r0, long r1) {
	float sums[4 * TILE_ROWS * 16] __attribute__((aligned(64)));
	for (long rank = 0; rank < t->rank; rank += 16) {
		const long n = least(16, t->rank - rank);
		const char *a = (const char *)t->a + rank * p->a->k * 2;
		for (long row = r0; row < r1; row += TILE_ROWS) {
			const long rows = least(TILE_ROWS, r1 - row);
			tile_shrink_shapes((int)rows, (int)n);
			tile_shrink_sums(p->x + row * p->ldx, p->ldx, a, n, p->a->k, sums);
			for (long i = 0; i < rows; i++) {
				const float *at = sums + 16 * i;
				vf s = v_add(v_add(v_load(at), v_load(at + 256)), v_add(v_load(at + 512), v_load(at + 768)));
				v_storem(t->s + (row + i - t->start) * t->rank + rank, v_mask(0, n), v_mul(s, v_set(t->scale)));
			}
		}
	}
	_tile_release();
}
