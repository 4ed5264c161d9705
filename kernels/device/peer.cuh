// Sums and copies between GPUs that see each other's memory: each rank writes its
// part into all others' inboxes and adds what it was sent. One kernel, one way over
// the bus.
//
// Long messages are written first and announced after, by a flag of each block;
// that waits until the writes are there. Short ones have a flag in every 8 bytes,
// which arrive together: twice the bytes, and nothing to wait for.
//
// An inbox has two halves, used in turn. A rank writes into a half again only after
// it has seen all others begin the operation between, so they have read it.
#pragma once

#include "vec.cuh"

namespace chorale::peer {

constexpr int kRanks = 8;
#ifdef CHORALE_ON_CPU
constexpr int kBlocks = 2, kThreads = 32;
#else
constexpr int kBlocks = 64; // the same for every size, so that all count alike
constexpr int kThreads = 512;
#endif
constexpr int kAtOnce = 4;            // values that a thread has under way
constexpr int64_t kBytes = 4 << 20;   // most that a rank sends at a time
constexpr int64_t kShort = 256 << 10; // most of a short message

// Where things lie in a rank's memory.
constexpr int64_t kFlags = 0;     // [ranks][kBlocks] operations that a rank's block has sent
constexpr int64_t kInbox = 16384; // [2][ranks][kBytes], then [2][ranks][2*kShort] of short messages
__host__ __device__ constexpr int64_t memory_bytes(int ranks) { return kInbox + 2 * ranks * (kBytes + 2 * kShort); }

// How an operation goes.
enum Mode {
	kPlain, // long, by 4 bytes
	kWide,  // long, by 16 bytes: addresses and sizes are multiples of it
	kHalf,  // a wide sum of bfloat16
	kBrief, // short
};

struct Args {
	char *memory[kRanks]; // of all ranks, this one's too
	int32_t rank, ranks;
	uint32_t *done;                // [kBlocks] operations that this rank has done
	const volatile uint32_t *over; // on the host: the group is over
	const char *src;
	char *dst;
	int64_t bytes; // a multiple of 4
	bool sum;      // of float32 into dst [bytes], in the order of ranks; else dst [ranks*bytes] is all parts
	Mode mode;
};

#ifdef CHORALE_ON_CPU
inline int (*pauses)() = [] { return 1; }; // for how many turns to look away
template <class T> T look(const T *at) {
	const T v = *at;
	for (int n = pauses(); n > 0; n--) {
		on_cpu::yield();
	}
	return v;
}
inline void tell(uint32_t *flag, uint32_t v) { *flag = v; }
inline uint32_t ask(const uint32_t *flag) { return look(flag); }
inline void write_pair(uint4 *to, uint32_t x, uint32_t y, uint32_t flag) { *to = make_uint4(x, flag, y, flag); }
inline uint4 read_pair(const uint4 *from) { return look(from); }
template <class T> T __ldcg(const T *p) { return *p; }
#else
// tell says that all writes of this block that came before are there.
__device__ __forceinline__ void tell(uint32_t *flag, uint32_t v) { asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(v) : "memory"); }
__device__ __forceinline__ uint32_t ask(const uint32_t *flag) {
	uint32_t v;
	asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");
	return v;
}
// Of a pair either 8 bytes arrive as they were written.
__device__ __forceinline__ void write_pair(uint4 *to, uint32_t x, uint32_t y, uint32_t flag) {
	asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(to), "r"(x), "r"(flag), "r"(y) : "memory");
}
__device__ __forceinline__ uint4 read_pair(const uint4 *from) {
	uint4 v;
	asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
	return v;
}
#endif

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

