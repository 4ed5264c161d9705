// Ranges of device memory, and copies from the host, that no step waits for.
#include "copy.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace chorale {

namespace {

// kPiece is how much is pinned, and copied, at a time: a huge page. A step's
// tables take the same way to the device, and its launches the driver's lock:
// they wait for the pieces under way and no longer (0.2 ms to pin one, 0.04 to
// copy one).
constexpr int64_t kPiece = 2 << 20;

// kPause is how long the lock is left to others between two pieces, in µs.
constexpr int kPause = 300;

__global__ void nothing() {}

// Tickets are two events that wait asleep, for two pieces under way: while one
// is copied the next is queued, and no more than that is ever before a step.
class Tickets {
  public:
	explicit Tickets(ch_context &c) : c_(c) {
		std::lock_guard<std::mutex> lock(c.tickets_mu);
		for (cudaEvent_t &e : events_) {
			if (!c.tickets.empty()) {
				e = c.tickets.back();
				c.tickets.pop_back();
			}
		}
	}
	~Tickets() {
		std::lock_guard<std::mutex> lock(c_.tickets_mu);
		for (cudaEvent_t e : events_) {
			if (e) {
				c_.tickets.push_back(e);
			}
		}
	}
	Tickets(const Tickets &) = delete;
	Tickets &operator=(const Tickets &) = delete;

	void mark(int i) {
		if (!events_[i]) {
			check(cudaEventCreateWithFlags(&events_[i], cudaEventDisableTiming | cudaEventBlockingSync), "event");
		}
		check(cudaEventRecord(events_[i], c_.copy), "copy to the device");
		marked_[i] = true;
	}
	void wait(int i) {
		if (marked_[i]) {
			check(cudaEventSynchronize(events_[i]), "copy to the device");
			marked_[i] = false;
		}
	}

  private:
	ch_context &c_;
	cudaEvent_t events_[2] = {};
	bool marked_[2] = {};
};

// unpin gives back the first `pinned` bytes' registration and all the memory.
void unpin(char *at, int64_t bytes, int64_t pinned) {
	for (int64_t i = 0; i < pinned; i += kPiece) {
		cudaHostUnregister(at + i);
	}
	munmap(at, bytes);
}

// map gives memory that begins at a multiple of kPiece, in huge pages where
// there are any: those are pinned ten times as fast.
char *map(int64_t bytes) {
	void *all = mmap(nullptr, bytes + kPiece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED) {
		fail(CH_OUT_OF_MEMORY, "%lld MiB of host memory cannot be had", static_cast<long long>(bytes >> 20));
	}
	char *from = static_cast<char *>(all);
	char *at = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(from) + kPiece - 1) / kPiece * kPiece);
	if (at > from) {
		munmap(from, at - from);
	}
	if (at + bytes < from + bytes + kPiece) {
		munmap(at + bytes, from + kPiece - at);
	}
	madvise(at, bytes, MADV_HUGEPAGE);
	return at;
}

// pin makes pinned memory without holding the driver's lock for long.
char *pin(int64_t bytes) {
	char *at = map(bytes);
	int64_t done = 0;
	try {
		for (; done < bytes; done += kPiece) {
			memset(at + done, 0, kPiece);
			const cudaError_t e = cudaHostRegister(at + done, kPiece, cudaHostRegisterDefault);
			if (e == cudaErrorMemoryAllocation) {
				cudaGetLastError();
				fail(CH_OUT_OF_MEMORY, "of %lld MiB of host memory only %lld can be pinned", static_cast<long long>(bytes >> 20), static_cast<long long>(done >> 20));
			}
			check(e, "pinned memory");
			usleep(kPause);
		}
	} catch (...) {
		unpin(at, bytes, done);
		throw;
	}
	return at;
}

} // namespace

const void *probe_kernel() { return reinterpret_cast<const void *>(&nothing); }

void open_copies(ch_context &c) {
	check(cudaStreamCreateWithFlags(&c.copy, cudaStreamNonBlocking), "stream");
	cudaMemPoolProps props = {};
	props.allocType = cudaMemAllocationTypePinned;
	props.location = {cudaMemLocationTypeDevice, c.device};
	check(cudaMemPoolCreate(&c.ranges, &props), "memory pool");
	// What the pool has it keeps: giving memory back to the driver takes long.
	uint64_t all = UINT64_MAX;
	check(cudaMemPoolSetAttribute(c.ranges, cudaMemPoolAttrReleaseThreshold, &all), "memory pool");
}

void close_copies(ch_context &c) {
	for (cudaEvent_t e : c.tickets) {
		cudaEventDestroy(e);
	}
	if (c.ranges) {
		cudaMemPoolDestroy(c.ranges);
	}
	if (c.copy) {
		cudaStreamDestroy(c.copy);
	}
}

} // namespace chorale

using namespace chorale;

CH_EXPORT int32_t ch_range_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err) {
	return guarded(c, err, [&] {
		if (bytes <= 0) {
			fail(CH_INVALID, "range of %lld bytes", static_cast<long long>(bytes));
		}
		check(cudaMallocFromPoolAsync(out, bytes, c->ranges, c->copy), "range");
	});
}

CH_EXPORT int32_t ch_range_free(ch_context *c, void *data, ch_error *err) {
	return guarded(c, err, [&] { check(cudaFreeAsync(data, c->copy), "free of a range"); });
}

CH_EXPORT int32_t ch_pin(ch_context *c, int64_t bytes, void **out, ch_error *err) {
	return guarded(c, err, [&] {
		if (bytes <= 0 || bytes % kPiece != 0) {
			fail(CH_INVALID, "pinned memory of %lld bytes", static_cast<long long>(bytes));
		}
		*out = pin(bytes);
	});
}

CH_EXPORT int32_t ch_unpin(ch_context *c, void *data, int64_t bytes, ch_error *err) {
	return guarded(c, err, [&] { unpin(static_cast<char *>(data), bytes, bytes); });
}

CH_EXPORT int32_t ch_copy(ch_context *c, void *dst, const void *src, int64_t bytes, ch_error *err) {
	return guarded(c, err, [&] {
		Tickets two(*c);
		const char *from = static_cast<const char *>(src);
		for (int64_t at = 0, n = 0, i = 0; at < bytes; at += n, i++) {
			// What is pinned together is copied together.
			n = std::min<int64_t>(kPiece - reinterpret_cast<uintptr_t>(from + at) % kPiece, bytes - at);
			two.wait(i % 2);
			check(cudaMemcpyAsync(static_cast<char *>(dst) + at, from + at, n, cudaMemcpyHostToDevice, c->copy), "copy to the device");
			two.mark(i % 2);
		}
		two.wait(0);
		two.wait(1);
	});
}
