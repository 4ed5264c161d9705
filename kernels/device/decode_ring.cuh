// The ring of stages through which everything that a product of decode rows
// reads comes into shared memory, and the products made from a stage.
//
// A warp copies 32 rows of the left operand (of a weight, or of adapters' B), and
// multiplies twice 16: its own, or, where four warps make up a group for Hopper's
// matrix instruction, those of the group that are its share. The right operand,
// the batch, is everybody's. Rows of a stage are kDepth bf16 long; their
// 16-byte chunks are mixed by row so that no two rows of a matrix meet in a bank.
#pragma once

#include "decode_ptx.cuh"
#ifndef CHORALE_ON_CPU
#include "attention_wgmma.cuh"
#endif

namespace chorale::decode {

constexpr int kWarpRows = 32;
constexpr int kBaseBarrier = 1, kShrinkBarrier = 2; // of the two kinds of warps
constexpr int kListBarrier = 3; // of all: the lists are there

// A shape of the kernel: kTiles tiles of 8 batch rows, kStages stages of kDepth.
template <int tiles, int stages, int depth> struct Shape {
	static constexpr int kTiles = tiles, kStages = stages, kDepth = depth;
	static constexpr int kRowBytes = depth * 2, kChunks = depth / 8; // of 16 bytes
	static constexpr int kBatchBytes = tiles * 8 * kRowBytes;
};

__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int most(int a, int b) { return a > b ? a : b; }
__host__ __device__ constexpr int parts_of(int n, int unit) { return (n + unit - 1) / unit; }

// chunk_at is the place of a chunk in the rows of a stage.
template <class S> __device__ __forceinline__ int chunk_at(int row, int chunk) { return row * S::kRowBytes + ((chunk ^ (row & 7)) * 16); }

// Operand is some rows of a matrix: row r begins at data + r * pitch.
struct Operand {
	const bf16 *data;
	int64_t pitch;
	int rows; // that exist
};

// copy_rows copies kRows rows, from column k on, of which the first `end`
// exist, with one warp.
template <class S, int kRows> __device__ __forceinline__ void copy_rows(char *to, const Operand &m, int k, int end, int first_row) {
	constexpr int kStep = 32 / S::kChunks;
	const int lane = threadIdx.x & 31, chunk = lane % S::kChunks, row0 = lane / S::kChunks;
	const bf16 *from = m.data + row0 * m.pitch + k + chunk * 8;
	const bool inside = k + chunk * 8 < end;
#pragma unroll
	for (int i = 0; i < kRows / kStep; i++) {
		const int row = row0 + i * kStep;
		const bool there = inside && row < m.rows;
		copy16(to + chunk_at<S>(first_row + row, chunk), there ? from + i * kStep * m.pitch : m.data, there);
	}
}

// copy_batch copies the batch's columns from k on, with `threads` threads.
template <class S> __device__ __forceinline__ void copy_batch(char *to, const Operand &x, int k, int end, int threads) {
	for (int i = threadIdx.x; i < S::kTiles * 8 * S::kChunks; i += threads) {
		const int row = i / S::kChunks, chunk = i % S::kChunks;
		const bool there = row < x.rows && k + chunk * 8 < end;
		copy16(to + chunk_at<S>(row, chunk), there ? x.data + row * x.pitch + k + chunk * 8 : x.data, there);
	}
}

// Sums are a warp's 32 rows x 8 kTiles of a product: [16 rows][8 batch rows].
template <class S> struct Sums {
	float v[2][S::kTiles][4];
	__device__ __forceinline__ void clear() {
#pragma unroll
		for (int i = 0; i < 2 * S::kTiles * 4; i++) {
			v[i / (S::kTiles * 4)][i / 4 % S::kTiles][i % 4] = 0;
		}
	}
};

// grouped says whether warps multiply in groups of four.
__device__ __forceinline__ bool grouped(int cols) { return cols % (4 * kWarpRows) == 0; }

// warp_row is the first of the 16 rows that are half m of a warp's sums.
__device__ __forceinline__ int warp_row(int cols, int m) {
	const int warp = threadIdx.x / 32;
	return grouped(cols) ? warp / 4 * 128 + m * 64 + warp % 4 * 16 : warp * kWarpRows + m * 16;
}

// left loads 16 rows x 16 columns of a stage.
template <class S> __device__ __forceinline__ uint4 left(const char *stage, int row, int step) {
	const int lane = threadIdx.x & 31;
	return load_matrices(stage + chunk_at<S>(row + lane % 16, step * 2 + lane / 16));
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// multiply_group is multiply for whole groups of warps. Four steps of a stage
// lie in one row of 128 bytes.
template <class S> __device__ __forceinline__ void multiply_group(Sums<S> &sums, const char *stage, const char *batch) {
	const uint32_t rows = lora::shared_address(stage + threadIdx.x / 128 * 128 * S::kRowBytes), right = lora::shared_address(batch);
	attention::hold(sums.v[0]);
	attention::hold(sums.v[1]);
	attention::wgmma_fence();
#pragma unroll
	for (int step = 0; step < 4; step++) {
		const uint64_t b = attention::descriptor(right + step * 32, 0);
#pragma unroll
		for (int m = 0; m < 2; m++) {
			attention::wgmma_keys<8>(sums.v[m], attention::descriptor(rows + m * 64 * S::kRowBytes + step * 32, 0), b, 1);
		}
	}
	attention::wgmma_commit();
	attention::wgmma_wait<0>();
	attention::hold(sums.v[0]);
	attention::hold(sums.v[1]);
}
#endif

// multiply adds the product of a stage.
template <class S> __device__ __forceinline__ void multiply(Sums<S> &sums, const char *stage, const char *batch, int cols) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
	if constexpr (S::kTiles == 8 && S::kDepth == 64) {
		if (grouped(cols)) {
			multiply_group<S>(sums, stage, batch);
			return;
		}
	}
#endif
	const int lane = threadIdx.x & 31, row[2] = {warp_row(cols, 0), warp_row(cols, 1)};
	if constexpr (S::kTiles == 1) { // one load serves two steps
#pragma unroll
		for (int step = 0; step < S::kDepth / 16; step += 2) {
			const uint4 x = load_matrices(batch + chunk_at<S>(lane % 8, step * 2 + lane / 8));
#pragma unroll
			for (int m = 0; m < 2; m++) {
				const uint4 a = left<S>(stage, row[m], step), b = left<S>(stage, row[m], step + 1);
				lora::mma(sums.v[m][0], a.x, a.y, a.z, a.w, x.x, x.y);
				lora::mma(sums.v[m][0], b.x, b.y, b.z, b.w, x.z, x.w);
			}
		}
	} else {
#pragma unroll
		for (int step = 0; step < S::kDepth / 16; step++) {
			const uint4 a[2] = {left<S>(stage, row[0], step), left<S>(stage, row[1], step)};
#pragma unroll
			for (int n = 0; n < S::kTiles; n += 2) {
				const uint4 x = load_matrices(batch + chunk_at<S>(n * 8 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
#pragma unroll
				for (int m = 0; m < 2; m++) {
					lora::mma(sums.v[m][n], a[m].x, a[m].y, a[m].z, a[m].w, x.x, x.y);
					lora::mma(sums.v[m][n + 1], a[m].x, a[m].y, a[m].z, a[m].w, x.z, x.w);
				}
			}
		}
	}
}

} // namespace chorale::decode
