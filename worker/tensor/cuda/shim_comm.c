//go:build cgo && linux

#include "shim_comm.h"

#include <dlfcn.h>
#include <stdio.h>

// Go's (native_comm.go).
extern void choraleHostOperation(uint64_t token, int32_t operation, void *dst, void *src, int64_t count);

static void host_operation(uint64_t token, int32_t operation, void *dst, const void *src, int64_t count) {
	choraleHostOperation(token, operation, dst, (void *)src, count);
}

int32_t comm_shim_load(const char *path, comm_shim *out, ch_error *err) {
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); // counts only: shim_load has it
	if (library == NULL) {
		snprintf(err->text, sizeof err->text, "%s", dlerror());
		return CH_UNSUPPORTED;
	}
#define CH_FIND(name) \
	out->name = (__typeof__(ch_##name) *)dlsym(library, "ch_" #name); \
	if (out->name == NULL) { \
		snprintf(err->text, sizeof err->text, "%s lacks ch_%s", path, #name); \
		return CH_UNSUPPORTED; \
	}
	CH_COMM_FUNCTIONS(CH_FIND)
#undef CH_FIND
	return CH_OK;
}

int32_t shim_comm_version(const comm_shim *l, const char *library, int32_t *version, ch_error *err) { return l->comm_version(library, version, err); }
int32_t shim_comm_new_id(const comm_shim *l, const char *library, void *id, ch_error *err) { return l->comm_new_id(library, id, err); }

int32_t shim_comm_open(const comm_shim *l, ch_context *c, const char *library, const void *id, int32_t rank, int32_t size, int32_t timeout, ch_comm **out, ch_error *err) {
	const ch_comm_options o = {library, id, rank, size, timeout, 0};
	return l->comm_open(c, &o, out, err);
}

int32_t shim_comm_check(const comm_shim *l, ch_comm *m, ch_error *err) { return l->comm_check(m, err); }
int32_t shim_comm_abort(const comm_shim *l, ch_comm *m, ch_error *err) { return l->comm_abort(m, err); }
int32_t shim_comm_close(const comm_shim *l, ch_comm *m, ch_error *err) { return l->comm_close(m, err); }

int32_t shim_peers_open(const comm_shim *l, ch_context *c, int32_t rank, int32_t size, void *handle, ch_peers **out, ch_error *err) { return l->peers_open(c, rank, size, handle, out, err); }
int32_t shim_peers_connect(const comm_shim *l, ch_peers *p, const void *handles, ch_error *err) { return l->peers_connect(p, handles, err); }
int32_t shim_peers_measure(const comm_shim *l, ch_peers *p, ch_comm *m, int32_t half, int32_t count, const int64_t *bytes, float *by_peers, float *by_nccl, ch_error *err) { return l->peers_measure(p, m, half, count, bytes, by_peers, by_nccl, err); }
int32_t shim_peers_abort(const comm_shim *l, ch_peers *p, ch_error *err) { return l->peers_abort(p, err); }
int32_t shim_peers_close(const comm_shim *l, ch_peers *p, ch_error *err) { return l->peers_close(p, err); }

int32_t shim_join(const comm_shim *l, ch_stream *s, int32_t rank, int32_t size, ch_comm *m, uint64_t token, ch_peers *p, uint64_t peer_sizes, int32_t half, ch_error *err) {
	const ch_group g = {rank, size, m, m == NULL ? host_operation : NULL, token, p, peer_sizes, half, 0};
	return l->stream_join(s, &g, err);
}
