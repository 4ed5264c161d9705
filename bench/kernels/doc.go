// Package kernels measures a layer's matrix products and what LoRA adds to
// them, through tensor.Backend, so on a CPU and on a GPU alike.
//
// A measurement is one step of many equal operations: on a GPU they go over in
// one submission, recorded as a graph, so what the host does does not count,
// and what one submission costs at all is measured and taken off. The
// operations walk through several layers' weights and adapters, enough of them
// that none is still in a cache when its turn comes again. Each product is
// followed by what follows it in a model (rotation, residual and norm,
// activation), with and without LoRA alike, because that is where a backend may
// put a part of LoRA's work; added time is the difference of the two.
//
// # Mixes
//
// How B rows share adapters: distinct (each its own), uniform (⌈√B⌉ adapters
// with equally many rows), skewed (each adapter has 1.5 times the rows of the
// next), identical (all one). Punica §7 has the same four.
//
// # Floors
//
// A product must read its weight once, LoRA each distinct adapter's A and B once:
// bytes over the device's bandwidth, which is measured in the same run, are the
// floors. A ratio of 1 cannot be beaten; adapters small enough for their time to
// hide behind the product can seem to.
package kernels
