// The few instructions that CUDA C++ has no words for.
#pragma once

#include "lora_term.cuh"

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

// let_next_begin allows the next kernel's prologue. It comes after this
// kernel's own wait, so a prologue may read whatever was written two kernels
// before it: weights and term tables, never activations.
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

// store_remote writes v to the same shared-memory address of another block of
// the cluster.
__device__ __forceinline__ void store_remote(float *local, uint32_t block, float v) {
#if __CUDA_ARCH__ >= 900
	uint32_t to;
	uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(local));
	asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(from), "r"(block));
	asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(to), "f"(v) : "memory");
#endif
}

} // namespace chorale::lora
