// Collectives of the C interface: see chorale_comm.h.
#include "comm.h"

#include <cstring>

#include "stream.h"

using namespace chorale;

static_assert(sizeof(nccl::Id) == CH_COMM_ID_BYTES);

namespace {

// on_comm is guarded, with NCCL's failures as statuses.
template <class F> int32_t on_comm(ch_context *c, ch_error *err, F f) {
	return guarded(c, err, [&] {
		try {
			f();
		} catch (const nccl::Failure &e) {
			translate(e);
		}
	});
}

// unbound is on_comm where no context is needed.
template <class F> int32_t unbound(ch_error *err, F f) {
	try {
		f();
		return CH_OK;
	} catch (const nccl::Failure &e) {
		tell(err, e.text);
		return e.missing ? CH_UNSUPPORTED : CH_COMM;
	} catch (const std::exception &e) {
		tell(err, e.what());
		return CH_OUT_OF_MEMORY;
	}
}

int type_of(int32_t element, bool sum) {
	switch (element) {
	case CH_FLOAT32:
		return nccl::kFloat32;
	case CH_BFLOAT16:
		return nccl::kBFloat16;
	case CH_BYTE:
		if (!sum) {
			return nccl::kByte;
		}
	}
	fail(CH_INVALID, "element %d cannot be %s", element, sum ? "added" : "copied");
}

// operate checks what all operations share and runs one.
template <class F> int32_t operate(ch_comm *m, ch_stream *s, int64_t count, ch_error *err, F f) {
	return on_comm(m ? m->context : nullptr, err, [&] {
		if (s == nullptr || s->context != m->context || count < 0) {
			fail(CH_INVALID, "%lld elements on another context's stream, or none", static_cast<long long>(count));
		}
		f();
	});
}

} // namespace

CH_EXPORT int32_t ch_comm_version(const char *library, int32_t *version, ch_error *err) {
	return unbound(err, [&] { *version = nccl::version(nccl::open(library)); });
}

CH_EXPORT int32_t ch_comm_new_id(const char *library, void *id, ch_error *err) {
	return unbound(err, [&] {
		const nccl::Id made = nccl::new_id(nccl::open(library));
		memcpy(id, &made, sizeof made);
	});
}

CH_EXPORT int32_t ch_comm_open(ch_context *c, const ch_comm_options *o, ch_comm **out, ch_error *err) {
	return on_comm(c, err, [&] {
		if (o->size < 1 || o->rank < 0 || o->rank >= o->size || o->timeout <= 0 || o->id == nullptr) {
			fail(CH_INVALID, "rank %d of %d, %d ms", o->rank, o->size, o->timeout);
		}
		nccl::Id id;
		memcpy(&id, o->id, sizeof id);
		std::unique_ptr<ch_comm> m(new ch_comm{c, {nccl::open(o->library), o->size, o->rank, id, o->timeout}});
		m->nccl.init();
		*out = m.release();
	});
}

CH_EXPORT int32_t ch_comm_check(ch_comm *m, ch_error *err) {
	return on_comm(m ? m->context : nullptr, err, [&] { m->nccl.check(); });
}

// Also when the context is lost.
CH_EXPORT int32_t ch_comm_abort(ch_comm *m, ch_error *err) {
	return unbound(err, [&] {
		if (m != nullptr) {
			m->nccl.abort();
		}
	});
}

CH_EXPORT int32_t ch_comm_close(ch_comm *m, ch_error *err) {
	return unbound(err, [&] {
		if (m != nullptr) {
			cudaSetDevice(m->context->device);
			delete m;
		}
	});
}

CH_EXPORT int32_t ch_comm_all_reduce(ch_comm *m, ch_stream *s, void *data, int64_t count, int32_t element, ch_error *err) {
	return operate(m, s, count, err, [&] { m->nccl.all_reduce(data, count, type_of(element, true), s->cuda); });
}

CH_EXPORT int32_t ch_comm_all_gather(ch_comm *m, ch_stream *s, const void *src, void *dst, int64_t count, int32_t element, ch_error *err) {
	return operate(m, s, count, err, [&] { m->nccl.all_gather(src, dst, count, type_of(element, false), s->cuda); });
}

CH_EXPORT int32_t ch_comm_reduce_scatter(ch_comm *m, ch_stream *s, const void *src, void *dst, int64_t count, int32_t element, ch_error *err) {
	return operate(m, s, count, err, [&] { m->nccl.reduce_scatter(src, dst, count, type_of(element, true), s->cuda); });
}

CH_EXPORT int32_t ch_comm_broadcast(ch_comm *m, ch_stream *s, void *data, int64_t count, int32_t element, int32_t root, ch_error *err) {
	return operate(m, s, count, err, [&] {
		if (root < 0 || root >= m->nccl.size) {
			fail(CH_INVALID, "no rank %d among %d", root, m->nccl.size);
		}
		m->nccl.broadcast(data, count, type_of(element, false), root, s->cuda);
	});
}

CH_EXPORT int32_t ch_comm_counts(ch_comm *m, ch_comm_count *out, ch_error *err) {
	return on_comm(m ? m->context : nullptr, err, [&] { *out = {m->nccl.all_reduces, m->nccl.all_gathers, m->nccl.reduce_scatters, m->nccl.broadcasts}; });
}
