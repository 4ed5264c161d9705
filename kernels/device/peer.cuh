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
constexpr int kBlocks = 32; // the same for every size, so that all count alike
constexpr int kThreads = 512;
constexpr int64_t kBytes = 1 << 20; // most that a rank sends at a time

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

// send copies this block's share of src to the others.
template <class V> __device__ void send(const Args &a, uint32_t turn) {
	const auto *src = reinterpret_cast<const V *>(a.src);
	const int64_t n = a.bytes / static_cast<int64_t>(sizeof(V));
	for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += kBlocks * kThreads) {
		const V v = src[i];
		for (int r = 0; r < a.ranks; r++) {
			if (r != a.rank) {
				reinterpret_cast<V *>(inbox(a, r, a.rank, turn))[i] = v;
			}
		}
	}
}

// take adds, or copies, this block's share of all parts.
template <class V> __device__ void take(const Args &a, uint32_t turn) {
	const auto *src = reinterpret_cast<const V *>(a.src);
	auto *dst = reinterpret_cast<V *>(a.dst);
	const int64_t n = a.bytes / static_cast<int64_t>(sizeof(V));
	const auto part = [&](int r, int64_t i) { return r == a.rank ? src[i] : __ldcg(reinterpret_cast<const V *>(inbox(a, a.rank, r, turn)) + i); };
	for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += kBlocks * kThreads) {
		if (a.sum) {
			V v = part(0, i);
			for (int r = 1; r < a.ranks; r++) {
				v = add(v, part(r, i));
			}
			dst[i] = v;
			continue;
		}
		for (int r = 0; r < a.ranks; r++) {
			dst[r * n + i] = part(r, i);
		}
	}
}

// peer_kernel is one operation. Block b of each rank deals with block b of the
// others and with nobody else.
static __global__ void __launch_bounds__(kThreads) peer_kernel(Args a) {
	wait_for_before();
	const uint32_t turn = a.done[blockIdx.x] + 1;
	if (a.wide) {
		send<float4>(a, turn);
	} else {
		send<float>(a, turn);
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
	if (a.wide) {
		take<float4>(a, turn);
	} else {
		take<float>(a, turn);
	}
	if (threadIdx.x == 0) {
		a.done[blockIdx.x] = turn;
	}
}

} // namespace chorale::peer
