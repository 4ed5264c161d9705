// Package cuda is the tensor.Backend of one NVIDIA GPU, in bfloat16. The kernels
// are in kernels/, built into a library of their own that is loaded when a
// backend is made: the same program runs with and without a GPU.
//
// # Record, then submit
//
// A call into C costs microseconds and a step has hundreds of operations. So a
// Stream's methods only check their operands and append a small struct; the
// list goes over in one call when somebody wants results (Host, Err, Finish) or
// launches the step. Two steps may be launched: the tables may be written again
// when the device has copied them, and results have two buffers.
//
// What differs from step to step (ids, positions, page tables, rows to gather,
// LoRA terms) is in tables, which are copied to the device when the list is
// submitted. An operation holds only what is the same for every step of its
// kind: addresses, shapes, and the number of rows, rounded up to a bucket.
// Therefore two decode steps of one bucket have equal lists, byte by byte, and
// that is how the library knows that it may replay a recorded CUDA graph. No
// caller knows of graphs, and adapters that come and go change no list.
//
// Padded rows are computed and never looked at; those kernels that write to the
// cache leave them out.
//
// # Ranks
//
// Sums and copies between the ranks of a group, and the exchanges by which they
// draw one token, are operations in the list too, and so in the graphs: by NCCL,
// through memory that GPUs see of each other, or through the group on the host. The
// first stream sets that up, when the ranks have met; a goroutine watches the group
// and frees the device when it is over.
//
// # Precision
//
// Weights, adapters, cache and Act buffers are bfloat16; Wide buffers, norms,
// softmax and all sums are float32.
//
// # Company
//
// The fastest product for 64 rows adds in another order than that for 8, so by
// default a row's result depends on the number of rows beside it, within the
// rounding of bfloat16. Options.Deterministic takes one kernel per weight
// instead, and the contract of package tensor holds bit for bit.
package cuda
