// Products and shrinks on tiles against sums in the same order, bit for bit.
// Compiled and run by TestTiles.
#pragma GCC target("avx2,fma,f16c")
#include <stdio.h>
#include <stdlib.h>

#include "kernels.h"
#include "vec256.h"

#include "software.h"

#define MR_MAX 5
#define MR_WIDE 2
#define SHRINK_MR 1
#define ROW_STEP 32
#define TILES
#define ST ST_DOT
#define SETNAME(x) ck_amx_##x
#include "linear.h"
#include "linear_set.h"

void ck_pool_run(ck_pool *p, ck_unit *fn, void *arg, long units) {
	(void)p;
	for (long i = 0; i < units; i++) fn(arg, i);
}

void ck_pause(unsigned n) { (void)n; }

static int bad;

static void compare(const char *what, long row, long col, float got, float want) {
	if (got != want && bad++ < 5) printf("%s [%ld, %ld]: %g, want %g\n", what, row, col, got, want);
}

static long upto(long n) { return 1 + rand() % n; }

// values gives n random bfloat16 between 1 and 2, of either sign, with room to
// prefetch behind them.
static uint16_t *values(long n) {
	uint16_t *v = calloc((size_t)n + 16384, 2);
	for (long i = 0; i < n; i++) v[i] = (uint16_t)(0x3f80 + rand() % 128 + (rand() % 2 ? 0x8000 : 0));
	return v;
}

static void product(long m, long k, long n, int biased) {
	const long ldx = k + 32 * (rand() % 2);
	uint16_t *x = values(m * ldx), *w = values(n * k), *panels = calloc((size_t)(up(n, PANEL) * PANEL * k + 16384), 2);
	for (long c = 0; c < n; c++)
		for (long j = 0; j < k; j++) panels[c / PANEL * PANEL * k + (j / 2 * PANEL + c % PANEL) * 2 + j % 2] = w[c * k + j];
	float *y = malloc((size_t)(m * n) * 4), *bias = malloc((size_t)n * 4);
	for (long c = 0; c < n; c++) bias[c] = (float)(rand() % 7);
	ck_linear a = {.xb = x, .ldxb = ldx, .y = y, .w = panels, .m = m, .k = k, .n = n, .threads = 2, .bias = biased ? bias : 0};
	ck_amx_linear(0, &a);
	for (long i = 0; i < m; i++)
		for (long c = 0; c < n; c++) {
			float sum = 0;
			for (long j = 0; j < k; j++) sum += widened(x[i * ldx + j]) * widened(w[c * k + j]);
			compare("product", i, c, y[i * n + c], biased ? sum + bias[c] : sum);
		}
	free(x), free(w), free(panels), free(y), free(bias);
}

static void shrink(long m, long k, long ranks) {
	const long ldx = k + 32;
	uint16_t *x = values(m * ldx), *w = values(ranks * k), *groups = values(ranks * k);
	for (long i = 0; i < ranks * k; i++) {
		const long r = i / k, j = i % k, g = r / 16 * 16, n = least(16, ranks - g);
		groups[g * k + (j / 2 * n + r - g) * 2 + j % 2] = w[i];
	}
	float *s = malloc((size_t)(m * ranks) * 4);
	ck_linear a = {.xb = x, .ldxb = ldx, .m = m, .k = k};
	const ck_term t = {.end = m, .rank = ranks, .a = groups, .s = s, .scale = 0.5f};
	plan p = {.a = &a, .x = (char *)x, .ldx = ldx * 2};
	ck_amx_shrink(&p, &t, 0, m);
	for (long i = 0; i < m; i++)
		for (long r = 0; r < ranks; r++) {
			float q[4] = {0};
			for (long j = 0; j < k; j++) q[j / 32 % 4] += widened(x[i * ldx + j]) * widened(w[r * k + j]);
			compare("shrink", i, r, s[i * ranks + r], ((q[0] + q[1]) + (q[2] + q[3])) * 0.5f);
		}
	free(x), free(w), free(groups), free(s);
}

int main(void) {
	for (int i = 0; i < 20; i++) {
		product(i < 2 ? 300 : upto(90), 32 * upto(40), upto(100), i % 2);
		shrink(upto(40), 32 * upto(40), upto(50));
	}
	printf("%d wrong\n", bad);
	return bad != 0;
}
