//go:build cgo && linux

#include "shim_memory.h"

#include <dlfcn.h>
#include <stdio.h>

int32_t chunk_shim_load(const char *path, chunk_shim *out, ch_error *err) {
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); // counts only: shim_load has it
	if (library == NULL) {
		snprintf(err->text, sizeof err->text, "%s", dlerror());
		return CH_UNSUPPORTED;
	}
#define CH_FIND(name) \
	out->name = (__typeof__(ch_chunks_##name) *)dlsym(library, "ch_chunks_" #name); \
	if (out->name == NULL) { \
		snprintf(err->text, sizeof err->text, "%s lacks ch_chunks_%s", path, #name); \
		return CH_UNSUPPORTED; \
	}
	CH_CHUNK_FUNCTIONS(CH_FIND)
#undef CH_FIND
	return CH_OK;
}

int32_t chunk_open(const chunk_shim *l, ch_context *c, ch_chunks **out, int64_t *chunk_bytes, ch_error *err) { return l->open(c, out, chunk_bytes, err); }
int32_t chunk_close(const chunk_shim *l, ch_chunks *p, ch_error *err) { return l->close(p, err); }
int32_t chunk_create(const chunk_shim *l, ch_chunks *p, int32_t n, uint64_t *handles, ch_error *err) { return l->create(p, n, handles, err); }
int32_t chunk_release(const chunk_shim *l, ch_chunks *p, int32_t n, const uint64_t *handles, ch_error *err) { return l->release(p, n, handles, err); }

int32_t chunk_reserve(const chunk_shim *l, ch_chunks *p, int32_t n, uintptr_t *out, ch_error *err) {
	void *at = NULL;
	const int32_t status = l->reserve(p, n, &at, err);
	*out = (uintptr_t)at;
	return status;
}

int32_t chunk_unreserve(const chunk_shim *l, ch_chunks *p, uintptr_t at, int32_t n, ch_error *err) { return l->unreserve(p, (void *)at, n, err); }
int32_t chunk_map(const chunk_shim *l, ch_chunks *p, uintptr_t at, int32_t n, const uint64_t *handles, ch_error *err) { return l->map(p, (void *)at, n, handles, err); }
int32_t chunk_unmap(const chunk_shim *l, ch_chunks *p, uintptr_t at, int32_t n, ch_error *err) { return l->unmap(p, (void *)at, n, err); }
int32_t chunk_clear(const chunk_shim *l, ch_chunks *p, uintptr_t at, int32_t n, ch_error *err) { return l->clear(p, (void *)at, n, err); }
int32_t chunk_read(const chunk_shim *l, ch_chunks *p, void *to, uintptr_t from, int64_t bytes, ch_error *err) { return l->read(p, to, (const void *)from, bytes, err); }
