// A random step for attention's test and bench: sequences, pages, a cache and
// queries on the device.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "attention.cuh"

#define CUDA(call)                                                                                        \
	do {                                                                                                  \
		if (const cudaError_t e_ = (call); e_ != cudaSuccess) {                                           \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(e_));                   \
			exit(1);                                                                                      \
		}                                                                                                 \
	} while (0)

namespace test {

using chorale::AttentionShape;
using bf16 = __nv_bfloat16;

struct Seq {
	int q_len, ctx_len;
};

inline __host__ __device__ uint32_t mix(uint64_t x) {
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return static_cast<uint32_t>(x >> 32);
}

// value is the i-th pseudo-random number of a stream: about normal, and never
// zero on purpose.
inline __host__ __device__ float value(uint64_t seed, uint64_t i) {
	float sum = 0;
	for (int k = 0; k < 4; k++) {
		sum += mix(seed * 0x9e3779b97f4a7c15ull + i * 4 + k) * (1.f / 4294967296.f);
	}
	return (sum - 2.f) * 1.7f;
}

inline float rounded(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

__global__ void fill_rows(bf16 *dst, int64_t pitch, int cols, uint64_t seed) {
	for (int c = threadIdx.x; c < cols; c += blockDim.x) {
		dst[blockIdx.x * pitch + c] = __float2bfloat16_rn(value(seed, blockIdx.x * static_cast<uint64_t>(cols) + c));
	}
}

// fill_cache writes position blockIdx.x of a sequence; values depend on seed,
// position and channel alone.
__global__ void fill_cache(bf16 *keys, bf16 *values, int64_t page_stride, int page_size, int width, const int32_t *pages, uint64_t seed) {
	const int64_t at = pages[blockIdx.x / page_size] * page_stride + static_cast<int64_t>(blockIdx.x % page_size) * width;
	for (int c = threadIdx.x; c < width; c += blockDim.x) {
		keys[at + c] = __float2bfloat16_rn(value(seed, blockIdx.x * static_cast<uint64_t>(width) + c));
		values[at + c] = __float2bfloat16_rn(value(seed + 1, blockIdx.x * static_cast<uint64_t>(width) + c));
	}
}

// Case owns a step's device memory. Caches have two layers; the second is used.
struct Case {
	AttentionShape shape;
	std::vector<Seq> seqs;
	std::vector<ch_seq> rows;
	std::vector<int32_t> pages;
	int total = 0, padded = 0, processors = 0;
	bool hopper = false;
	int64_t page_stride = 0, q_pitch = 0, out_pitch = 0;
	bf16 *pool = nullptr, *q = nullptr, *out = nullptr;
	int32_t *device_pages = nullptr;
	void *table = nullptr, *memory = nullptr;
	chorale::AttentionSpace space = {};

	// Pages from first_page on are used, shuffled; without `cache` there are none.
	Case(AttentionShape shape, std::vector<Seq> seqs, int64_t budget, std::mt19937 &rng, int first_page = 0, bool poison = true, bool cache = true);
	~Case();
	Case(const Case &) = delete;
	int64_t layer() const { return 2 * int64_t{shape.page_size} * shape.kv_heads * shape.head_dim; }
	chorale::AttentionRun run(const chorale::AttentionPlan &plan) const;
	chorale::AttentionPlan plan(bool deterministic, std::vector<char> &host) const;
	chorale::AttentionPlan upload(bool deterministic) const;
};

inline Case::Case(AttentionShape s, std::vector<Seq> list, int64_t budget, std::mt19937 &rng, int first_page, bool poison, bool cache) : shape(s), seqs(std::move(list)) {
	cudaDeviceProp prop;
	CUDA(cudaGetDeviceProperties(&prop, 0));
	processors = prop.multiProcessorCount;
	hopper = prop.major == 9;
	int count = 0;
	for (const Seq &q : seqs) {
		rows.push_back({total, q.q_len, q.ctx_len, count});
		total += q.q_len;
		count += (q.ctx_len + s.page_size - 1) / s.page_size;
	}
	padded = (total + 7) / 8 * 8;
	pages.resize(count);
	for (int i = 0; i < count; i++) {
		pages[i] = first_page + i;
	}
	std::shuffle(pages.begin(), pages.end(), rng);
	page_stride = 2 * layer();
	const int width = s.kv_heads * s.head_dim;
	q_pitch = (s.heads + 2 * s.kv_heads) * s.head_dim;
	out_pitch = s.heads * s.head_dim;
	const int64_t pool_bytes = (first_page + static_cast<int64_t>(count)) * page_stride * 2;
	CUDA(cudaMalloc(&pool, cache ? pool_bytes : 256));
	CUDA(cudaMalloc(&q, padded * q_pitch * 2));
	CUDA(cudaMalloc(&out, padded * out_pitch * 2));
	CUDA(cudaMalloc(&device_pages, count * 4));
	CUDA(cudaMalloc(&table, chorale::attention_table_bytes(padded)));
	space = chorale::attention_space(padded, s.heads, s.head_dim, processors, budget);
	CUDA(cudaMalloc(&memory, space.bytes));
	CUDA(cudaMemset(memory, 0, space.bytes));
	if (poison) { // bf16 0xffff is no number
		CUDA(cudaMemset(pool + first_page * page_stride, 0xff, pool_bytes - first_page * page_stride * 2));
	}
	CUDA(cudaMemset(out, 0xff, padded * out_pitch * 2));
	CUDA(cudaMemcpy(device_pages, pages.data(), count * 4, cudaMemcpyHostToDevice));
	fill_rows<<<padded, 128>>>(q, q_pitch, static_cast<int>(q_pitch), 7);
	for (size_t i = 0; cache && i < seqs.size(); i++) {
		fill_cache<<<seqs[i].ctx_len, 128>>>(pool + layer(), pool + layer() + layer() / 2, page_stride, s.page_size, width, device_pages + rows[i].first_page, 100 + 2 * i);
	}
	CUDA(cudaDeviceSynchronize());
}

inline Case::~Case() {
	cudaFree(pool), cudaFree(q), cudaFree(out), cudaFree(device_pages), cudaFree(table), cudaFree(memory);
}

inline chorale::AttentionPlan Case::plan(bool deterministic, std::vector<char> &host) const {
	host.assign(chorale::attention_table_bytes(padded), 0x5a);
	chorale::AttentionPlan plan;
	const chorale::AttentionStep step = {shape, rows.data(), static_cast<int32_t>(rows.size()), padded, processors, space.parts, deterministic};
	if (const int32_t status = chorale::attention_plan(step, host.data(), &plan); status != CH_OK) {
		fprintf(stderr, "attention_plan: status %d\n", status);
		exit(1);
	}
	return plan;
}

inline chorale::AttentionPlan Case::upload(bool deterministic) const {
	std::vector<char> host;
	const chorale::AttentionPlan p = plan(deterministic, host);
	CUDA(cudaMemcpy(table, host.data(), p.used_bytes, cudaMemcpyHostToDevice));
	return p;
}

inline chorale::AttentionRun Case::run(const chorale::AttentionPlan &plan) const {
	chorale::AttentionRun r = {};
	r.shape = shape;
	r.scale = 1.f / sqrtf(static_cast<float>(shape.head_dim));
	r.q = q, r.out = out, r.q_pitch = q_pitch, r.out_pitch = out_pitch;
	r.cache.keys = pool + layer(), r.cache.values = pool + layer() + layer() / 2, r.cache.page_stride = page_stride;
	r.cache.page_size = shape.page_size, r.cache.kv_heads = shape.kv_heads, r.cache.head_dim = shape.head_dim;
	r.pages = device_pages, r.table = table, r.memory = memory, r.space = space;
	r.rows = padded, r.prefill_tiles = plan.prefill_tiles, r.processors = processors, r.hopper = hopper;
	return r;
}

inline void launch(const chorale::AttentionRun &r, cudaStream_t stream = nullptr) {
	if (const int32_t status = chorale::attention_run(r, stream); status != CH_OK) {
		fprintf(stderr, "attention_run: status %d, %s\n", status, cudaGetErrorString(cudaGetLastError()));
		exit(1);
	}
}

} // namespace test
