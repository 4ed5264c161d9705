package cuda

import "chorale/worker/tensor"

// Options configure New.
type Options struct {
	// Device counts the visible GPUs from 0.
	Device int
	// Precision must be tensor.BF16.
	Precision tensor.Precision
	// Deterministic makes rows independent of their company, bit for bit.
	Deterministic bool
	// Tune measures product kernels when a shape is first used (some 20 ms
	// each) instead of taking cuBLASLt's first guess.
	Tune bool
	// NoGraphs has every step launched operation by operation.
	NoGraphs bool
	// Depth of streams: 1 to wait for each step before the next is launched; 0 is
	// 2.
	Depth int
	// CacheDir keeps measurements from run to run; empty for not.
	CacheDir string
	// Library is the path of libchorale_kernels.so; empty looks beside the
	// program, in ../lib, and in build.
	Library string
	// NCCL is the path of libnccl; empty leaves it to the loader.
	NCCL string
	// Sums says how the ranks of a group sum.
	Sums Sums
	// Peers says whether small sums go through memory that GPUs see of each other.
	Peers Peers
	// SumBF16 has GPUs send what is summed over ranks as bfloat16: half the bytes,
	// results within its rounding.
	SumBF16 bool
	// SumAlone has a group of one rank do all that several would: for tests.
	SumAlone bool
	// CuBLASLt is the path of libcublasLt; empty leaves it to the loader.
	CuBLASLt string
}
