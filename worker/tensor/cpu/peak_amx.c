//go:build cgo && linux && amd64

#pragma GCC target("amx-tile,amx-bf16,avx512f")
#include <immintrin.h>
#include <string.h>

#include "peak.h"

// tiles_unit multiplies tiles of zeros: their time does not depend on values.
static void tiles_unit(void *arg, long unit) {
	struct {
		unsigned char head[16];
		unsigned short bytes[16];
		unsigned char rows[16];
	} __attribute__((aligned(64))) shape;
	(void)unit;
	memset(&shape, 0, sizeof shape);
	shape.head[0] = 1;
	for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
	__asm__ volatile("" ::: "memory");
	_tile_loadconfig(&shape);
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	_tile_zero(4);
	_tile_zero(5);
	_tile_zero(6);
	_tile_zero(7);
	for (long i = *(long *)arg; i > 0; i--) {
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(1, 4, 7);
		_tile_dpbf16ps(2, 5, 6);
		_tile_dpbf16ps(3, 5, 7);
	}
	_tile_release();
}

double ck_dot_tiles(ck_pool *pool, long units, long steps) {
	ck_pool_run(pool, tiles_unit, &steps, units);
	return (double)steps * 4 * 16 * 16 * 32 * 2;
}
