// Tensor-core and copy instructions that the attention kernels share. All of
// them exist from sm_80 on.
#pragma once

#include <cuda_bf16.h>
#include <math.h>
#include <stdint.h>

namespace chorale::attention {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ uint32_t shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// copy16 starts copying 16 bytes to shared memory, or zeros when not `valid`.
__device__ __forceinline__ void copy16(uint32_t dst, const void *src, bool valid) {
	const int bytes = valid ? 16 : 0;
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// copy_wait waits until at most N of this thread's newest groups are under way.
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// load4 reads four 8x8 matrices; lane i gives the address of row i%8 of matrix
// i/8.
__device__ __forceinline__ void load4(uint32_t (&r)[4], uint32_t address) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void load4_transposed(uint32_t (&r)[4], uint32_t address) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

// mma adds a [16, 16] · b [16, 8] to c [16, 8].
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		: "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float exp2_fast(float x) {
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

__device__ __forceinline__ uint32_t pack(float lo, float hi) {
	const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
	return *reinterpret_cast<const uint32_t *>(&v);
}

// swizzled gives the byte offset of 16-byte piece `piece` of row `row` in a tile
// of D-wide bf16 rows. Eight rows of one column of pieces lie in all 32 banks.
template <int D> __device__ __forceinline__ int swizzled(int row, int piece) {
	if constexpr (D % 64 == 0) {
		return row * (D * 2) + ((piece ^ (row & 7)) * 16);
	} else { // D = 96: rows alternate between the halves of the banks
		return row * (D * 2) + ((piece ^ ((row >> 1) & 3)) * 16);
	}
}

// shrink_factor is exp2(old - now) for a maximum that grew from old to now.
// Maxima are -inf as long as nothing was seen.
__device__ __forceinline__ float shrink_factor(float old, float now) { return old == -INFINITY ? 0.f : exp2_fast(old - now); }

} // namespace chorale::attention
