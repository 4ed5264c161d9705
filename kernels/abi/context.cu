// Devices and memory.
#include "context.h"

#include <cctype>
#include <cstdlib>
#include <cstring>

#include "copy.h"

using namespace chorale;

CH_EXPORT int32_t ch_abi_version(void) { return CH_ABI_VERSION; }

namespace {

// count_devices explains why there is none.
int count_devices() {
	int n = 0, driver = 0;
	const cudaError_t e = cudaGetDeviceCount(&n);
	if (e == cudaErrorInsufficientDriver) {
		cudaDriverGetVersion(&driver);
		if (driver == 0) {
			fail(CH_UNSUPPORTED, "no NVIDIA driver is installed");
		}
		fail(CH_UNSUPPORTED, "the NVIDIA driver is too old: it knows CUDA %d.%d, this library needs %d.%d", driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
	}
	if (e == cudaErrorNoDevice || (e == cudaSuccess && n == 0)) {
		const char *visible = getenv("CUDA_VISIBLE_DEVICES");
		if (visible != nullptr) {
			fail(CH_UNSUPPORTED, "no NVIDIA GPU is visible: CUDA_VISIBLE_DEVICES is \"%s\"", visible);
		}
		fail(CH_UNSUPPORTED, "no NVIDIA GPU is visible");
	}
	if (e != cudaSuccess) {
		fail(CH_UNSUPPORTED, "CUDA does not start: %s", cudaGetErrorString(e));
	}
	return n;
}

// memory_info asks for what changes.
void memory_info(ch_device_info *info) {
	size_t free = 0, total = 0;
	check(cudaMemGetInfo(&free, &total), "device memory");
	info->memory = static_cast<int64_t>(total);
	info->free_memory = static_cast<int64_t>(free);
}

// cache_file names the file of product measurements by device and library.
std::string cache_file(const char *folder, const ch_device_info &info, size_t version) {
	if (folder == nullptr || *folder == 0) {
		return "";
	}
	std::string name = info.name;
	for (char &ch : name) {
		ch = isalnum(static_cast<unsigned char>(ch)) ? ch : '-';
	}
	return std::string(folder) + "/products-" + name + "-" + std::to_string(version) + ".txt";
}

void describe(ch_context &c) {
	cudaDeviceProp prop;
	check(cudaGetDeviceProperties(&prop, c.device), "device properties");
	snprintf(c.info.name, sizeof c.info.name, "%s", prop.name);
	c.info.processors = prop.multiProcessorCount;
	c.info.major = prop.major, c.info.minor = prop.minor;
	cudaDriverGetVersion(&c.info.driver);
	memcpy(c.info.uuid, prop.uuid.bytes, sizeof c.info.uuid);
	if (prop.major < 8) {
		fail(CH_UNSUPPORTED, "%s has compute capability %d.%d; 8.0 or newer is needed", prop.name, prop.major, prop.minor);
	}
	cudaFuncAttributes attributes;
	const cudaError_t e = cudaFuncGetAttributes(&attributes, probe_kernel());
	if (e != cudaSuccess) {
		cudaGetLastError();
		if (e == cudaErrorUnsupportedPtxVersion) {
			fail(CH_UNSUPPORTED, "the kernel library has no code for %s, and its PTX is newer than the driver (CUDA %d.%d): update the driver, or build with KERNEL_ARCH=%d%d", prop.name, c.info.driver / 1000, c.info.driver % 1000 / 10, prop.major, prop.minor);
		}
		fail(CH_UNSUPPORTED, "the kernel library was not built for %s (compute capability %d.%d): build it with KERNEL_ARCH=%d%d", prop.name, prop.major, prop.minor, prop.major, prop.minor);
	}
	memory_info(&c.info);
}

void open_context(ch_context &c, const ch_options &o) {
	const int n = count_devices();
	if (o.device < 0 || o.device >= n) {
		fail(CH_UNSUPPORTED, "there is no GPU %d: %d visible, counted from 0", o.device, n);
	}
	c.device = o.device;
	c.deterministic = o.deterministic != 0, c.tune = o.tune != 0;
	check(cudaSetDevice(c.device), "selecting the device");
	describe(c);
	const cublaslt::Library &library = cublaslt::open(o.cublaslt);
	c.products = std::make_unique<Products>(library, ProductOptions{c.deterministic, c.tune, cache_file(o.cache_dir, c.info, library.GetVersion())});
	open_copies(c);
}

void close_context(ch_context &c) {
	c.products.reset();
	close_copies(c);
}

} // namespace

CH_EXPORT int32_t ch_device_count(int32_t *count, ch_error *err) {
	try {
		*count = count_devices();
		return CH_OK;
	} catch (const Failure &e) {
		tell(err, e.text);
		return e.status;
	}
}

CH_EXPORT int32_t ch_open(const ch_options *options, ch_context **out, ch_error *err) {
	auto c = std::make_unique<ch_context>();
	try {
		open_context(*c, *options);
		*out = c.release();
		return CH_OK;
	} catch (const Failure &e) {
		close_context(*c);
		tell(err, e.text);
		return e.status;
	} catch (const std::exception &e) {
		close_context(*c);
		tell(err, e.what());
		return CH_OUT_OF_MEMORY;
	}
}

CH_EXPORT int32_t ch_close(ch_context *c, ch_error *err) {
	const int32_t status = guarded(c, err, [&] { check(cudaDeviceSynchronize(), "closing"); });
	if (c != nullptr) {
		close_context(*c);
		delete c;
	}
	return status;
}

CH_EXPORT int32_t ch_info(ch_context *c, ch_device_info *out, ch_error *err) {
	return guarded(c, err, [&] {
		*out = c->info;
		memory_info(out);
	});
}

CH_EXPORT int32_t ch_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err) {
	return guarded(c, err, [&] {
		if (bytes <= 0) {
			fail(CH_INVALID, "allocation of %lld bytes", static_cast<long long>(bytes));
		}
		void *p = nullptr;
		const cudaError_t e = cudaMalloc(&p, bytes);
		if (e == cudaErrorMemoryAllocation) {
			cudaGetLastError();
			ch_device_info now = {};
			memory_info(&now);
			fail(CH_OUT_OF_MEMORY, "%lld MiB are wanted, %lld MiB of device memory are free", static_cast<long long>(bytes >> 20), static_cast<long long>(now.free_memory >> 20));
		}
		check(e, "allocation");
		check(cudaMemset(p, 0, bytes), "clearing memory");
		check(cudaDeviceSynchronize(), "clearing memory");
		*out = p;
	});
}

CH_EXPORT int32_t ch_free(ch_context *c, void *data, ch_error *err) {
	return guarded(c, err, [&] { check(cudaFree(data), "free"); });
}

CH_EXPORT int32_t ch_host_alloc(ch_context *c, int64_t bytes, void **out, ch_error *err) {
	return guarded(c, err, [&] { check(cudaMallocHost(out, bytes), "pinned memory"); });
}

CH_EXPORT int32_t ch_host_free(ch_context *c, void *data, ch_error *err) {
	return guarded(c, err, [&] { check(cudaFreeHost(data), "free of pinned memory"); });
}
