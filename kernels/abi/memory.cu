// Chunks of physical memory, through the driver's virtual memory functions. They
// are found at run time, so that the library does not need the driver to load.
#include "chorale_memory.h"

#include <cuda.h>

#include <mutex>

#include "context.h"

using namespace chorale;

namespace {

struct Driver {
	decltype(&cuMemGetAllocationGranularity) granularity;
	decltype(&cuMemCreate) create;
	decltype(&cuMemRelease) release;
	decltype(&cuMemAddressReserve) reserve;
	decltype(&cuMemAddressFree) unreserve;
	decltype(&cuMemMap) map;
	decltype(&cuMemUnmap) unmap;
	decltype(&cuMemSetAccess) access;
	decltype(&cuGetErrorName) name;
};

template <class F> void find(const char *symbol, F *out) {
	void *at = nullptr;
	cudaDriverEntryPointQueryResult found;
	// 11.2 is where the youngest of these functions came.
	if (cudaGetDriverEntryPointByVersion(symbol, &at, 11020, cudaEnableDefault, &found) != cudaSuccess || found != cudaDriverEntryPointSuccess) {
		cudaGetLastError();
		fail(CH_UNSUPPORTED, "the NVIDIA driver has no %s", symbol);
	}
	*out = reinterpret_cast<F>(at);
}

Driver find_driver() {
	Driver d;
	find("cuMemGetAllocationGranularity", &d.granularity);
	find("cuMemCreate", &d.create);
	find("cuMemRelease", &d.release);
	find("cuMemAddressReserve", &d.reserve);
	find("cuMemAddressFree", &d.unreserve);
	find("cuMemMap", &d.map);
	find("cuMemUnmap", &d.unmap);
	find("cuMemSetAccess", &d.access);
	find("cuGetErrorName", &d.name);
	return d;
}

// kAtLeast is the smallest chunk: what the hardware maps as one page, and the
// granularity of every device so far.
constexpr int64_t kAtLeast = 2 << 20;

} // namespace

struct ch_chunks {
	ch_context *context = nullptr;
	Driver driver = {};
	CUmemAllocationProp props = {};
	CUmemAccessDesc access = {};
	int64_t bytes = 0; // of a chunk
	std::mutex mu;     // of clear
	cudaStream_t clear = nullptr;
};

namespace {

void check_driver(const ch_chunks &p, CUresult r, const char *what) {
	if (r == CUDA_SUCCESS) {
		return;
	}
	const char *name = "unknown error";
	p.driver.name(r, &name);
	if (r == CUDA_ERROR_OUT_OF_MEMORY) {
		fail(CH_OUT_OF_MEMORY, "%s: out of device memory", what);
	}
	fail(CH_DEVICE, "%s: CUDA error %d: %s", what, static_cast<int>(r), name);
}

CUdeviceptr address(const void *at) { return reinterpret_cast<CUdeviceptr>(at); }

void open_chunks(ch_chunks &p) {
	p.driver = find_driver();
	p.props.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	p.props.location = {CU_MEM_LOCATION_TYPE_DEVICE, p.context->device};
	p.access.location = p.props.location;
	p.access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
	size_t granularity = 0;
	check_driver(p, p.driver.granularity(&granularity, &p.props, CU_MEM_ALLOC_GRANULARITY_MINIMUM), "asking for the size of chunks");
	const int64_t g = static_cast<int64_t>(granularity);
	p.bytes = (kAtLeast + g - 1) / g * g;
	check(cudaStreamCreateWithFlags(&p.clear, cudaStreamNonBlocking), "stream");
}

void release(ch_chunks &p, int32_t n, const uint64_t *handles) {
	CUresult first = CUDA_SUCCESS;
	for (int32_t i = 0; i < n; i++) {
		const CUresult r = p.driver.release(handles[i]);
		first = first == CUDA_SUCCESS ? r : first;
	}
	check_driver(p, first, "giving back chunks of memory");
}

void create(ch_chunks &p, int32_t n, uint64_t *handles) {
	for (int32_t i = 0; i < n; i++) {
		CUmemGenericAllocationHandle h = 0;
		const CUresult r = p.driver.create(&h, p.bytes, &p.props, 0);
		if (r != CUDA_SUCCESS) {
			release(p, i, handles);
			check_driver(p, r, "making chunks of memory");
		}
		handles[i] = h;
	}
}

// unmap takes chunks away one mapping at a time, which older drivers insist on.
void unmap(ch_chunks &p, void *at, int32_t n) {
	for (int32_t i = 0; i < n; i++) {
		check_driver(p, p.driver.unmap(address(at) + i * p.bytes, p.bytes), "unmapping memory");
	}
}

void map(ch_chunks &p, void *at, int32_t n, const uint64_t *handles) {
	for (int32_t i = 0; i < n; i++) {
		const CUresult r = p.driver.map(address(at) + i * p.bytes, p.bytes, 0, handles[i], 0);
		if (r != CUDA_SUCCESS) {
			unmap(p, at, i);
			check_driver(p, r, "mapping memory");
		}
	}
	const CUresult r = p.driver.access(address(at), n * p.bytes, &p.access, 1);
	if (r != CUDA_SUCCESS) {
		unmap(p, at, n);
		check_driver(p, r, "opening mapped memory");
	}
}

template <class F> int32_t on_chunks(ch_chunks *p, ch_error *err, F f) { return guarded(p ? p->context : nullptr, err, f); }

} // namespace

