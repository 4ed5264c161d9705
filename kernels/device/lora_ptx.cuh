// The few instructions that CUDA C++ has no words for.
#pragma once

#include "lora_term.cuh"

#ifndef CHORALE_ON_CPU // the tests' stand-in has its own

namespace chorale::lora {

// mma adds the 16 x 8 product of a (16 x 16, row-major) and b (16 x 8,
// column-major), both bf16, to d. An element of d depends on its own row of a
// and column of b alone, whatever the others hold.
__device__ __forceinline__ void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// load16_once reads weights that this block will not read again.
__device__ __forceinline__ uint4 load16_once(const void *p) {
	uint4 v;
	asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
	return v;
}

__device__ __forceinline__ void prefetch_l2(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// wait_for_previous returns when everything the kernel before this one wrote
// is visible. It only waits where the launch was allowed to begin early.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// let_next_begin allows the next kernel's prologue, from this kernel's first
// instruction on. So a chain of such kernels may all have begun before the
// first has ended; their prologues read only what was written before the chain.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
	asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
	asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ uint32_t shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// A mailbox counts the bytes that arrive in shared memory; its phase ends when
// the owner has named their number and all are there.
__device__ __forceinline__ void mailbox_init(uint64_t *box) {
#if __CUDA_ARCH__ >= 900
	asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(box)) : "memory");
#endif
}

__device__ __forceinline__ void mailbox_expect(uint64_t *box, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(box)), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void mailbox_wait(uint64_t *box, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
	uint32_t done = 0;
	while (!done) {
		asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
		             : "=r"(done)
		             : "r"(shared_address(box)), "r"(parity)
		             : "memory");
	}
#endif
}

// post writes 4 values to the same shared-memory address of another block of
// the cluster and counts them in its mailbox.
__device__ __forceinline__ void post(const float *local, const uint64_t *box, uint32_t block, float4 v) {
#if __CUDA_ARCH__ >= 900
	uint32_t to, counted;
	asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(local)), "r"(block));
	asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counted) : "r"(shared_address(box)), "r"(block));
	asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(counted) : "memory");
#endif
}

} // namespace chorale::lora

#endif
