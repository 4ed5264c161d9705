// Runs CUDA kernels on the CPU, for tests where there is no GPU: the words of
// CUDA C++ that they use. The threads of a block are fibers that
// take turns at barriers and warp-wide operations; blocks run one after
// another, or by turns where a test says that they wait for each other.
// Clusters, and races between threads, are beyond it.
//
//	g++ -std=c++20 -O2 -fno-strict-aliasing -x c++ -DCHORALE_ON_CPU -Ikernels/test/on_cpu -Ikernels/device kernels/test/lora_test.cu -o lora_test_cpu
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint2 {
	uint32_t x, y;
};
struct alignas(16) uint4 {
	uint32_t x, y, z, w;
};
struct float2 {
	float x, y;
};
struct alignas(16) float4 {
	float x, y, z, w;
};
struct dim3 {
	unsigned x = 1, y = 1, z = 1;
	dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct __nv_bfloat16 {
	uint16_t bits;
};
struct __nv_bfloat162 {
	__nv_bfloat16 x, y;
};
inline float __uint_as_float(uint32_t u) {
	float f;
	memcpy(&f, &u, 4);
	return f;
}
inline float __bfloat162float(__nv_bfloat16 b) { return __uint_as_float(uint32_t{b.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
	uint32_t u;
	memcpy(&u, &f, 4);
	if (f != f) {
		return {0x7fff};
	}
	return {static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)}; }
inline float __expf(float x) { return expf(x); }
template <class T> T __ldg(const T *p) { return *p; }
using std::max;
using std::min;

namespace on_cpu {

// Warp collects what its lanes bring to a warp-wide operation.
struct Warp {
	uint32_t arrived = 0, generation = 0;
	uint32_t in[32][8];
	float d[32][4];
};

struct Block {
	std::vector<ucontext_t> fibers;
	std::vector<std::unique_ptr<char[]>> stacks;
	std::vector<Warp> warps;
	std::vector<char> done;
	ucontext_t scheduler;
	unsigned index = 0, current = 0, arrived = 0, generation = 0, live = 0;
	int any = 0;
	std::function<void()> body;
	std::unique_ptr<char[]> memory;
};
inline Block *block = nullptr;

// by_turns says that the blocks of a launch wait for each other.
inline bool by_turns = false;

inline void yield() { swapcontext(&block->fibers[block->current], &block->scheduler); }

} // namespace on_cpu

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() {
	on_cpu::Block &b = *on_cpu::block;
	const unsigned mine = b.generation;
	if (++b.arrived == b.live) {
		b.arrived = 0;
		b.generation++;
	}
	while (b.generation == mine) {
		on_cpu::yield();
	}
}

namespace on_cpu {

// together calls all once, when the 32 lanes of this warp have arrived.
template <class F> void together(Warp &w, F all) {
	const uint32_t mine = w.generation;
	if (++w.arrived == 32) {
		all();
		w.arrived = 0;
		w.generation++;
	}
	while (w.generation == mine) {
		yield();
	}
}

inline void start_fiber() {
	block->body();
	block->done[block->current] = 1;
	block->live--;
	yield();
}

inline std::unique_ptr<Block> make_block(unsigned index, unsigned threads, size_t memory, const std::function<void()> &body) {
	auto made = std::make_unique<Block>();
	Block &b = *made;
	constexpr size_t kStack = 128 * 1024;
	b.index = index;
	b.fibers.resize(threads);
	b.warps.resize((threads + 31) / 32);
	b.done.assign(threads, 0);
	b.live = threads;
	b.body = body;
	b.memory.reset(new char[memory + 1024]);
	for (unsigned i = 0; i < threads; i++) {
		b.stacks.emplace_back(new char[kStack]);
		getcontext(&b.fibers[i]);
		b.fibers[i].uc_stack.ss_sp = b.stacks[i].get();
		b.fibers[i].uc_stack.ss_size = kStack;
		b.fibers[i].uc_link = nullptr;
		makecontext(&b.fibers[i], start_fiber, 0);
	}
	return made;
}

// turn lets every thread of a block go on until it waits.
inline void turn(Block &b) {
	block = &b;
	blockIdx = dim3(b.index, 0, 0);
	for (unsigned i = 0; i < b.fibers.size(); i++) {
		if (!b.done[i]) {
			b.current = i;
			threadIdx = dim3(i);
			swapcontext(&b.scheduler, &b.fibers[i]);
		}
	}
	block = nullptr;
}

// run_block runs the block blockIdx.
inline void run_block(unsigned threads, const std::function<void()> &body) {
	const std::unique_ptr<Block> b = make_block(blockIdx.x, threads, 0, body);
	while (b->live > 0) {
		turn(*b);
	}
}

inline void run_blocks(unsigned count, unsigned threads, size_t memory, const std::function<void()> &body) {
	std::vector<std::unique_ptr<Block>> blocks;
	for (unsigned i = 0; i < count; i++) {
		blocks.push_back(make_block(i, threads, memory, body));
		while (!by_turns && blocks[i]->live > 0) {
			turn(*blocks[i]);
		}
		if (!by_turns) {
			blocks[i].reset();
		}
	}
	for (bool left = by_turns; left;) {
		left = false;
		for (const auto &b : blocks) {
			if (b->live > 0) {
				turn(*b);
				left = true;
			}
		}
	}
}

} // namespace on_cpu

namespace on_cpu {

// shuffle gives each lane the value of lane from(its own number).
template <class T, class F> T shuffle(T v, F from) {
	const unsigned lane = threadIdx.x & 31;
	Warp &w = block->warps[threadIdx.x / 32];
	static_assert(sizeof v <= 16);
	memcpy(w.in[lane], &v, sizeof v);
	together(w, [&] {
		for (int i = 0; i < 32; i++) {
			memcpy(&w.in[i][4], w.in[from(i)], 16);
		}
	});
	memcpy(&v, &w.in[lane][4], sizeof v);
	return v;
}

} // namespace on_cpu

template <class T> T __shfl_sync(unsigned, T v, int lane) {
	return on_cpu::shuffle(v, [=](int) { return lane; });
}
template <class T> T __shfl_up_sync(unsigned, T v, int delta) {
	return on_cpu::shuffle(v, [=](int i) { return i >= delta ? i - delta : i; });
}
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) {
	return on_cpu::shuffle(v, [=](int i) { return i ^ mask; });
}
inline uint32_t __ballot_sync(unsigned, bool v) {
	on_cpu::Warp &w = on_cpu::block->warps[threadIdx.x / 32];
	w.in[threadIdx.x & 31][0] = v;
	on_cpu::together(w, [&] {
		uint32_t votes = 0;
		for (int i = 0; i < 32; i++) {
			votes |= w.in[i][0] << i;
		}
		for (int i = 0; i < 32; i++) {
			w.in[i][1] = votes;
		}
	});
	return w.in[threadIdx.x & 31][1];
}
inline void __syncwarp() { __ballot_sync(~0u, true); }
inline int __syncthreads_or(int v) {
	int &any = on_cpu::block->any;
	__syncthreads();
	if (threadIdx.x == 0) {
		any = 0;
	}
	__syncthreads();
	any |= v;
	__syncthreads();
	return any;
}
inline uint32_t atomicAdd(uint32_t *at, uint32_t v) { return (*at += v) - v; }
inline void atomicMin(uint32_t *at, uint32_t v) { *at = std::min(*at, v); }
inline void atomicMax(uint32_t *at, uint32_t v) { *at = std::max(*at, v); }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __ffs(uint32_t v) { return __builtin_ffs(static_cast<int>(v)); }
inline uint32_t __float_as_uint(float f) {
	uint32_t u;
	memcpy(&u, &f, 4);
	return u;
}
inline uint64_t __float2ull_rn(float f) { return static_cast<uint64_t>(nearbyintf(f)); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
using std::isfinite;
using std::isnan;

// The runtime's calls: memory is the host's, launches run at once.
using cudaStream_t = void *;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorMemoryAllocation };
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum { cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaLaunchAttributeClusterDimension, cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
	int id;
	struct {
		struct {
			unsigned x, y, z;
		} clusterDim;
		int programmaticStreamSerializationAllowed;
	} val;
};
struct cudaLaunchConfig_t {
	dim3 gridDim, blockDim;
	size_t dynamicSmemBytes = 0;
	cudaStream_t stream = nullptr;
	cudaLaunchAttribute *attrs = nullptr;
	unsigned numAttrs = 0;
};
inline const char *cudaGetErrorString(cudaError_t) { return "error"; }
inline cudaError_t cudaMalloc(void **p, size_t n) { return (*p = aligned_alloc(512, (n + 511) / 512 * 512)) ? cudaSuccess : cudaErrorMemoryAllocation; }
inline cudaError_t cudaFree(void *p) {
	free(p);
	return cudaSuccess;
}
inline cudaError_t cudaMemset(void *p, int v, size_t n) {
	memset(p, v, n);
	return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t n, int) {
	if (n > 0) {
		memcpy(to, from, n);
	}
	return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int *d) {
	*d = 0;
	return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int *v, int what, int) {
	*v = what == cudaDevAttrMultiProcessorCount ? 2 : 8; // a small device without clusters
	return cudaSuccess;
}
template <class F> cudaError_t cudaFuncSetAttribute(F, int, int) { return cudaSuccess; }
template <class F> cudaError_t cudaOccupancyMaxActiveClusters(int *n, F, const cudaLaunchConfig_t *) {
	*n = 1;
	return cudaSuccess;
}
template <class Args> cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *c, void (*kernel)(Args), const Args &args) {
	if (c->dynamicSmemBytes > 99 * 1024) { // the least that a device of the last years has
		return cudaErrorInvalidValue;
	}
	gridDim = c->gridDim;
	blockDim = c->blockDim;
	on_cpu::run_blocks(c->gridDim.x, c->blockDim.x, c->dynamicSmemBytes, [&] { kernel(args); });
	return cudaSuccess;
}

