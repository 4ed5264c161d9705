// Launches products of decode rows.
#pragma once

#include "decode_product.cuh"
#include "lora.cuh"

namespace chorale::decode {

// Cut says how a product is dealt out to blocks; which is fastest depends on
// shape and device.
struct Cut {
	int warps;    // 32 columns each, at most kMostWarps
	int split;    // blocks that share a tile, at most kMostSplit
	bool cluster; // they are a cluster (sm_90)
};

// Rows that the kernel takes; more are another product's.
constexpr int32_t kMostRows = 64;

inline int64_t blocks_of(int32_t out, const Cut &cut) { return static_cast<int64_t>(parts_of(out, cut.warps * kWarpRows)) * cut.split; }

// memory_of is the shared memory of a block. max_terms 0: without adapters.
template <class S> int64_t memory_of(const Cut &cut, int32_t max_terms) {
	return 1024 + static_cast<int64_t>(S::kStages) * stage_bytes<S>(cut.warps * kWarpRows) + (max_terms > 0 ? list_bytes(max_terms) + kShrinkWarps * S::kTiles * 512 : 0);
}

// serves says whether a shape can be dealt out so: every block needs something
// to sum, and expand must not be among the first stages, which are filled before
// there is v.
template <class S> bool serves(int32_t out, int32_t in, const Cut &cut, bool adapters) {
	return in / S::kDepth / cut.split >= (adapters ? S::kStages - 1 : 1) && ((!adapters && cut.split == 1) || blocks_of(out, cut) <= kMostBlocks);
}

template <class S, class Out, bool kCluster, bool kAdapters> cudaError_t launch_kernel(const DecodeArgs &args, const Cut &cut, bool early, cudaStream_t stream) {
	void (*kernel)(DecodeArgs) = decode_kernel<S, Out, kCluster, kAdapters>;
	const size_t shared = memory_of<S>(cut, kAdapters ? args.max_terms : 0);
	const cudaError_t e = lora::allow_shared(reinterpret_cast<const void *>(kernel), shared);
	if (e != cudaSuccess) {
		return e;
	}
	cudaLaunchAttribute attributes[2] = {};
	cudaLaunchConfig_t config = {};
	config.gridDim = static_cast<unsigned>(blocks_of(args.out, cut));
	config.blockDim = (cut.warps + (kAdapters ? kShrinkWarps : 0)) * 32;
	config.dynamicSmemBytes = shared;
	config.stream = stream;
	config.attrs = attributes;
	if (kCluster) {
		attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
		attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(cut.split), 1, 1};
	}
	if (early) {
		attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
		attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
	}
	return cudaLaunchKernelEx(&config, kernel, args);
}

// resident_blocks is how many blocks the device holds at once, 0 if none fits.
// max_terms 0: without adapters.
template <class S, bool kCluster, bool kAdapters, class Out> int64_t resident_of(const Cut &cut, int32_t max_terms, int32_t processors) {
	void (*kernel)(DecodeArgs) = decode_kernel<S, Out, kCluster, kAdapters>;
	const size_t shared = memory_of<S>(cut, max_terms);
	const int threads = (cut.warps + (kAdapters ? kShrinkWarps : 0)) * 32;
	int n = 0;
	cudaError_t e = lora::allow_shared(reinterpret_cast<const void *>(kernel), shared);
	if (e == cudaSuccess && !kCluster) {
		e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, kernel, threads, shared);
		n *= processors;
	} else if (e == cudaSuccess) {
		cudaLaunchAttribute attribute = {};
		attribute.id = cudaLaunchAttributeClusterDimension;
		attribute.val.clusterDim = {static_cast<unsigned>(cut.split), 1, 1};
		cudaLaunchConfig_t config = {};
		config.gridDim = cut.split * processors, config.blockDim = threads, config.dynamicSmemBytes = shared;
		config.attrs = &attribute, config.numAttrs = 1;
		e = cudaOccupancyMaxActiveClusters(&n, kernel, &config);
		n *= cut.split;
	}
	if (e != cudaSuccess) {
		cudaGetLastError();
		return 0;
	}
	return n;
}

template <class S, class Out> int64_t resident_blocks(const Cut &cut, int32_t max_terms, int32_t processors) {
	const bool cluster = cut.cluster && cut.split > 1;
	if (max_terms > 0) {
		return cluster ? resident_of<S, true, true, Out>(cut, max_terms, processors) : resident_of<S, false, true, Out>(cut, max_terms, processors);
	}
	return cluster ? resident_of<S, true, false, Out>(cut, 0, processors) : resident_of<S, false, false, Out>(cut, 0, processors);
}

// launch_product starts a product whose y is of type Out. `early` (sm_90): it
// may begin while the launch before still runs.
template <class S, class Out> cudaError_t launch_product(DecodeArgs args, const Cut &cut, bool early, cudaStream_t stream) {
	args.split = cut.split, args.cols = cut.warps * kWarpRows;
	const bool cluster = cut.cluster && cut.split > 1;
	if (args.terms) {
		return cluster ? launch_kernel<S, Out, true, true>(args, cut, early, stream) : launch_kernel<S, Out, false, true>(args, cut, early, stream);
	}
	return cluster ? launch_kernel<S, Out, true, false>(args, cut, early, stream) : launch_kernel<S, Out, false, false>(args, cut, early, stream);
}

} // namespace chorale::decode
