// Package collective is how the ranks of one worker group talk: sums and copies
// of tensors between all of them, and the leader's step plans to the others.
//
// A Group is one rank's end. All ranks call the same operations in the same
// order with the same sizes, as in MPI; a rank that does not is found out
// (ErrMismatch). Sums add rank 0's term, then rank 1's, and so on, whatever the
// transport, the size or the rank that computes them: every rank gets the same
// bits, and they are the same over shared memory and over TCP.
//
// # Faults
//
// A group lives as long as all its ranks do. The first fault ends it for good:
// a rank that calls Abort or Close, whose process ends, that stands still
// (Options.Stall), or that does not arrive at an operation (Options.Timeout).
// Whoever waits is freed at once, everybody gets an AbortError that names the
// rank at fault, and what comes next is a new group.
//
// # Transports
//
//   - shm: processes of one machine, through memory that has no name and so
//     cannot be left behind.
//   - tcp: processes anywhere; each rank has a connection to each other.
//
// rendezvous brings the ranks together, assemble picks the transport. NCCL, on
// the GPU's own stream, is in the kernel library (chorale_comm.h); its id
// travels with the rendezvous.
package collective
