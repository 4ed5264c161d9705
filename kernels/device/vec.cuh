// Eight elements at a time: bf16 as one 16-byte access, float32 as two.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

namespace chorale {

using bf16 = __nv_bfloat16;

// wait_for_before waits until the launch before has ended, where this one may
// have been brought up earlier (sm_90); every kernel begins with it.
__device__ __forceinline__ void wait_for_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

struct Vec8 {
	float v[8];
};

__device__ __forceinline__ Vec8 load8(const bf16 *p) {
	const uint4 raw = *reinterpret_cast<const uint4 *>(p);
	const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
	Vec8 out;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		out.v[2 * i] = __uint_as_float(words[i] << 16);
		out.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
	}
	return out;
}

__device__ __forceinline__ Vec8 load8(const float *p) {
	const float4 a = reinterpret_cast<const float4 *>(p)[0], b = reinterpret_cast<const float4 *>(p)[1];
	return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ __forceinline__ void store8(bf16 *p, const Vec8 &x) {
	__nv_bfloat162 pairs[4];
#pragma unroll
	for (int i = 0; i < 4; i++) {
		pairs[i] = __floats2bfloat162_rn(x.v[2 * i], x.v[2 * i + 1]);
	}
	*reinterpret_cast<uint4 *>(p) = *reinterpret_cast<const uint4 *>(pairs);
}

__device__ __forceinline__ void store8(float *p, const Vec8 &x) {
	reinterpret_cast<float4 *>(p)[0] = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
	reinterpret_cast<float4 *>(p)[1] = make_float4(x.v[4], x.v[5], x.v[6], x.v[7]);
}

// keep_first zeroes what lies at or beyond n: the padding of a row.
__device__ __forceinline__ void keep_first(Vec8 &x, int n) {
#pragma unroll
	for (int i = 0; i < 8; i++) {
		x.v[i] = i < n ? x.v[i] : 0.f;
	}
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void put(float *p, float x) { *p = x; }
__device__ __forceinline__ void put(bf16 *p, float x) { *p = __float2bfloat16_rn(x); }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
	for (int d = 16; d > 0; d /= 2) {
		x += __shfl_xor_sync(~0u, x, d);
	}
	return x;
}

// block_sum adds one value per thread; every thread gets the sum. shared holds
// 33 values; the order of additions depends on the size of the block alone.
__device__ __forceinline__ float block_sum(float x, float *shared) {
	x = warp_sum(x);
	if ((threadIdx.x & 31) == 0) {
		shared[threadIdx.x >> 5] = x;
	}
	__syncthreads();
	if (threadIdx.x < 32) {
		const float all = warp_sum(threadIdx.x < (blockDim.x + 31) / 32 ? shared[threadIdx.x] : 0.f);
		if (threadIdx.x == 0) {
			shared[32] = all;
		}
	}
	__syncthreads();
	return shared[32];
}

} // namespace chorale
