// What the files of the C interface share.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "chorale_kernels.h"
#include "product.h"

#define CH_EXPORT extern "C" __attribute__((visibility("default")))

namespace chorale {

// Failure carries a status and its sentence to the edge of the library.
struct Failure {
	int32_t status;
	std::string text;
};

[[noreturn]] __attribute__((format(printf, 2, 3))) inline void fail(int32_t status, const char *format, ...) {
	char text[sizeof(ch_error::text)];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	throw Failure{status, text};
}

inline void check(cudaError_t e, const char *what) {
	if (e == cudaErrorMemoryAllocation) {
		cudaGetLastError(); // not sticky
		fail(CH_OUT_OF_MEMORY, "%s: out of device memory", what);
	}
	if (e != cudaSuccess) {
		fail(CH_DEVICE, "%s: CUDA error %d: %s", what, static_cast<int>(e), cudaGetErrorString(e));
	}
}

inline void tell(ch_error *err, const std::string &text) {
	if (err != nullptr) {
		snprintf(err->text, sizeof err->text, "%s", text.c_str());
	}
}

} // namespace chorale

struct ch_context {
	int device = 0;
	bool deterministic = false, tune = false;
	ch_device_info info = {};
	std::unique_ptr<chorale::Products> products;

	cudaStream_t copy = nullptr; // of everything that comes from the host beside steps
	cudaMemPool_t ranges = nullptr;
	std::mutex tickets_mu;
	std::vector<cudaEvent_t> tickets; // those not in use

	std::mutex mu;
	std::string lost; // the first CUDA error; empty while all is well
};

namespace chorale {

// guarded runs f on the context's device and turns failures into a status.
template <class F> int32_t guarded(ch_context *c, ch_error *err, F f) {
	try {
		if (c == nullptr) {
			fail(CH_INVALID, "no context");
		}
		{
			std::lock_guard<std::mutex> lock(c->mu);
			if (!c->lost.empty()) {
				throw Failure{CH_DEVICE, c->lost};
			}
		}
		check(cudaSetDevice(c->device), "selecting the device");
		f();
		return CH_OK;
	} catch (const Failure &e) {
		if (e.status == CH_DEVICE) {
			std::lock_guard<std::mutex> lock(c->mu);
			if (c->lost.empty()) {
				c->lost = e.text;
			}
		}
		tell(err, e.text);
		return e.status;
	} catch (const std::exception &e) {
		tell(err, e.what());
		return CH_OUT_OF_MEMORY;
	}
}

} // namespace chorale
