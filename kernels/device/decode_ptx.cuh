// Instructions of the product of decode rows that CUDA C++ has no words for.
#pragma once

#include "lora_ptx.cuh"

namespace chorale::decode {

using lora::bf16;

#ifndef CHORALE_ON_CPU // the tests' stand-in has its own

// copy16 starts a copy of 16 bytes from global to shared memory; zeros, and no
// read, unless there. What is copied by a thread is grouped by copies_commit.
__device__ __forceinline__ void copy16(char *to, const void *from, bool there) {
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(lora::shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copy8(char *to, const void *from, bool there) {
	asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(lora::shared_address(to)), "l"(from), "r"(there ? 8 : 0) : "memory");
}

__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// copies_wait returns when all but the last kN groups of this thread are there.
template <int kN> __device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(kN) : "memory"); }

// copies_shown makes this thread's finished copies visible to wgmma.
__device__ __forceinline__ void copies_shown() {
#if __CUDA_ARCH__ >= 900
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// load_matrices reads four 8 x 8 matrices of bf16; each lane names a row of 16
// bytes and gets two elements of row lane / 4 of each.
__device__ __forceinline__ uint4 load_matrices(const char *row) {
	uint4 v;
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(lora::shared_address(row)) : "memory");
	return v;
}

__device__ __forceinline__ void fence() { __threadfence(); }

__device__ __forceinline__ uint32_t load_acquire(const uint32_t *p) {
	uint32_t v;
	asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
	return v;
}

// look_again is what a thread does that waits for other blocks. Looking so
// often in vain, seconds long, means that they never come: better an error.
__device__ __forceinline__ void look_again(uint32_t times) {
	if (times > 1u << 23) {
		__trap();
	}
}

// together waits for `threads` threads of the block; barriers 1 to 15.
__device__ __forceinline__ void together(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

__device__ __forceinline__ float4 load_from_l2(const float4 *p) { return __ldcg(p); }

// of_block is where another block of the cluster has what p is here.
__device__ __forceinline__ const float *of_block(const float *p, uint32_t block) {
	uint64_t at = reinterpret_cast<uint64_t>(p);
#if __CUDA_ARCH__ >= 900
	asm volatile("mapa.u64 %0, %1, %2;" : "=l"(at) : "l"(reinterpret_cast<uint64_t>(p)), "r"(block));
#endif
	return reinterpret_cast<const float *>(at);
}

// block_memory is the block's memory, 1024-byte aligned.
__device__ __forceinline__ char *block_memory() {
	extern __shared__ __align__(1024) char decode_memory[];
	return reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(decode_memory) + 1023) / 1024 * 1024);
}

#endif

} // namespace chorale::decode
