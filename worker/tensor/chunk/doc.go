// Package chunk keeps one pool of physical memory, from which a paged cache and
// contiguous ranges take whole chunks and to which they give them back. All
// chunks are made when the pool is: taking one later cannot fail, it can only
// have to wait for those that were given back and are still mapped.
//
// What a chunk is and how it gets an address is a Device's: CUDA virtual memory
// on a GPU, anonymous mappings on the CPU. Mapping takes a GPU's host some tens
// of microseconds a chunk, so it happens where nobody waits for it: takers come
// on goroutines of their own, and givers leave the work to one that the pool
// starts while there is some.
//
// The pool does not decide who gets what; worker/memory does. Nor does it know
// what the device is doing: who gives a chunk back promises that no step that
// is running uses it.
package chunk
