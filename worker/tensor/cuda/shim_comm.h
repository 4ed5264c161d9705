// The functions of chorale_comm.h, found like those of shim.h.
#ifndef CHORALE_CUDA_SHIM_COMM_H
#define CHORALE_CUDA_SHIM_COMM_H

#include "chorale_comm.h"

#define CH_COMM_FUNCTIONS(F) F(comm_version) F(comm_new_id) F(comm_open) F(comm_check) F(comm_abort) F(comm_close) F(stream_join) \
	F(peers_open) F(peers_connect) F(peers_measure) F(peers_abort) F(peers_close)

typedef struct comm_shim {
#define CH_MEMBER(name) __typeof__(ch_##name) *name;
	CH_COMM_FUNCTIONS(CH_MEMBER)
#undef CH_MEMBER
} comm_shim;

// comm_shim_load finds the functions in the library at path, which is loaded.
int32_t comm_shim_load(const char *path, comm_shim *out, ch_error *err);

int32_t shim_comm_version(const comm_shim *l, const char *library, int32_t *version, ch_error *err);
int32_t shim_comm_new_id(const comm_shim *l, const char *library, void *id, ch_error *err);
int32_t shim_comm_open(const comm_shim *l, ch_context *c, const char *library, const void *id, int32_t rank, int32_t size, int32_t timeout, ch_comm **out, ch_error *err);
int32_t shim_comm_check(const comm_shim *l, ch_comm *m, ch_error *err);
int32_t shim_comm_abort(const comm_shim *l, ch_comm *m, ch_error *err);
int32_t shim_comm_close(const comm_shim *l, ch_comm *m, ch_error *err);

int32_t shim_peers_open(const comm_shim *l, ch_context *c, int32_t rank, int32_t size, void *handle, ch_peers **out, ch_error *err);
int32_t shim_peers_connect(const comm_shim *l, ch_peers *p, const void *handles, ch_error *err);
int32_t shim_peers_measure(const comm_shim *l, ch_peers *p, ch_comm *m, int32_t half, int32_t count, const int64_t *bytes, float *by_peers, float *by_nccl, ch_error *err);
int32_t shim_peers_abort(const comm_shim *l, ch_peers *p, ch_error *err);
int32_t shim_peers_close(const comm_shim *l, ch_peers *p, ch_error *err);

// shim_join makes a stream a rank of a group: over m, or when that is null over
// Go's function, which gets the token; small messages over p, unless it is null.
int32_t shim_join(const comm_shim *l, ch_stream *s, int32_t rank, int32_t size, ch_comm *m, uint64_t token, ch_peers *p, uint64_t peer_sizes, int32_t half, ch_error *err);

#endif
