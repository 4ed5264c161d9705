// Package tcp is the transport between processes of several machines: every rank
// has a connection to every other, and followers one more to the leader, for
// plans.
//
// # A sum
//
// Tensors go in pieces. Of a piece, a rank sends each other rank the part that
// this one adds up, adds its own part in the order of ranks, and sends the sum to
// all: two messages' delay whatever the number of ranks, and the bytes of a ring.
// Piece i is sent before the sums of piece i-2 are waited for. Short sums are
// sent in full to everybody, which saves one delay; the bits are the same.
//
// # Nobody blocks anybody
//
// Each connection has a goroutine that always reads. That takes little memory:
// no rank is more than a few pieces ahead of another, since every operation but
// a broadcast needs all ranks, and a broadcast waits for answers.
//
// # Faults
//
// A rank that has nothing to send says so ten times within Options.Stall; whoever
// is not heard of for that long is given up. Bytes are sent as they lie in
// memory: all ranks have the same byte order, which is checked.
package tcp
