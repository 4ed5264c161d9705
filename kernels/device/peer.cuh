// Sums and copies between GPUs that see each other's memory, for small messages:
// each rank writes its part into all others' inboxes, tells them, and adds what it
// was sent. One kernel, one way over the bus; NCCL's ring and its like pay off
// where bytes count and not the delay.
//
// An inbox has two halves, used in turn. A rank writes into a half again only after
// it has seen all others begin the operation between, so they have read it.
#pragma once

#include "vec.cuh"

namespace chorale::peer {

constexpr int kRanks = 8;
constexpr int kBlocks = 64; // the same for every size, so that all count alike
constexpr int kThreads = 512;
constexpr int kAtOnce = 4;          // values that a thread has under way
constexpr int64_t kBytes = 4 << 20; // most that a rank sends at a time

// Where things lie in a rank's memory.
constexpr int64_t kFlags = 0;     // [ranks][kBlocks] operations that a rank's block has sent
constexpr int64_t kInbox = 16384; // [2][ranks][kBytes]
__host__ __device__ constexpr int64_t memory_bytes(int ranks) { return kInbox + 2 * ranks * kBytes; }

struct Args {
	char *memory[kRanks]; // of all ranks, this one's too
	int32_t rank, ranks;
	uint32_t *done;                // [kBlocks] operations that this rank has done
	const volatile uint32_t *over; // on the host: the group is over
	const char *src;
	char *dst;
	int64_t bytes; // a multiple of 4
	bool sum;      // of float32 into dst [bytes], in the order of ranks; else dst [ranks*bytes] is all parts
	bool wide;     // addresses and bytes are multiples of 16
	bool half;     // a sum of bfloat16, which is wide
};

__device__ __forceinline__ void tell(uint32_t *flag, uint32_t v) {
#ifdef __CUDA_ARCH__
	asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(v) : "memory");
#endif
}

__device__ __forceinline__ uint32_t ask(const uint32_t *flag) {
	uint32_t v = 0;
#ifdef __CUDA_ARCH__
	asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");
#endif
	return v;
}

// await waits for a flag; false when the group is over.
__device__ __forceinline__ bool await(const uint32_t *flag, uint32_t want, const volatile uint32_t *over) {
	for (int looks = 1; static_cast<int32_t>(ask(flag) - want) < 0; looks++) {
		if (looks % 1024 == 0 && *over != 0) {
			return false;
		}
	}
	return true;
}

__device__ __forceinline__ float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ float add(float a, float b) { return a + b; }

__device__ __forceinline__ char *inbox(const Args &a, int of, int from, uint32_t turn) { return a.memory[of] + kInbox + (static_cast<int64_t>(turn & 1) * a.ranks + from) * kBytes; }

// Same sends values as they are, Half as bfloat16.
template <class V> struct Same {
	using Value = V;
	using Sent = V;
	static __device__ V pack(V v) { return v; }
	static __device__ V open(V v) { return v; }
};
struct Half {
	using Value = float4;
	using Sent = uint2;
	static __device__ uint2 pack(float4 v) {
		const __nv_bfloat162 lo = __floats2bfloat162_rn(v.x, v.y), hi = __floats2bfloat162_rn(v.z, v.w);
		return make_uint2(*reinterpret_cast<const uint32_t *>(&lo), *reinterpret_cast<const uint32_t *>(&hi));
	}
	static __device__ float4 open(uint2 v) {
		return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
	}
};

// walk calls f with kAtOnce places of this thread at a time, and how many of them
// there are.
template <class F> __device__ __forceinline__ void walk(int64_t n, F f) {
	constexpr int64_t stride = kBlocks * kThreads;
	for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += kAtOnce * stride) {
		f(i, stride, static_cast<int>(min(static_cast<int64_t>(kAtOnce), (n - i + stride - 1) / stride)));
	}
}

// send copies this block's share of src to the others.
template <class W> __device__ void send(const Args &a, uint32_t turn) {
	const auto *src = reinterpret_cast<const typename W::Value *>(a.src);
	walk(a.bytes / static_cast<int64_t>(sizeof(typename W::Value)), [&](int64_t at, int64_t stride, int count) {
		typename W::Sent v[kAtOnce];
#pragma unroll
		for (int k = 0; k < kAtOnce; k++) {
			if (k < count) {
				v[k] = W::pack(src[at + k * stride]);
			}
		}
		for (int r = 0; r < a.ranks; r++) {
			auto *to = reinterpret_cast<typename W::Sent *>(inbox(a, r, a.rank, turn));
#pragma unroll
			for (int k = 0; k < kAtOnce; k++) {
				if (k < count && r != a.rank) {
					to[at + k * stride] = v[k];
				}
			}
		}
	});
}

// take adds, or copies, this block's share of all parts. Its own part is rounded
// like the others': all ranks get the same bits.
template <class W> __device__ void take(const Args &a, uint32_t turn) {
	using V = typename W::Value;
	const auto *src = reinterpret_cast<const V *>(a.src);
	auto *dst = reinterpret_cast<V *>(a.dst);
	const int64_t n = a.bytes / static_cast<int64_t>(sizeof(V));
	walk(n, [&](int64_t at, int64_t stride, int count) {
		V sum[kAtOnce];
		for (int r = 0; r < a.ranks; r++) {
			const auto *from = reinterpret_cast<const typename W::Sent *>(inbox(a, a.rank, r, turn));
			V v[kAtOnce];
#pragma unroll
			for (int k = 0; k < kAtOnce; k++) {
				if (k < count) {
					v[k] = W::open(r == a.rank ? W::pack(src[at + k * stride]) : __ldcg(from + at + k * stride));
				}
			}
#pragma unroll
			for (int k = 0; k < kAtOnce; k++) {
				if (k < count && a.sum) {
					sum[k] = r == 0 ? v[k] : add(sum[k], v[k]);
				} else if (k < count) {
					dst[r * n + at + k * stride] = v[k];
				}
			}
		}
#pragma unroll
		for (int k = 0; k < kAtOnce; k++) {
			if (k < count && a.sum) {
				dst[at + k * stride] = sum[k];
			}
		}
	});
}

// peer_kernel is one operation. Block b of each rank deals with block b of the
// others and with nobody else.
static __global__ void __launch_bounds__(kThreads) peer_kernel(Args a) {
	wait_for_before();
	const uint32_t turn = a.done[blockIdx.x] + 1;
	if (a.half) {
		send<Half>(a, turn);
	} else if (a.wide) {
		send<Same<float4>>(a, turn);
	} else {
		send<Same<float>>(a, turn);
	}
	__threadfence_system();
	__syncthreads();
	bool lives = true;
	if (threadIdx.x < a.ranks && threadIdx.x != a.rank) {
		tell(reinterpret_cast<uint32_t *>(a.memory[threadIdx.x] + kFlags) + a.rank * kBlocks + blockIdx.x, turn);
		lives = await(reinterpret_cast<const uint32_t *>(a.memory[a.rank] + kFlags) + threadIdx.x * kBlocks + blockIdx.x, turn, a.over);
	}
	if (__syncthreads_or(!lives)) {
		return;
	}
	if (a.half) {
		take<Half>(a, turn);
	} else if (a.wide) {
		take<Same<float4>>(a, turn);
	} else {
		take<Same<float>>(a, turn);
	}
	if (threadIdx.x == 0) {
		a.done[blockIdx.x] = turn;
	}
}

} // namespace chorale::peer