CH_EXPORT int32_t ch_chunks_open(ch_context *c, ch_chunks **out, int64_t *chunk_bytes, ch_error *err) {
	auto p = std::make_unique<ch_chunks>();
	p->context = c;
	return guarded(c, err, [&] {
		open_chunks(*p);
		*chunk_bytes = p->bytes;
		*out = p.release();
	});
}

CH_EXPORT int32_t ch_chunks_close(ch_chunks *p, ch_error *err) {
	return on_chunks(p, err, [&] {
		const cudaError_t e = cudaStreamDestroy(p->clear);
		delete p;
		check(e, "closing the memory pool");
	});
}

CH_EXPORT int32_t ch_chunks_create(ch_chunks *p, int32_t n, uint64_t *handles, ch_error *err) {
	return on_chunks(p, err, [&] { create(*p, n, handles); });
}

CH_EXPORT int32_t ch_chunks_release(ch_chunks *p, int32_t n, const uint64_t *handles, ch_error *err) {
	return on_chunks(p, err, [&] { release(*p, n, handles); });
}

CH_EXPORT int32_t ch_chunks_reserve(ch_chunks *p, int32_t n, void **out, ch_error *err) {
	return on_chunks(p, err, [&] {
		CUdeviceptr at = 0;
		check_driver(*p, p->driver.reserve(&at, n * p->bytes, p->bytes, 0, 0), "reserving addresses");
		*out = reinterpret_cast<void *>(at);
	});
}

CH_EXPORT int32_t ch_chunks_unreserve(ch_chunks *p, void *at, int32_t n, ch_error *err) {
	return on_chunks(p, err, [&] { check_driver(*p, p->driver.unreserve(address(at), n * p->bytes), "giving back addresses"); });
}

CH_EXPORT int32_t ch_chunks_map(ch_chunks *p, void *at, int32_t n, const uint64_t *handles, ch_error *err) {
	return on_chunks(p, err, [&] { map(*p, at, n, handles); });
}

CH_EXPORT int32_t ch_chunks_unmap(ch_chunks *p, void *at, int32_t n, ch_error *err) {
	return on_chunks(p, err, [&] { unmap(*p, at, n); });
}

CH_EXPORT int32_t ch_chunks_clear(ch_chunks *p, void *at, int32_t n, ch_error *err) {
	return on_chunks(p, err, [&] {
		std::lock_guard<std::mutex> lock(p->mu);
		check(cudaMemsetAsync(at, 0, n * p->bytes, p->clear), "clearing memory");
		check(cudaStreamSynchronize(p->clear), "clearing memory");
	});
}

CH_EXPORT int32_t ch_chunks_read(ch_chunks *p, void *to, const void *from, int64_t bytes, ch_error *err) {
	return on_chunks(p, err, [&] {
		std::lock_guard<std::mutex> lock(p->mu);
		check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, p->clear), "reading memory");
		check(cudaStreamSynchronize(p->clear), "reading memory");
	});
}
