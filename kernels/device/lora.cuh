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
// runs (programmatic dependent launch); it reads weights, terms and count
// before it waits. So a full dependency must lie between whatever wrote these
// and the first early launch after it; a copy in front of the chain is one.
#pragma once

#include "lora_shrink.cuh"
#include "lora_silu.cuh"

namespace chorale::lora {

// Rows of a step up to which the small and the middle tiles are taken.
constexpr int32_t kFewRows = 16, kDecodeRows = 256;

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

// Launch is a kernel's shape: `blocks` of them, or as many clusters of `cluster`
// blocks as the device holds at once. One more would start when the others have
// done their share, and double the time.
struct Launch {
	int blocks, threads;
	size_t shared;
	int cluster;
	bool early;
};

inline cudaError_t allow_shared(const void *kernel, size_t shared) {
	return shared <= 48 * 1024 ? cudaSuccess : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
}

template <class Args> cudaError_t launch(void (*kernel)(Args), const Args &args, const Launch &l, cudaStream_t stream) {
	cudaLaunchAttribute attributes[2] = {};
	cudaLaunchConfig_t config = {};
	config.gridDim = l.blocks;
	config.blockDim = l.threads;
	config.dynamicSmemBytes = l.shared;
	config.stream = stream;
	config.attrs = attributes;
	if (l.cluster > 1) {
		attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
		attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(l.cluster), 1, 1};
		struct Known { // the answer takes microseconds, and rarely changes
			const void *kernel;
			size_t shared;
			int clusters;
		};
		static thread_local Known known = {};
		if (known.kernel != reinterpret_cast<const void *>(kernel) || known.shared != l.shared) {
			int clusters = 0;
			cudaError_t err = allow_shared(reinterpret_cast<const void *>(kernel), l.shared);
			if (err == cudaSuccess) {
				err = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
			}
			if (err != cudaSuccess) {
				return err;
			}
			known = {reinterpret_cast<const void *>(kernel), l.shared, clusters};
		}
		config.gridDim = known.clusters * l.cluster;
	}
	if (l.early) {
		attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
		attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
	}
	return cudaLaunchKernelEx(&config, kernel, args);
}

inline bool valid(const LoraLaunch &l) {
	return l.terms && l.count && l.scratch && l.max_terms >= 1 && l.max_terms <= 4096 && l.rows >= 1;
}

template <class Shape, bool kClusters> cudaError_t launch_shrink(const LoraLaunch &l, const DeviceShape &device, cudaStream_t stream) {
	const ShrinkArgs args{l.terms, l.count, l.max_terms, static_cast<const bf16 *>(l.x), l.ldx, l.in, l.scratch};
	const size_t shared = ShrinkParts<Shape, kClusters>::kFloats * sizeof(float) + work_list_bytes(l.max_terms);
	const cudaError_t err = kClusters ? cudaSuccess : allow_shared(reinterpret_cast<const void *>(shrink_kernel<Shape, kClusters>), shared);
	if (err != cudaSuccess) {
		return err;
	}
	return launch(shrink_kernel<Shape, kClusters>, args, {device.processors * Shape::kBlocksPerSM, kShrinkThreads, shared, kClusters ? kShrinkBlocks : 1, kClusters && l.early}, stream);
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
	if (!device.clusters) { // the large tiles of a whole cluster do not fit one block
		return launch_shrink<ShrinkDecode, false>(l, device, stream);
	}
	return l.rows > kDecodeRows ? launch_shrink<ShrinkPrefill, true>(l, device, stream) : launch_shrink<ShrinkDecode, true>(l, device, stream);
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
	const bool early = l.early && device.clusters;
	const auto start = [&](auto shape) {
		using Shape = decltype(shape);
		void (*kernel)(ExpandArgs) = l.y_float ? expand_kernel<Shape, float> : expand_kernel<Shape, bf16>;
		return launch(kernel, args, {device.processors * Shape::kBlocksPerSM, kExpandThreads, work_list_bytes(l.max_terms), 1, early}, stream);
	};
	return l.rows <= kFewRows ? start(ExpandFew{}) : l.rows <= kDecodeRows ? start(ExpandSome{}) : start(ExpandMany{});
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
	const bool early = l.early && device.clusters;
	const auto start = [&](auto shape) {
		using Shape = decltype(shape);
		return launch(expand_silu_kernel<Shape>, args, {device.processors * Shape::kBlocksPerSM, kExpandThreads, work_list_bytes(l.max_terms), 1, early}, stream);
	};
	return l.rows <= kDecodeRows ? start(SiluFew{}) : start(SiluMany{});
}

} // namespace chorale::lora
