// Collectives between the GPUs of a group, through NCCL, which is loaded when
// the first function here is called. A part of the library's C interface: see
// chorale_kernels.h for statuses, errors and threads.
//
// A communicator belongs to one context. All ranks call the same operations in
// the same order. Operations go to a stream, eagerly or while it is recorded:
// then the recorded graph holds them.
//
// Sums are NCCL's: all ranks get the same bits, but not those of the order of
// ranks.
#ifndef CHORALE_COMM_H
#define CHORALE_COMM_H

#include "chorale_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

// CH_COMM is a status: the group failed or was aborted. The communicator is over;
// the context lives.
#define CH_COMM 5

#define CH_COMM_ID_BYTES 128

typedef struct ch_comm ch_comm;

enum ch_element {
	CH_FLOAT32 = 1,
	CH_BFLOAT16 = 2,
	CH_BYTE = 3, // only to copy
};

// ch_comm_version loads NCCL (from the path, or from where it usually is when
// that is null) and tells its version, 10000*major + 100*minor + patch.
// CH_UNSUPPORTED: there is none, or it is too old.
int32_t ch_comm_version(const char *library, int32_t *version, ch_error *err);

// ch_comm_new_id makes what all ranks need to find each other. One rank calls it
// and hands the bytes to the others; its process must live until all have opened.
int32_t ch_comm_new_id(const char *library, void *id, ch_error *err);

typedef struct ch_comm_options {
	const char *library;
	const void *id; // CH_COMM_ID_BYTES
	int32_t rank, size;
	// timeout is how many milliseconds opening and starting an operation may take;
	// closing takes 2000 at most.
	int32_t timeout, reserved;
} ch_comm_options;

// ch_comm_open returns when all ranks have called it, or with CH_COMM.
int32_t ch_comm_open(ch_context *c, const ch_comm_options *options, ch_comm **out, ch_error *err);

// ch_comm_check tells whether the group has failed meanwhile. To be asked while
// a stream is waited for: a rank that died leaves the others' kernels spinning.
int32_t ch_comm_check(ch_comm *m, ch_error *err);

// ch_comm_abort ends the communicator, from any thread: what runs on the device
// stops with results undefined. Opening and starting operations fail from then
// on. Twice is fine.
int32_t ch_comm_abort(ch_comm *m, ch_error *err);

// ch_comm_close ends and frees it: in good order when nothing failed, else by
// abort. Streams whose graphs hold its operations are closed before.
int32_t ch_comm_close(ch_comm *m, ch_error *err);

// Operations. The first of each kind and size on a stream must be eager: NCCL
// sets up connections then. `count` is in elements, of what one rank gives, but
// for reduce_scatter: of what one rank gets.
int32_t ch_comm_all_reduce(ch_comm *m, ch_stream *s, void *data, int64_t count, int32_t element, ch_error *err);
int32_t ch_comm_all_gather(ch_comm *m, ch_stream *s, const void *src, void *dst, int64_t count, int32_t element, ch_error *err);
int32_t ch_comm_reduce_scatter(ch_comm *m, ch_stream *s, const void *src, void *dst, int64_t count, int32_t element, ch_error *err);
int32_t ch_comm_broadcast(ch_comm *m, ch_stream *s, void *data, int64_t count, int32_t element, int32_t root, ch_error *err);

// ch_comm_counts tells how many operations were started, by kind, recorded ones
// once.
typedef struct ch_comm_count {
	int64_t all_reduce, all_gather, reduce_scatter, broadcast;
} ch_comm_count;
int32_t ch_comm_counts(ch_comm *m, ch_comm_count *out, ch_error *err);

// Peers see each other's memory (CUDA IPC): small messages go through it in one
// kernel. Each rank is a process; all open, exchange their handles, and connect.
#define CH_PEER_HANDLE_BYTES 64
#define CH_PEER_BYTES (4 << 20) // longest message
typedef struct ch_peers ch_peers;
// CH_UNSUPPORTED: too many ranks, or memory that cannot be shared.
int32_t ch_peers_open(ch_context *c, int32_t rank, int32_t size, void *handle, ch_peers **out, ch_error *err);
int32_t ch_peers_connect(ch_peers *p, const void *handles, ch_error *err); // [size] by rank
// ch_peers_measure tells how many microseconds a sum of so many bytes, at most
// CH_PEER_BYTES, takes by peers and by NCCL; -1 by peers where sums come out wrong. All ranks call it with the same sizes.
int32_t ch_peers_measure(ch_peers *p, ch_comm *m, int32_t half, int32_t count, const int64_t *bytes, float *by_peers, float *by_nccl, ch_error *err);
// ch_peers_abort frees whoever waits on the device, results undefined; from any
// thread. ch_peers_close comes after the streams'.
int32_t ch_peers_abort(ch_peers *p, ch_error *err);
int32_t ch_peers_close(ch_peers *p, ch_error *err);

// How a stream's group sums and copies, inside recorded graphs too: by NCCL, or
// where there is no communicator by the host. A host operation runs on a thread of
// the driver's, in the stream's order, and must not call CUDA. It cannot fail: what
// it did not do is undefined, and whoever waits for the stream asks the host.
enum ch_host_operation {
	CH_HOST_ALL_REDUCE = 1, // dst [count] float32, in place
	CH_HOST_ALL_GATHER = 2, // dst [size*count] bytes, of src [count]
};
typedef void (*ch_host_function)(uint64_t token, int32_t operation, void *dst, const void *src, int64_t count);

typedef struct ch_group {
	int32_t rank, size;
	ch_comm *comm; // closed after the stream; or null
	ch_host_function host;
	uint64_t token; // for host
	ch_peers *peers; // or null; likewise
	uint64_t peer_sizes; // bit n: messages of more than 2^(n-1) and at most 2^n bytes go through the peers' memory
	// half has GPUs send the parts of sums as bfloat16; peers add them in float32.
	int32_t half, reserved;
} ch_group;

// ch_stream_join makes a stream part of a group, before anything is submitted.
int32_t ch_stream_join(ch_stream *s, const ch_group *group, ch_error *err);

#ifdef __cplusplus
}
#endif
#endif