namespace chorale::lora {

// Shared memory of the block that runs.
alignas(16) inline float shared[25 * 1024];
alignas(16) inline int32_t storage[8 * 1024];

// The instructions of lora_ptx.cuh.
inline void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
	const unsigned lane = threadIdx.x & 31;
	on_cpu::Warp &w = on_cpu::block->warps[threadIdx.x / 32];
	const uint32_t in[6] = {a0, a1, a2, a3, b0, b1};
	memcpy(w.in[lane], in, sizeof in);
	memcpy(w.d[lane], d, sizeof w.d[lane]);
	on_cpu::together(w, [&] {
		const auto half = [](uint32_t v, int i) { return __uint_as_float(i ? v & 0xffff0000u : v << 16); };
		for (int m = 0; m < 16; m++) {
			for (int n = 0; n < 8; n++) {
				float sum = 0;
				for (int k = 0; k < 16; k++) {
					const float a = half(w.in[m % 8 * 4 + k % 8 / 2][m / 8 + k / 8 * 2], k % 2);
					sum += a * half(w.in[n * 4 + k % 8 / 2][4 + k / 8], k % 2);
				}
				w.d[m % 8 * 4 + n / 2][m / 8 * 2 + n % 2] += sum;
			}
		}
	});
	memcpy(d, w.d[lane], sizeof w.d[lane]);
}
inline uint4 load16_once(const void *p) { return *static_cast<const uint4 *>(p); }
inline void prefetch_l2(const void *) {}
inline void wait_for_previous() {}
inline void let_next_begin() {}
inline void cluster_arrive() {}
inline void cluster_wait() {}
inline void mailbox_init(uint64_t *) {}
inline void mailbox_expect(uint64_t *, uint32_t) {}
inline void mailbox_wait(uint64_t *, uint32_t) {}
inline void post(const float *, const uint64_t *, uint32_t, float4) {}

} // namespace chorale::lora
