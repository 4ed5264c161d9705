// Operations that take a row at a time. One block per row; `rows` of a launch
// are padded, and padded rows are computed like any other unless said.
#pragma once

#include "chorale_kernels.h"
#include "lora_term.cuh"
#include "vec.cuh"

namespace chorale {

// Ids are a step's tokens. A negative one, -1 - n, stands for token n of the
// step before, which the host does not know yet.
struct Ids {
	const int32_t *ids;
	const ch_header *header;
	const int32_t *tokens; // [2][max_rows], by turns
	int32_t max_rows;
	int32_t first = 0, count = 0; // of a part of the vocabulary; count 0: all of it
	// The token's row in the table; -1 when it is in another part.
	__device__ int32_t operator[](int row) const {
		int32_t id = ids[row];
		id = (id >= 0 ? id : tokens[(1 - header->turn) * max_rows - 1 - id]) - first;
		return count == 0 || (id >= 0 && id < count) ? id : -1;
	}
};

// embed_kernel writes dst[t] = table[ids[t]], zeros for ids of other parts.
template <class Out>
__global__ void embed_kernel(Out *dst, int pitch, const bf16 *table, Ids ids) {
	wait_for_before();
	const int32_t id = ids[blockIdx.x];
	const bf16 *from = table + static_cast<int64_t>(max(id, 0)) * pitch;
	Out *to = dst + static_cast<int64_t>(blockIdx.x) * pitch;
	for (int c = threadIdx.x * 8; c < pitch; c += blockDim.x * 8) {
		Vec8 v = load8(from + c);
		keep_first(v, id < 0 ? 0 : 8);
		store8(to + c, v);
	}
}

// embed_lora_kernel adds scale * b a[id] to the rows of embedding adapters,
// whose a is [vocab, rank]. A row's ranks are summed in order.
template <class Out>
__global__ void embed_lora_kernel(Out *dst, int pitch, Ids ids, const ch_lora_term *terms, const int32_t *count, int max_terms) {
	wait_for_before();
	__shared__ float s[512];
	const int row = blockIdx.x, n = ids[row] < 0 ? 0 : min(*count, max_terms);
	for (int i = 0; i < n; i++) {
		const ch_lora_term t = terms[i];
		if (row < t.row0 || row >= t.row0 + t.rows) {
			continue;
		}
		const int rank = t.a && t.b ? t.rank : 0;
		for (int r = threadIdx.x; r < rank; r += blockDim.x) {
			s[r] = t.scale * to_float(static_cast<const bf16 *>(t.a)[static_cast<int64_t>(ids[row]) * t.rank + r]);
		}
		__syncthreads();
		const int ldb = lora::ch_lora_ldb(t.rank);
		for (int o = threadIdx.x; o < t.out; o += blockDim.x) {
			const bf16 *b = static_cast<const bf16 *>(t.b) + static_cast<int64_t>(o) * ldb;
			float sum = 0;
			for (int r = 0; r < rank; r++) {
				sum = fmaf(s[r], to_float(b[r]), sum);
			}
			Out *y = dst + static_cast<int64_t>(row) * pitch + t.col + o;
			put(y, to_float(*y) + sum + (t.bias ? t.bias[o] : 0.f));
		}
		__syncthreads();
	}
}

// Chunks of eight that one thread of a norm keeps in registers.
constexpr int kNormChunks = 4;

// norm_kernel writes dst = x / rms(x) * w, after x += add when add is there.
template <class Out, class In, class Add>
__global__ void norm_kernel(Out *dst, In *x, const Add *add, const float *w, int cols, int pitch, float eps) {
	wait_for_before();
	__shared__ float shared[33];
	const int64_t at = static_cast<int64_t>(blockIdx.x) * pitch;
	Vec8 keep[kNormChunks];
	float sum = 0;
#pragma unroll
	for (int k = 0; k < kNormChunks; k++) {
		const int c = (threadIdx.x + k * blockDim.x) * 8;
		if (c >= pitch) {
			break;
		}
		keep[k] = load8(x + at + c);
		if (add != nullptr) {
			const Vec8 d = load8(add + at + c);
#pragma unroll
			for (int i = 0; i < 8; i++) {
				keep[k].v[i] += d.v[i];
			}
		}
		keep_first(keep[k], cols - c);
		if (add != nullptr) {
			store8(x + at + c, keep[k]);
		}
#pragma unroll
		for (int i = 0; i < 8; i++) {
			sum = fmaf(keep[k].v[i], keep[k].v[i], sum);
		}
	}
	const float inv = rsqrtf(block_sum(sum, shared) / cols + eps);
#pragma unroll
	for (int k = 0; k < kNormChunks; k++) {
		const int c = (threadIdx.x + k * blockDim.x) * 8;
		if (c >= pitch) {
			break;
		}
		const Vec8 weight = load8(w + c);
#pragma unroll
		for (int i = 0; i < 8; i++) {
			keep[k].v[i] = keep[k].v[i] * inv * weight.v[i];
		}
		keep_first(keep[k], cols - c);
		store8(dst + at + c, keep[k]);
	}
}

__device__ __forceinline__ float silu(float g) { return g / (1.f + __expf(-g)); }

// silu_mul_kernel writes dst[t, i] = silu(x[t, i]) * x[t, width + i]. Blocks
// of y share a row.
static __global__ void silu_mul_kernel(bf16 *dst, int dst_pitch, const bf16 *x, int x_pitch, int width) {
	wait_for_before();
	const bf16 *gate = x + static_cast<int64_t>(blockIdx.x) * x_pitch, *up = gate + width;
	bf16 *to = dst + static_cast<int64_t>(blockIdx.x) * dst_pitch;
	const bool whole = width % 8 == 0;
	for (int c = (blockIdx.y * blockDim.x + threadIdx.x) * 8; c < dst_pitch; c += gridDim.y * blockDim.x * 8) {
		Vec8 g, u;
		if (whole) {
			g = load8(gate + c), u = load8(up + c);
		} else {
			for (int i = 0; i < 8; i++) {
				g.v[i] = c + i < width ? to_float(gate[c + i]) : 0.f;
				u.v[i] = c + i < width ? to_float(up[c + i]) : 0.f;
			}
		}
#pragma unroll
		for (int i = 0; i < 8; i++) {
			g.v[i] = silu(g.v[i]) * u.v[i];
		}
		keep_first(g, width - c);
		store8(to + c, g);
	}
}

// gather_kernel copies row list[i] of x to row i of dst.
template <class Out, class In>
__global__ void gather_kernel(Out *dst, const In *x, int pitch, const int32_t *list) {
	wait_for_before();
	const In *from = x + static_cast<int64_t>(list[blockIdx.x]) * pitch;
	Out *to = dst + static_cast<int64_t>(blockIdx.x) * pitch;
	for (int c = threadIdx.x * 8; c < pitch; c += blockDim.x * 8) {
		store8(to + c, load8(from + c));
	}
}

// to_host_kernel writes rows without padding as float32.
template <class In>
__global__ void to_host_kernel(float *dst, const In *x, int cols, int pitch) {
	wait_for_before();
	for (int c = threadIdx.x; c < cols; c += blockDim.x) {
		dst[static_cast<int64_t>(blockIdx.x) * cols + c] = to_float(x[static_cast<int64_t>(blockIdx.x) * pitch + c]);
	}
}

} // namespace chorale
