// LoRA for a batch of rows with different adapters, true ranks 1 to 512.
//
// One linear layer (q|k|v and gate|up count as one) takes two launches:
//
//	lora_shrink  v = scale * x A^T, into scratch      needs x only, so it may
//	                                                  run beside the base GEMM
//	lora_expand  y += v B^T + bias                    after both
//
// or, for gate|up, lora_expand_silu instead of expand and activation.
//
// Terms and their count lie in device memory, and a launch depends on bounds
// alone, so a captured graph serves any adapters. Work follows the sum of the
// ranks of the terms: an adapter's weights are read once per 8 to 64 rows.
//
// Determinism: a value of y depends on its own row of x, on its adapter and on
// the shapes, bit for bit: not on the other rows or terms, their order, the
// grid, `rows`, or which of the tile sizes ran. Order of sums: the inner
// dimension is cut into 64 slices of whole units of 32, each summed in order;
// slices are added in order within groups of 8, then the groups in order; v is
// kept as two bfloat16 (16 bits of mantissa); the ranks are summed in order.
//
// Early start: with `early` the kernel may begin while the one before still
// runs (programmatic dependent launch), and reads weights, terms and count
// before it waits. So these must have been written before the kernel before.
#pragma once

#include "lora_shrink.cuh"
#include "lora_silu.cuh"

