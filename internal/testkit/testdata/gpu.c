// A kernel library without kernels, for tests of everything around them: it hands
// out addresses, keeps tables, says token 7 to whoever samples, and can be broken.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chorale_kernels.h"
#include "chorale_memory.h"

#define TOTAL (2ll << 30)
#define CHUNK (2 << 20)

struct ch_context { int unused; };
struct ch_chunks { int unused; };
struct ch_stream { ch_tables now; };

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static int broken;
static int64_t used;
static uintptr_t next = 1ll << 40; // of device addresses

static int32_t alive(ch_error *err) {
	if (!__atomic_load_n(&broken, __ATOMIC_SEQ_CST)) return CH_OK;
	snprintf(err->text, sizeof err->text, "step: CUDA error 700: an illegal memory access was encountered");
	return CH_DEVICE;
}

static void *take(int64_t bytes) {
	pthread_mutex_lock(&mu);
	void *at = (void *)next;
	next += (bytes + CHUNK - 1) / CHUNK * CHUNK;
	pthread_mutex_unlock(&mu);
	return at;
}

int32_t ch_abi_version(void) { return CH_ABI_VERSION; }
int32_t ch_device_count(int32_t *n, ch_error *err) { *n = 1; return CH_OK; }
int32_t ch_open(const ch_options *o, ch_context **out, ch_error *err) {
	if (o->device != 0) {
		snprintf(err->text, sizeof err->text, "there is no GPU %d: 1 visible, counted from 0", o->device);
		return CH_UNSUPPORTED;
	}
	*out = calloc(1, sizeof **out);
	return CH_OK;
}
int32_t ch_close(ch_context *c, ch_error *err) { free(c); return alive(err); }
int32_t ch_info(ch_context *c, ch_device_info *out, ch_error *err) {
	memset(out, 0, sizeof *out);
	strcpy(out->name, "Fake GPU 0");
	out->memory = TOTAL, out->free_memory = TOTAL - used;
	return alive(err);
}
int32_t ch_fault(ch_context *c, ch_error *err) {
	__atomic_store_n(&broken, 1, __ATOMIC_SEQ_CST);
	return CH_OK;
}

int32_t ch_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err) { *out = take(bytes); return alive(err); }
int32_t ch_free(ch_context *c, void *p, ch_error *err) { return alive(err); }
int32_t ch_host_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err) { *out = calloc(1, bytes); return alive(err); }
int32_t ch_host_free(ch_context *c, void *p, ch_error *err) { free(p); return CH_OK; }
int32_t ch_range_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err) { *out = take(bytes); return alive(err); }
int32_t ch_range_free(ch_context *c, void *p, ch_error *err) { return alive(err); }
int32_t ch_pin(ch_context *c, int64_t bytes, void **out, ch_error *err) { *out = calloc(1, bytes); return alive(err); }
int32_t ch_unpin(ch_context *c, void *p, int64_t bytes, ch_error *err) { free(p); return CH_OK; }
int32_t ch_copy(ch_context *c, void *dst, const void *src, int64_t bytes, ch_error *err) { return alive(err); }

int32_t ch_stream_open(ch_context *c, const ch_stream_options *o, ch_stream **out, ch_error *err) {
	*out = calloc(1, sizeof **out);
	return alive(err);
}
int32_t ch_stream_close(ch_stream *s, ch_error *err) { return alive(err); }

static void grow(void **p, int64_t have, int64_t want) {
	void *bigger = calloc(1, want + 64);
	if (*p != NULL) memcpy(bigger, *p, have);
	*p = bigger; // the old one is left: tests are short
}

int32_t ch_stream_tables(ch_stream *s, const ch_tables *need, ch_tables *out, ch_error *err) {
	ch_tables *t = &s->now;
	t->moved = 0;
	if (need->bytes > t->bytes) grow(&t->tables, t->bytes, need->bytes), t->bytes = need->bytes;
	if (need->words > t->words) {
		for (int i = 0; i < CH_RESULTS; i++) grow(&t->results[i], 0, 4ll * need->words);
		t->words = need->words;
	}
	if (need->slots > t->slots || need->terms > t->terms) {
		const int32_t slots = need->slots > t->slots ? need->slots : t->slots;
		const int32_t terms = need->terms > t->terms ? need->terms : t->terms;
		const int64_t stride = 16 + terms * (int64_t)sizeof(struct ch_lora_term);
		char *data = calloc(slots, stride);
		for (int32_t i = 0; i < t->slots; i++) memcpy(data + i * stride, (char *)t->slot_data + i * t->slot_stride, t->slot_stride);
		t->slot_data = data, t->slots = slots, t->terms = terms, t->slot_stride = stride, t->moved = 1;
	}
	if (need->tiles > t->tiles) t->tiles = need->tiles;
	*out = *t;
	return alive(err);
}

int32_t ch_submit(ch_stream *s, const ch_submission *sub, ch_error *err) {
	const char *tables = s->now.tables;
	const ch_header *h = (const ch_header *)(tables + sub->layout.header);
	for (int i = 0; sub->result >= 0 && i < CH_LISTS; i++) {
		const ch_sample_row *rows = (const ch_sample_row *)(tables + h->samples[i].at);
		for (int r = 0; sub->words > 0 && r < h->samples[i].rows; r++) {
			ch_sampled *out = (ch_sampled *)((int32_t *)s->now.results[sub->result] + rows[r].out);
			*out = (ch_sampled){.token = 7, .arg_max = 7, .max = 1, .log_sum_exp = 1, .logit = 1};
		}
	}
	usleep(2000); // a step takes time
	return alive(err);
}
int32_t ch_ready(ch_stream *s, ch_error *err) { return alive(err); }
int32_t ch_wait(ch_stream *s, int32_t result, ch_error *err) { return alive(err); }
int32_t ch_stream_statistics(ch_stream *s, ch_stream_stats *out, ch_error *err) { memset(out, 0, sizeof *out); return alive(err); }

int32_t ch_chunks_open(ch_context *c, ch_chunks **out, int64_t *bytes, ch_error *err) {
	*out = calloc(1, sizeof **out), *bytes = CHUNK;
	return alive(err);
}
int32_t ch_chunks_close(ch_chunks *p, ch_error *err) { free(p); return alive(err); }
int32_t ch_chunks_create(ch_chunks *p, int32_t n, uint64_t *handles, ch_error *err) {
	static uint64_t made;
	pthread_mutex_lock(&mu);
	for (int32_t i = 0; i < n; i++) handles[i] = ++made;
	used += (int64_t)n * CHUNK;
	pthread_mutex_unlock(&mu);
	return alive(err);
}
int32_t ch_chunks_release(ch_chunks *p, int32_t n, const uint64_t *handles, ch_error *err) { return alive(err); }
int32_t ch_chunks_reserve(ch_chunks *p, int32_t n, void **out, ch_error *err) { *out = take((int64_t)n * CHUNK); return alive(err); }
int32_t ch_chunks_unreserve(ch_chunks *p, void *at, int32_t n, ch_error *err) { return alive(err); }
int32_t ch_chunks_map(ch_chunks *p, void *at, int32_t n, const uint64_t *handles, ch_error *err) { return alive(err); }
int32_t ch_chunks_unmap(ch_chunks *p, void *at, int32_t n, ch_error *err) { return alive(err); }
int32_t ch_chunks_clear(ch_chunks *p, void *at, int32_t n, ch_error *err) { return alive(err); }
int32_t ch_chunks_read(ch_chunks *p, void *to, const void *from, int64_t bytes, ch_error *err) { return alive(err); }
