// Package shm is the transport between processes of one machine.
//
// # Memory
//
// The leader makes a file without a name (memfd) and hands its descriptor to
// the others; the kernel frees it when the last of them has gone, however it
// went. It holds a head (who ended the group and why), a block of words for
// each rank, the ring of plans, and for each rank a ring of slots for tensors.
//
// # A sum
//
// Tensors go piece by piece through the slots. Of a piece, a rank copies to its
// slot what the others have to add (of N parts all but its own), adds its own
// part from everybody's slots into its slot's gap, and copies the other sums
// from there. Three counters per rank tell how many pieces it has put, summed
// and taken; a slot is used again when everybody has taken the piece before
// last. So copying piece i, adding piece i-1 and collecting piece i-2 of
// different ranks overlap. Short sums are done by everybody in full, which saves
// the second wait; the bits are the same.
//
// # Waiting
//
// A wait asks again for a while and then sleeps on a word of its own, its bell,
// in which it says for whom it waits; whoever advances a counter rings only
// bells that say so. Ends of the group ring all.
//
// # Life
//
// Each rank counts up a word of its own, and looks at the others'. One that
// stands still for Options.Stall is given up: its process is stopped or the
// machine is overrun. Dead processes are noticed at once by whoever holds a
// connection to them (rendezvous) and calls Blame.
package shm
