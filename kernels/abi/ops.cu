// From operations to kernel launches.
#include <algorithm>
#include <type_traits>

#include "attention_simple.cuh"
#include "launch.h"
#include "lora_ops.h"
#include "rope.cuh"
#include "rows.cuh"
#include "sample.cuh"
#include "stream.h"

namespace chorale {

namespace {

// Step gives the device addresses of a step's tables.
struct Step {
	const char *base;
	const ch_layout &layout;
	template <class T> const T *at(int32_t offset) const { return reinterpret_cast<const T *>(base + offset); }
	const ch_header *header() const { return at<ch_header>(layout.header); }
	const int32_t *ids() const { return at<int32_t>(layout.ids); }
	const int32_t *pos() const { return at<int32_t>(layout.pos); }
	const int32_t *row_seq() const { return at<int32_t>(layout.row_seq); }
	const ch_seq *seqs() const { return at<ch_seq>(layout.seqs); }
	const int32_t *pages() const { return at<int32_t>(layout.pages); }
	const int32_t *list(int i) const { return at<int32_t>(layout.lists) + static_cast<int64_t>(i) * layout.rows; }
};

Step tables(const ch_stream &s, const ch_layout &layout) { return {s.tables.device, layout}; }

int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// row_threads is a block for a row of pitch elements, eight to a thread.
int row_threads(int pitch, int most) { return std::min(round_up(pitch / 8, 32), most); }

// by_type calls f with a null pointer of a view's element type.
template <class F> void by_type(const ch_view &v, F f) {
	if (v.wide) {
		f(static_cast<float *>(nullptr));
	} else {
		f(static_cast<bf16 *>(nullptr));
	}
}

template <class P> using Of = std::remove_pointer_t<P>;
template <class P> Of<P> *data(const ch_view &v, P) { return static_cast<Of<P> *>(v.data); }

void angles(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	for (const Rope &r : s.ropes) {
		start(s, angles_kernel, op.rows, std::min(round_up(r.half, 32), 256), r.angles, r.inv_freq, r.half, r.scale, tables(s, layout).pos());
	}
}

void embed(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	const Step step = tables(s, layout);
	by_type(op.dst, [&](auto type) {
		auto *dst = data(op.dst, type);
		const Ids ids = {step.ids(), step.header(), s.tokens, s.max_rows, op.in, op.out};
		start(s, embed_kernel<Of<decltype(type)>>, op.rows, row_threads(op.dst.pitch, 256), dst, op.dst.pitch, static_cast<const bf16 *>(op.w), ids);
		if (op.slot) {
			const LoraSlot slot = lora_slot(s, op.slot);
			start(s, embed_lora_kernel<Of<decltype(type)>>, op.rows, 256, dst, op.dst.pitch, ids, slot.terms, slot.count, s.slot_terms);
		}
	});
}

template <class Out, class In, class Add> void norm(ch_stream &s, const ch_op &op, Out *dst, In *x, const Add *add) {
	if (op.x.pitch > kNormChunks * 8 * 1024) {
		fail(CH_UNSUPPORTED, "norm of %d columns", op.x.cols);
	}
	start(s, norm_kernel<Out, In, Add>, op.rows, row_threads(op.x.pitch, 1024), dst, x, add, static_cast<const float *>(op.w), op.x.cols, op.x.pitch, op.eps);
}

void norms(ch_stream &s, const ch_op &op) {
	by_type(op.dst, [&](auto d) {
		by_type(op.x, [&](auto x) {
			if (op.kind == CH_RMS_NORM) {
				norm(s, op, data(op.dst, d), data(op.x, x), static_cast<const bf16 *>(nullptr));
				return;
			}
			by_type(op.y, [&](auto y) { norm(s, op, data(op.dst, d), data(op.x, x), static_cast<const Of<decltype(y)> *>(data(op.y, y))); });
		});
	});
}

void linear(ch_stream &s, const ch_op &op) {
	const void *bias = op.bias;
	if (bias && !op.dst.wide) { // the bf16 half of the vector
		bias = static_cast<const char *>(bias) + static_cast<int64_t>(op.out) * 4;
	}
	s.context->products->run(s.cuda, {op.rows, op.out, op.in, op.dst.wide != 0, bias != nullptr}, {op.x.data, op.w, bias, op.dst.data, s.workspace});
	if (op.slot) {
		lora_linear(s, op);
	}
}

void rope_kv(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	const Step step = tables(s, layout);
	const RopeArgs args = {
		static_cast<bf16 *>(op.dst.data), op.dst.pitch, op.heads, op.cache, s.ropes.at(op.rope).angles,
		static_cast<const float *>(op.w), static_cast<const float *>(op.w2), op.eps,
		step.header(), step.row_seq(), step.pos(), step.pages(), step.seqs(),
	};
	const int heads = op.heads + 2 * op.cache.kv_heads, warps = 8;
	start(s, rope_kv_kernel, dim3(op.rows, (heads + warps - 1) / warps), warps * 32, args);
}

void attention(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	if (s.attention.run(s, layout, op)) {
		return;
	}
	const Step step = tables(s, layout);
	const PlainArgs args = {
		static_cast<bf16 *>(op.dst.data), op.dst.pitch, static_cast<const bf16 *>(op.x.data), op.x.pitch, op.cache, op.heads, op.window, op.scale,
		step.header(), step.row_seq(), step.pos(), step.pages(), step.seqs(),
	};
	start(s, plain_attention_kernel, dim3(op.rows, op.heads), kPlainWarps * 32, args);
}

void silu_mul(ch_stream &s, const ch_op &op) {
	const int threads = row_threads(op.dst.pitch, 256);
	const int blocks = (op.dst.pitch / 8 + threads - 1) / threads;
	start(s, silu_mul_kernel, dim3(op.rows, blocks), threads, static_cast<bf16 *>(op.dst.data), op.dst.pitch, static_cast<const bf16 *>(op.x.data), op.x.pitch, op.dst.cols);
}

void gather(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	const int32_t *list = tables(s, layout).list(op.list);
	by_type(op.dst, [&](auto d) {
		by_type(op.x, [&](auto x) {
			start(s, gather_kernel<Of<decltype(d)>, Of<decltype(x)>>, op.rows, row_threads(op.dst.pitch, 256), data(op.dst, d), data(op.x, x), op.dst.pitch, list);
		});
	});
}

void sample(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	const sampling::Args args = {
		s.tables.device, layout.header, op.list, op.x.data, op.x.cols, op.x.pitch, reinterpret_cast<uint32_t *>(s.results.device), s.tokens, s.max_rows,
	};
	if (op.list < 0 || op.list >= CH_LISTS || op.x.cols >= sampling::kMaxColumns) {
		fail(CH_UNSUPPORTED, "sampling from %d columns, list %d", op.x.cols, op.list);
	}
	by_type(op.x, [&](auto x) { start(s, sampling::sample_kernel<Of<decltype(x)>>, op.rows, row_threads(op.x.pitch, 1024), args); });
}

void to_host(ch_stream &s, const ch_op &op) {
	if (op.x.wide) {
		const size_t row = sizeof(float) * op.x.cols;
		check(cudaMemcpy2DAsync(op.host, row, op.x.data, sizeof(float) * op.x.pitch, row, op.rows, cudaMemcpyDeviceToHost, s.cuda), "copy to the host");
		return;
	}
	start(s, to_host_kernel<bf16>, op.rows, 256, static_cast<float *>(op.host), static_cast<const bf16 *>(op.x.data), op.x.cols, op.x.pitch);
}

} // namespace

void launch(ch_stream &s, const ch_layout &layout, const ch_op &op) {
	if (op.rows <= 0 || op.rows > s.max_rows || op.slot < 0 || op.slot > s.slot_count) {
		fail(CH_INVALID, "operation %d of %d rows, slot %d", op.kind, op.rows, op.slot);
	}
	switch (op.kind) {
	case CH_ANGLES: angles(s, layout, op); break;
	case CH_EMBED: embed(s, layout, op); break;
	case CH_RMS_NORM:
	case CH_ADD_RMS_NORM: norms(s, op); break;
	case CH_LINEAR: linear(s, op); break;
	case CH_ROPE_KV: rope_kv(s, layout, op); break;
	case CH_ATTENTION: attention(s, layout, op); break;
	case CH_SILU_MUL: silu_mul(s, op); break;
	case CH_GATHER: gather(s, layout, op); break;
	case CH_SAMPLE:
		if (op.out > 0) {
			sample_shard(s, layout, op);
		} else {
			sample(s, layout, op);
		}
		break;
	case CH_ALL_REDUCE: all_reduce(s, op); break;
	case CH_ALL_GATHER: all_gather(s, op); break;
	case CH_TO_HOST: to_host(s, op); break;
	default: fail(CH_INVALID, "operation %d is unknown", op.kind);
	}
	check(cudaGetLastError(), "launch");
}

} // namespace chorale
