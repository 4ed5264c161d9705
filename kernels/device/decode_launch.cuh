// Launches products of decode rows.
#pragma once

#include "decode_product.cuh"
#include "lora.cuh"

namespace chorale::decode {

// Cut says how a product is dealt out to blocks; which is fastest depends on
// shape and device.
struct Cut {
	int warps;    // 32 columns each, at most kMostWarps
	int split;    // blocks that share a tile, at most 8
	bool cluster; // they are a cluster (sm_90)
};

// Rows that the kernel takes; more are another product's.
constexpr int32_t kMostRows = 64;

inline int64_t blocks_of(int32_t out, const Cut &cut) { return static_cast<int64_t>(parts_of(out, cut.warps * kWarpRows)) * cut.split; }

// memory_of is the shared memory of a block. max_terms 0: without adapters.
template <class S> int64_t memory_of(const Cut &cut, int32_t max_terms) {
	return static_cast<int64_t>(S::kStages) * stage_bytes<S>(cut.warps * 32) + (max_terms > 0 ? list_bytes(max_terms) : 0);
}

// serves says whether a shape can be dealt out so: a block must have more base
// stages than its ring before it may look at v, and all that wait for each
// other must be on the device at once, `resident` blocks being what it holds.
template <class S> bool serves(int32_t out, int32_t in, const Cut &cut, bool adapters, int64_t resident) {
	const int64_t blocks = blocks_of(out, cut);
	if (in / S::kDepth / cut.split < (adapters ? S::kStages : 1)) {
		return false;
	}
	return (!adapters && cut.split == 1) || (blocks <= resident && blocks <= kMostBlocks);
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
	config.blockDim = cut.warps * 32;
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

// launch_product starts a product whose y is of type Out. `early` (sm_90): it
// may begin while the launch before still runs.
template <class S, class Out> cudaError_t launch_product(DecodeArgs args, const Cut &cut, bool early, cudaStream_t stream) {
	args.split = cut.split;
	const bool cluster = cut.cluster && cut.split > 1;
	if (args.terms) {
		return cluster ? launch_kernel<S, Out, true, true>(args, cut, early, stream) : launch_kernel<S, Out, false, true>(args, cut, early, stream);
	}
	return cluster ? launch_kernel<S, Out, true, false>(args, cut, early, stream) : launch_kernel<S, Out, false, false>(args, cut, early, stream);
}

} // namespace chorale::decode
