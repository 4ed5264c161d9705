// Package cpu is the tensor backend of the processor that Chorale runs on.
//
// # Kernels
//
// One set of kernels is chosen per process start (see [Options.Kernel]):
//
//	amxbf16     weights and rounded activations through AMX tiles (TDPBF16PS)
//	avx512bf16  weights and rounded activations through VDPBF16PS
//	avx512f32   bfloat16 weights widened in registers, float32 activations, FMA
//	avx2        the same with 256-bit registers
//	go          plain Go; every architecture, no cgo; the oracle of the others
//
// In float32 precision the weights are float32 and the first two do not exist.
// Which of the AVX-512 sets is faster differs by machine: VDPBF16PS has twice
// the rate of float32 FMA on Zen 4 and 5 and half of it on Sapphire Rapids,
// whose tiles may be there or not, so "auto" measures all for a few milliseconds.
//
// Sums are kept in float32 everywhere. amxbf16 and avx512bf16 round the input rows of
// Linear to bfloat16 (nearest even); the other kernels use them unrounded.
// Everything outside Linear's products is float32 in all kernels.
//
// # Batch invariance
//
// A row's result never depends on its neighbours, on the chunk of a prompt, or
// on the number of threads, bit for bit. It holds by construction: every output
// has its own accumulators, and the order of additions is a function of the
// operand's shape alone.
//
//   - Linear: one accumulator per (row, column), over k in order.
//   - LoRA shrink: four accumulators per (row, rank), fixed by k modulo 8;
//     expand: one accumulator, over ranks in order, added to the finished base.
//   - Attention: online softmax over blocks of 8 tiles of 16 slots, cut at
//     absolute positions; a row skips the blocks it does not see.
//   - Norms and log-sum-exp: lanes fixed by the column index.
//
// # Memory
//
// Weights stay in panels of 32 output columns, the one copy that every kernel
// and the embedding look-up read. See matrix, loraPair and kvCache for the
// layouts. Large blocks ask for huge pages.
//
// # Threads
//
// The C kernels have one pool per backend, at most 128 threads of which share a
// Linear. The caller takes part; work is cut into pieces taken by atomic
// counters, so a thread that the system takes away delays one piece only. Idle
// threads spin for 80 microseconds, longer than the gaps inside a step, and then
// sleep: an idle server uses no processor time. A Linear with LoRA terms is one
// fork and join: shrink pieces are taken first, and a piece of the base product
// adds its expansions as soon as those are done.
//
// # Limits
//
// [MeasureLimits] measures what the machine could do at best. The figures of
// BenchmarkStep are shares of it.
package cpu
