// The functions of chorale_memory.h, found like those of shim.h.
#ifndef CHORALE_CUDA_SHIM_MEMORY_H
#define CHORALE_CUDA_SHIM_MEMORY_H

#include "chorale_memory.h"

#define CH_CHUNK_FUNCTIONS(F) F(open) F(close) F(create) F(release) F(reserve) F(unreserve) F(map) F(unmap) F(clear) F(read)

typedef struct chunk_shim {
#define CH_MEMBER(name) __typeof__(ch_chunks_##name) *name;
	CH_CHUNK_FUNCTIONS(CH_MEMBER)
#undef CH_MEMBER
} chunk_shim;

// chunk_shim_load finds the functions in the library at path, which is loaded.
int32_t chunk_shim_load(const char *path, chunk_shim *out, ch_error *err);

int32_t chunk_open(const chunk_shim *l, ch_context *c, ch_chunks **out, int64_t *chunk_bytes, ch_error *err);
int32_t chunk_close(const chunk_shim *l, ch_chunks *p, ch_error *err);
int32_t chunk_create(const chunk_shim *l, ch_chunks *p, int32_t n, uint64_t *handles, ch_error *err);
int32_t chunk_release(const chunk_shim *l, ch_chunks *p, int32_t n, const uint64_t *handles, ch_error *err);
int32_t chunk_reserve(const chunk_shim *l, ch_chunks *p, int32_t n, uintptr_t *out, ch_error *err);
int32_t chunk_unreserve(const chunk_shim *l, ch_chunks *p, uintptr_t at, int32_t n, ch_error *err);
int32_t chunk_map(const chunk_shim *l, ch_chunks *p, uintptr_t at, int32_t n, const uint64_t *handles, ch_error *err);
int32_t chunk_unmap(const chunk_shim *l, ch_chunks *p, uintptr_t at, int32_t n, ch_error *err);
int32_t chunk_clear(const chunk_shim *l, ch_chunks *p, uintptr_t at, int32_t n, ch_error *err);
int32_t chunk_read(const chunk_shim *l, ch_chunks *p, void *to, uintptr_t from, int64_t bytes, ch_error *err);

#endif
