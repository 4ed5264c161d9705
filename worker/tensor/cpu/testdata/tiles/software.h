// AMX tiles in plain C (Intel SDM vol. 2, LDTILECFG, TILELOADD, TDPBF16PS), so
// that the code that uses them is tested on every machine.
#include <stdint.h>
#include <string.h>

static struct {
	int rows, bytes;
	uint8_t data[16][64];
} tile[8];

static float widened(uint16_t h) {
	uint32_t u = (uint32_t)h << 16;
	float f;
	memcpy(&f, &u, 4);
	return f;
}

static void tile_config(const void *config) {
	const uint8_t *c = config;
	for (int i = 0; i < 8; i++) {
		uint16_t bytes;
		memcpy(&bytes, c + 16 + 2 * i, 2);
		tile[i].rows = c[48 + i], tile[i].bytes = bytes;
	}
}

static void tile_load(int t, const void *from, long stride) {
	memset(tile[t].data, 0, sizeof tile[t].data);
	for (int r = 0; r < tile[t].rows; r++) memcpy(tile[t].data[r], (const char *)from + r * stride, (size_t)tile[t].bytes);
}

static void tile_store(int t, void *to, long stride) {
	for (int r = 0; r < tile[t].rows; r++) memcpy((char *)to + r * stride, tile[t].data[r], (size_t)tile[t].bytes);
}

static void tile_clear(int t) { memset(tile[t].data, 0, sizeof tile[t].data); }

static void tile_dot(int c, int a, int b) {
	for (int m = 0; m < tile[c].rows; m++)
		for (int k = 0; k < tile[a].bytes / 4; k++)
			for (int n = 0; n < tile[c].bytes / 4; n++) {
				float *sum = (float *)tile[c].data[m] + n;
				const uint16_t *x = (uint16_t *)tile[a].data[m] + 2 * k, *w = (uint16_t *)tile[b].data[k] + 2 * n;
				*sum += widened(x[0]) * widened(w[0]);
				*sum += widened(x[1]) * widened(w[1]);
			}
}

static void tile_drop(void) {}

#undef _tile_loadconfig
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_release
#define _tile_loadconfig tile_config
#define _tile_loadd tile_load
#define _tile_stored tile_store
#define _tile_zero tile_clear
#define _tile_dpbf16ps tile_dot
#define _tile_release tile_drop
