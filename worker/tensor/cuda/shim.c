//go:build cgo && linux

#include "shim.h"

#include <dlfcn.h>
#include <stdio.h>

// Most ropes of a stream.
#define MAX_ROPES 8

int32_t shim_load(const char *path, shim *out, ch_error *err) {
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) {
		snprintf(err->text, sizeof err->text, "%s", dlerror());
		return CH_UNSUPPORTED;
	}
	out->abi_version = (__typeof__(ch_abi_version) *)dlsym(library, "ch_abi_version");
	if (out->abi_version == NULL) {
		snprintf(err->text, sizeof err->text, "%s is not Chorale's kernel library", path);
		dlclose(library);
		return CH_UNSUPPORTED;
	}
	const int32_t version = out->abi_version();
	if (version != CH_ABI_VERSION) {
		snprintf(err->text, sizeof err->text, "%s has interface version %d, this program needs %d: build both from the same source", path, version, CH_ABI_VERSION);
		dlclose(library);
		return CH_UNSUPPORTED;
	}
#define CH_FIND(name) \
	out->name = (__typeof__(ch_##name) *)dlsym(library, "ch_" #name); \
	if (out->name == NULL) { \
		snprintf(err->text, sizeof err->text, "%s lacks ch_%s: build it and this program from the same source", path, #name); \
		return CH_UNSUPPORTED; \
	}
	CH_FUNCTIONS(CH_FIND)
#undef CH_FIND
	return CH_OK;
}

int32_t shim_device_count(const shim *l, int32_t *count, ch_error *err) { return l->device_count(count, err); }
int32_t shim_open(const shim *l, const ch_options *o, ch_context **out, ch_error *err) { return l->open(o, out, err); }
int32_t shim_close(const shim *l, ch_context *c, ch_error *err) { return l->close(c, err); }
int32_t shim_info(const shim *l, ch_context *c, ch_device_info *out, ch_error *err) { return l->info(c, out, err); }

int32_t shim_alloc(const shim *l, ch_context *c, int64_t bytes, uintptr_t *out, ch_error *err) {
	void *p = NULL;
	const int32_t status = l->alloc(c, bytes, &p, err);
	*out = (uintptr_t)p;
	return status;
}

int32_t shim_free(const shim *l, ch_context *c, uintptr_t at, ch_error *err) { return l->free(c, (void *)at, err); }
int32_t shim_host_alloc(const shim *l, ch_context *c, int64_t bytes, void **out, ch_error *err) { return l->host_alloc(c, bytes, out, err); }
int32_t shim_host_free(const shim *l, ch_context *c, void *p, ch_error *err) { return l->host_free(c, p, err); }

int32_t shim_range_alloc(const shim *l, ch_context *c, int64_t bytes, uintptr_t *out, ch_error *err) {
	void *p = NULL;
	const int32_t status = l->range_alloc(c, bytes, &p, err);
	*out = (uintptr_t)p;
	return status;
}

int32_t shim_range_free(const shim *l, ch_context *c, uintptr_t at, ch_error *err) { return l->range_free(c, (void *)at, err); }

int32_t shim_pin(const shim *l, ch_context *c, int64_t bytes, void **out, ch_error *err) { return l->pin(c, bytes, out, err); }
int32_t shim_unpin(const shim *l, ch_context *c, void *p, int64_t bytes, ch_error *err) { return l->unpin(c, p, bytes, err); }

int32_t shim_copy(const shim *l, ch_context *c, uintptr_t dst, const void *src, int64_t bytes, ch_error *err) { return l->copy(c, (void *)dst, src, bytes, err); }

int32_t shim_stream_open(const shim *l, ch_context *c, int32_t max_rows, int32_t ropes, const int32_t *half, const float *inv_freq, const float *scale, ch_stream **out, ch_error *err) {
	const float *each[MAX_ROPES];
	if (ropes > MAX_ROPES) {
		snprintf(err->text, sizeof err->text, "%d ropes, at most %d", ropes, MAX_ROPES);
		return CH_UNSUPPORTED;
	}
	for (int32_t i = 0; i < ropes; i++) {
		each[i] = inv_freq;
		inv_freq += half[i];
	}
	const ch_stream_options o = {.max_rows = max_rows, .ropes = ropes, .half = half, .inv_freq = each, .scale = scale};
	return l->stream_open(c, &o, out, err);
}

int32_t shim_stream_close(const shim *l, ch_stream *s, ch_error *err) { return l->stream_close(s, err); }
int32_t shim_stream_tables(const shim *l, ch_stream *s, const ch_tables *need, ch_tables *now, ch_error *err) { return l->stream_tables(s, need, now, err); }

int32_t shim_submit(const shim *l, ch_stream *s, const void *ops, ch_submission sub, ch_error *err) {
	sub.ops = ops;
	return l->submit(s, &sub, err);
}

int32_t shim_ready(const shim *l, ch_stream *s, ch_error *err) { return l->ready(s, err); }
int32_t shim_wait(const shim *l, ch_stream *s, int32_t result, ch_error *err) { return l->wait(s, result, err); }
int32_t shim_stream_statistics(const shim *l, ch_stream *s, ch_stream_stats *out, ch_error *err) { return l->stream_statistics(s, out, err); }
int32_t shim_fault(const shim *l, ch_context *c, ch_error *err) { return l->fault(c, err); }
