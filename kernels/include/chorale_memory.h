// The pool of device memory in the C interface: chunks of physical memory that
// are mapped to addresses and taken away again while streams run. See
// chorale_kernels.h for errors and threads; a pool may be used by several
// threads at once, for different addresses.
#ifndef CHORALE_MEMORY_H
#define CHORALE_MEMORY_H

#include "chorale_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ch_chunks ch_chunks;

// ch_chunks_open prepares to make chunks and tells their size.
int32_t ch_chunks_open(ch_context *c, ch_chunks **out, int64_t *chunk_bytes, ch_error *err);
int32_t ch_chunks_close(ch_chunks *p, ch_error *err);

// ch_chunks_create makes n chunks of physical memory, or none.
int32_t ch_chunks_create(ch_chunks *p, int32_t n, uint64_t *handles, ch_error *err);
// ch_chunks_release destroys chunks, which are mapped nowhere.
int32_t ch_chunks_release(ch_chunks *p, int32_t n, const uint64_t *handles, ch_error *err);

// ch_chunks_reserve takes addresses for n chunks.
int32_t ch_chunks_reserve(ch_chunks *p, int32_t n, void **out, ch_error *err);
int32_t ch_chunks_unreserve(ch_chunks *p, void *at, int32_t n, ch_error *err);

// ch_chunks_map puts chunks at reserved addresses, one after another, all or
// none. ch_chunks_unmap takes n chunks away; no stream may use them. Neither
// waits for the device.
int32_t ch_chunks_map(ch_chunks *p, void *at, int32_t n, const uint64_t *handles, ch_error *err);
int32_t ch_chunks_unmap(ch_chunks *p, void *at, int32_t n, ch_error *err);

// ch_chunks_clear fills n mapped chunks with zeros, beside all streams, and
// returns when it is done.
int32_t ch_chunks_clear(ch_chunks *p, void *at, int32_t n, ch_error *err);

// ch_chunks_read copies device memory to the host, for tests.
int32_t ch_chunks_read(ch_chunks *p, void *to, const void *from, int64_t bytes, ch_error *err);

#ifdef __cplusplus
}
#endif
#endif
