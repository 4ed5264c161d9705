// A fault on purpose: what a process does with a lost device can be tested only
// with one.
#include "context.h"

using namespace chorale;

namespace {

// stray_kernel writes where nothing is.
__global__ void stray_kernel(int *nowhere) { *nowhere = 1; }

} // namespace

CH_EXPORT int32_t ch_fault(ch_context *c, ch_error *err) {
	return guarded(c, err, [&] {
		cudaStream_t stream = nullptr;
		check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
		stray_kernel<<<1, 1, 0, stream>>>(reinterpret_cast<int *>(uintptr_t{1} << 46));
		check(cudaGetLastError(), "fault");
		// Not waited for: whoever uses the device next finds out.
		check(cudaStreamDestroy(stream), "stream");
	});
}
