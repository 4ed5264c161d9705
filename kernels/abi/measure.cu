#include "measure.h"

#include <algorithm>

#include "context.h"
#include "vec.cuh"

namespace chorale {

namespace {

constexpr size_t kPool = 320 << 20;

// noise_kernel fills weights to measure with: products of zeros run faster.
static __global__ void noise_kernel(bf16 *dst, int64_t n) {
	for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
		uint32_t h = static_cast<uint32_t>(i) * 2654435761u;
		h ^= h >> 15;
		h *= 2246822519u;
		h ^= h >> 13;
		dst[i] = __float2bfloat16_rn((static_cast<int32_t>(h) >> 8) * 1e-8f);
	}
}

struct Event {
	cudaEvent_t e = nullptr;
	Event() { check(cudaEventCreate(&e), "event"); }
	~Event() { cudaEventDestroy(e); }
};

} // namespace

Noise::Noise(cudaStream_t stream, size_t bytes, const void *own) : stream_(stream), weights_({own}) {
	if (bytes * 2 <= kPool && cudaMalloc(&pool_, kPool) == cudaSuccess) {
		noise_kernel<<<1024, 256, 0, stream>>>(static_cast<bf16 *>(pool_), kPool / 2);
		weights_.clear();
		const size_t step = (bytes + 255) / 256 * 256;
		for (size_t at = 0; at + bytes <= kPool && weights_.size() < 64; at += step) {
			weights_.push_back(static_cast<char *>(pool_) + at);
		}
	}
	cudaGetLastError();
}

float Noise::measure(int repeats, int runs, const std::function<bool(const void *w)> &start) const {
	Event begin, end;
	float best = -1;
	if (!start(weights_[0])) {
		return -1;
	}
	for (int run = 0; run < runs; run++) {
		check(cudaEventRecord(begin.e, stream_), "measuring products");
		for (int i = 0; i < repeats; i++) {
			if (!start(weights_[i % weights_.size()])) {
				return -1;
			}
		}
		check(cudaEventRecord(end.e, stream_), "measuring products");
		check(cudaEventSynchronize(end.e), "measuring products");
		float ms = 0;
		check(cudaEventElapsedTime(&ms, begin.e, end.e), "measuring products");
		best = best < 0 ? ms : std::min(best, ms);
	}
	return best;
}

} // namespace chorale