// brief is a whole operation of a short message; false when the group is over.
__device__ __forceinline__ bool brief(const Args &a, uint32_t turn, int block) {
	const auto *src = reinterpret_cast<const uint32_t *>(a.src);
	auto *dst = reinterpret_cast<uint32_t *>(a.dst);
	const int words = static_cast<int>(a.bytes / 4), pairs = (words + 1) / 2;
	const auto slot = [&](int of, int from) {
		return reinterpret_cast<uint4 *>(a.memory[of] + kInbox + 2 * a.ranks * kBytes + (static_cast<int64_t>(turn & 1) * a.ranks + from) * 2 * kShort);
	};
	const auto second = [&](int i) { return 2 * i + 1 < words ? src[2 * i + 1] : 0u; };
	for (int i = block * kThreads + threadIdx.x; i < pairs; i += kBlocks * kThreads) {
		const uint32_t x = src[2 * i], y = second(i);
		for (int r = 0; r < a.ranks; r++) {
			if (r != a.rank) {
				write_pair(slot(r, a.rank) + i, x, y, turn);
			}
		}
	}
	for (int i = block * kThreads + threadIdx.x; i < pairs; i += kBlocks * kThreads) {
		const uint32_t own[2] = {src[2 * i], second(i)};
		float x = 0, y = 0;
		for (int r = 0; r < a.ranks; r++) {
			uint4 v = make_uint4(own[0], turn, own[1], turn);
			if (r != a.rank) {
				int looks = 0;
				for (v = read_pair(slot(a.rank, r) + i); v.y != turn || v.w != turn; v = read_pair(slot(a.rank, r) + i)) {
					if (++looks % 1024 == 0 && *a.over != 0) {
						return false;
					}
				}
			}
			if (a.sum) {
				x = r == 0 ? __uint_as_float(v.x) : x + __uint_as_float(v.x), y = r == 0 ? __uint_as_float(v.z) : y + __uint_as_float(v.z);
				continue;
			}
			dst[r * words + 2 * i] = v.x;
			if (2 * i + 1 < words) {
				dst[r * words + 2 * i + 1] = v.z;
			}
		}
		if (a.sum) {
			dst[2 * i] = __float_as_uint(x);
			if (2 * i + 1 < words) {
				dst[2 * i + 1] = __float_as_uint(y);
			}
		}
	}
	return true;
}

// walk calls f with kAtOnce places of this thread at a time, and how many of them
// there are.
template <class F> __device__ __forceinline__ void walk(int block, int64_t n, F f) {
	constexpr int64_t stride = kBlocks * kThreads;
	for (int64_t i = block * kThreads + threadIdx.x; i < n; i += kAtOnce * stride) {
		f(i, stride, static_cast<int>(min(static_cast<int64_t>(kAtOnce), (n - i + stride - 1) / stride)));
	}
}

// send copies this block's share of src to the others.
template <class W> __device__ void send(const Args &a, uint32_t turn, int block) {
	const auto *src = reinterpret_cast<const typename W::Value *>(a.src);
	walk(block, a.bytes / static_cast<int64_t>(sizeof(typename W::Value)), [&](int64_t at, int64_t stride, int count) {
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
template <class W> __device__ void take(const Args &a, uint32_t turn, int block) {
	using V = typename W::Value;
	const auto *src = reinterpret_cast<const V *>(a.src);
	auto *dst = reinterpret_cast<V *>(a.dst);
	const int64_t n = a.bytes / static_cast<int64_t>(sizeof(V));
	walk(block, n, [&](int64_t at, int64_t stride, int count) {
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

// longer is a whole operation of a long message.
template <class W> __device__ bool longer(const Args &a, uint32_t turn, int block) {
	send<W>(a, turn, block);
	__syncthreads();
	bool lives = true;
	const int other = threadIdx.x;
	if (other < a.ranks && other != a.rank) {
		tell(reinterpret_cast<uint32_t *>(a.memory[other] + kFlags) + a.rank * kBlocks + block, turn);
		lives = await(reinterpret_cast<const uint32_t *>(a.memory[a.rank] + kFlags) + other * kBlocks + block, turn, a.over);
	}
	if (__syncthreads_or(!lives)) {
		return false;
	}
	take<W>(a, turn, block);
	return true;
}

// operate is one block's part of an operation. Block b of each rank deals with
// block b of the others and with nobody else.
__device__ __forceinline__ void operate(const Args &a, int block) {
	const uint32_t turn = a.done[block] + 1;
	__syncthreads(); // all have read it
	bool lives = true;
	switch (a.mode) {
	case kPlain: lives = longer<Same<float>>(a, turn, block); break;
	case kWide: lives = longer<Same<float4>>(a, turn, block); break;
	case kHalf: lives = longer<Half>(a, turn, block); break;
	case kBrief: lives = brief(a, turn, block); break;
	}
	if (threadIdx.x == 0 && lives) {
		a.done[block] = turn;
	}
}

static __global__ void __launch_bounds__(kThreads) peer_kernel(Args a) {
	wait_for_before();
	operate(a, blockIdx.x);
}

} // namespace chorale::peer
