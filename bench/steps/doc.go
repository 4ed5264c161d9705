// Package steps measures an engine's steps in this process, on weights of noise:
// no router, no HTTP. A cell is a batch of B decoding sequences that share D
// adapters of a rank at a context; all run at once, and the time from one token
// of a sequence to its next is a step as everybody sees it, host included.
//
// # Roofline
//
// The ratio is a step's time over what it must take: the matrix products at this
// batch, measured alone in the same run; the cached keys and values and the
// distinct adapters' A and B, their bytes over the device's bandwidth, measured
// in the same run too. Norms, rotation, sampling and everything the host does is
// in the step and not in the floor.
//
// Overhead is the step over that with the same batch and context without
// adapters. Prefill is the time to the first token of one prompt on an idle
// engine.
package steps
