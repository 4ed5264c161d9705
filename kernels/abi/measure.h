// Measuring products on weights that do not stay in the cache.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace chorale {

// Noise is a pool of random weights of one size, in place of `own` alone. Where
// there is no memory for it, own must do.
class Noise {
  public:
	Noise(cudaStream_t stream, size_t bytes, const void *own);
	~Noise() { cudaFree(pool_); }
	Noise(const Noise &) = delete;
	Noise &operator=(const Noise &) = delete;

	size_t size() const { return weights_.size(); }
	// measure starts a product `repeats` times, `runs` times over, each with the
	// next weight, and gives the best run's milliseconds; -1 when a start fails.
	float measure(int repeats, int runs, const std::function<bool(const void *w)> &start) const;

  private:
	cudaStream_t stream_;
	void *pool_ = nullptr;
	std::vector<const void *> weights_;
};

} // namespace chorale