namespace chorale::lora {

constexpr int32_t kPrefillRows = 256; // more rows than this take the larger tiles

// LoraLaunch describes one linear layer. Every field is a property of the
// graph, not of the batch.
struct LoraLaunch {
	const ch_lora_term *terms; // device, [max_terms]
	const int32_t *count;      // device; more than max_terms are ignored
	int32_t max_terms;         // at most 4096
	int32_t rows;              // of the step, padding included: chooses tile sizes
	const void *x;             // [rows, ldx] bf16, 16-byte aligned
	int32_t ldx, in;           // multiples of 8
	void *y;                   // [rows, ldy], 16-byte aligned
	int32_t ldy;
	bool y_float; // y is float32, otherwise bf16
	void *scratch; // at least 512 bytes times the sum of ch_lora_tiles, 16-byte aligned
	bool early;
};

// lora_scratch_bytes bounds the scratch of a launch: `rows` rows in at most
// `adapters` segments, each with `parts` terms of at most max_rank.
inline size_t lora_scratch_bytes(int32_t rows, int32_t adapters, int32_t parts, int32_t max_rank) {
	const size_t segments = adapters < rows ? adapters : rows;
	return (rows / kTileRows + segments) * parts * rank_tiles(max_rank) * kTileBytes;
}

// DeviceShape is what a grid depends on.
struct DeviceShape {
	int processors;
	bool clusters;
};

inline cudaError_t device_shape(DeviceShape *shape) {
	int device = 0, major = 0;
	cudaError_t err = cudaGetDevice(&device);
	if (err == cudaSuccess) {
		err = cudaDeviceGetAttribute(&shape->processors, cudaDevAttrMultiProcessorCount, device);
	}
	if (err == cudaSuccess) {
		err = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
	}
	shape->clusters = major >= 9;
	return err;
}

inline size_t work_list_bytes(int32_t terms) { return (static_cast<size_t>(terms) + 34) * sizeof(int32_t); }

// launch starts a persistent kernel, in clusters of `cluster` blocks.
template <class Args>
cudaError_t launch(void (*kernel)(Args), const Args &args, int blocks, int threads, size_t shared, int cluster, bool early, cudaStream_t stream) {
	if (shared > 48 * 1024) {
		cudaError_t err = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
		if (err != cudaSuccess) {
			return err;
		}
	}
	cudaLaunchAttribute attributes[2] = {};
	int n = 0;
	if (cluster > 1) {
		attributes[n].id = cudaLaunchAttributeClusterDimension;
		attributes[n++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
	}
	if (early) {
		attributes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
		attributes[n++].val.programmaticStreamSerializationAllowed = 1;
	}
	cudaLaunchConfig_t config = {};
	config.gridDim = blocks;
	config.blockDim = threads;
	config.dynamicSmemBytes = shared;
	config.stream = stream;
	config.attrs = attributes;
	config.numAttrs = n;
	return cudaLaunchKernelEx(&config, kernel, args);
}

inline bool valid(const LoraLaunch &l) {
	return l.terms && l.count && l.scratch && l.max_terms >= 1 && l.max_terms <= 4096 && l.rows >= 1;
}

template <class Shape> cudaError_t launch_shrink(const LoraLaunch &l, const DeviceShape &device, cudaStream_t stream) {
	const ShrinkArgs args{l.terms, l.count, l.max_terms, static_cast<const bf16 *>(l.x), l.ldx, l.in, l.scratch};
	const int blocks = device.processors * Shape::kBlocksPerSM / kShrinkBlocks * kShrinkBlocks;
	if (device.clusters) {
		const size_t shared = ShrinkParts<Shape, true>::kFloats * sizeof(float) + work_list_bytes(l.max_terms);
		return launch(shrink_kernel<Shape, true>, args, blocks, kShrinkThreads, shared, kShrinkBlocks, l.early, stream);
	}
	const size_t shared = ShrinkParts<Shape, false>::kFloats * sizeof(float) + work_list_bytes(l.max_terms);
	return launch(shrink_kernel<Shape, false>, args, blocks, kShrinkThreads, shared, 1, false, stream);
}

// lora_shrink computes v of every term. cudaErrorInvalidValue: a null pointer,
// or in or ldx not a multiple of 8.
inline cudaError_t lora_shrink(const LoraLaunch &l, cudaStream_t stream) {
	DeviceShape device;
	if (!valid(l) || !l.x || l.in < 8 || l.in % 8 != 0 || l.ldx % 8 != 0) {
		return cudaErrorInvalidValue;
	}
	const cudaError_t err = device_shape(&device);
	if (err != cudaSuccess) {
		return err;
	}
	return l.rows > kPrefillRows ? launch_shrink<ShrinkPrefill>(l, device, stream) : launch_shrink<ShrinkDecode>(l, device, stream);
}

// lora_expand adds v B^T and biases to y. The rows of y that no term covers
// are not touched.
inline cudaError_t lora_expand(const LoraLaunch &l, cudaStream_t stream) {
	DeviceShape device;
	if (!valid(l) || !l.y) {
		return cudaErrorInvalidValue;
	}
	const cudaError_t err = device_shape(&device);
	if (err != cudaSuccess) {
		return err;
	}
	const ExpandArgs args{l.terms, l.count, l.max_terms, l.scratch, l.y, l.ldy};
	const bool prefill = l.rows > kPrefillRows;
	void (*kernel)(ExpandArgs) = nullptr;
	if (l.y_float) {
		kernel = prefill ? expand_kernel<kPrefillRowTiles, float> : expand_kernel<kDecodeRowTiles, float>;
	} else {
		kernel = prefill ? expand_kernel<kPrefillRowTiles, bf16> : expand_kernel<kDecodeRowTiles, bf16>;
	}
	return launch(kernel, args, device.processors * 4, kExpandThreads, work_list_bytes(l.max_terms), 1, l.early && device.clusters, stream);
}

// lora_expand_silu writes act [rows, ldact] bf16 = silu(gate) * up of all
// `rows` rows, y [rows, 2*inter] bf16 with its terms added on the way; y stays
// as it is. Terms have column 0 or inter, ascend in row0, and those of one
// adapter have equal rows and stand side by side.
inline cudaError_t lora_expand_silu(const LoraLaunch &l, void *act, int32_t ldact, int32_t inter, cudaStream_t stream) {
	DeviceShape device;
	if (!valid(l) || !l.y || !act || l.y_float || inter < 1) {
		return cudaErrorInvalidValue;
	}
	const cudaError_t err = device_shape(&device);
	if (err != cudaSuccess) {
		return err;
	}
	const SiluArgs args{l.terms, l.count, l.max_terms, l.scratch, static_cast<const bf16 *>(l.y), static_cast<bf16 *>(act), l.ldy, ldact, l.rows, inter};
	void (*kernel)(SiluArgs) = l.rows > kPrefillRows ? expand_silu_kernel<kPrefillRowTiles> : expand_silu_kernel<kDecodeRowTiles>;
	return launch(kernel, args, device.processors * 4, kExpandThreads, work_list_bytes(l.max_terms), 1, l.early && device.clusters, stream);
}

} // namespace chorale::lora
