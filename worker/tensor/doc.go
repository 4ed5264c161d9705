// Package tensor is the seam between models and devices: a Backend owns
// memory and packed weights, a Stream runs about a dozen fused,
// destination-passing operations on them.
//
// The operations are those of a transformer block and no more: there is no
// general tensor algebra here, because a fluent API grows without end while a
// decode step needs few, large, fused calls. Models (worker/model) speak only
// to this package; worker/nn is the one place that builds LoRATerms.
//
// Every backend passes the suite in worker/tensor/conformance. Two properties
// are part of the contract and tested there:
//
//   - Batch invariance: a row's result is a function of that row, its own
//     context and its own adapter, bit for bit; neighbours in the batch,
//     chunking of a prompt and the number of threads never change it. A backend
//     may offer a faster mode in which this holds within stated bounds.
//   - First error wins: a Stream keeps its first error, later calls do nothing,
//     Finish reports it. A forward pass is checked once.
//
// A backend that has joined a group (worker/collective) is one rank of it. All
// ranks run the same operations in the same order; those that mean the group are
// AllReduce, AllGather, and Sample and LogitStats of a vocabulary that is split.
// An error that only one rank has leaves the others waiting in vain: whoever
// runs its steps then ends the group (Group.Abort).
//
// Index names are fixed throughout: t token row, h head, d channel in a head,
// p page, s slot in a page, r LoRA rank.
package tensor
