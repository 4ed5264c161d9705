// The functions of the CUDA library, found at run time.
#ifndef CHORALE_CUDA_SHIM_H
#define CHORALE_CUDA_SHIM_H

#include "chorale_kernels.h"

#define CH_FUNCTIONS(F) \
	F(ready) \
	F(abi_version) F(device_count) F(open) F(close) F(info) F(alloc) F(free) F(host_alloc) F(host_free) \
	F(range_alloc) F(range_free) F(pin) F(unpin) F(copy) F(stream_open) F(stream_close) F(stream_tables) F(submit) F(wait) F(stream_statistics) F(fault)

typedef struct shim {
#define CH_MEMBER(name) __typeof__(ch_##name) *name;
	CH_FUNCTIONS(CH_MEMBER)
#undef CH_MEMBER
} shim;

// shim_load loads the library at path and checks its version. It stays loaded.
int32_t shim_load(const char *path, shim *out, ch_error *err);

// A function pointer cannot be called from Go, so each has its caller.
int32_t shim_device_count(const shim *l, int32_t *count, ch_error *err);
int32_t shim_open(const shim *l, const ch_options *o, ch_context **out, ch_error *err);
int32_t shim_close(const shim *l, ch_context *c, ch_error *err);
int32_t shim_info(const shim *l, ch_context *c, ch_device_info *out, ch_error *err);
int32_t shim_alloc(const shim *l, ch_context *c, int64_t bytes, uintptr_t *out, ch_error *err);
int32_t shim_free(const shim *l, ch_context *c, uintptr_t at, ch_error *err);
int32_t shim_host_alloc(const shim *l, ch_context *c, int64_t bytes, void **out, ch_error *err);
int32_t shim_host_free(const shim *l, ch_context *c, void *p, ch_error *err);
int32_t shim_range_alloc(const shim *l, ch_context *c, int64_t bytes, uintptr_t *out, ch_error *err);
int32_t shim_range_free(const shim *l, ch_context *c, uintptr_t at, ch_error *err);
int32_t shim_pin(const shim *l, ch_context *c, int64_t bytes, void **out, ch_error *err);
int32_t shim_unpin(const shim *l, ch_context *c, void *p, int64_t bytes, ch_error *err);
int32_t shim_copy(const shim *l, ch_context *c, uintptr_t dst, const void *src, int64_t bytes, ch_error *err);
int32_t shim_stream_open(const shim *l, ch_context *c, int32_t max_rows, int32_t ropes, const int32_t *half, const float *inv_freq, const float *scale, ch_stream **out, ch_error *err);
int32_t shim_stream_close(const shim *l, ch_stream *s, ch_error *err);
int32_t shim_stream_tables(const shim *l, ch_stream *s, const ch_tables *need, ch_tables *now, ch_error *err);
int32_t shim_submit(const shim *l, ch_stream *s, const void *ops, ch_submission sub, ch_error *err);
int32_t shim_ready(const shim *l, ch_stream *s, ch_error *err);
int32_t shim_wait(const shim *l, ch_stream *s, int32_t result, ch_error *err);
int32_t shim_stream_statistics(const shim *l, ch_stream *s, ch_stream_stats *out, ch_error *err);
int32_t shim_fault(const shim *l, ch_context *c, ch_error *err);

#endif
