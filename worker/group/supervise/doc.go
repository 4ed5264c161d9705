// Package supervise starts a group's rank processes of one machine, and starts
// all of them again when one ends.
//
// The supervisor is a process without model or device, so nothing that breaks a
// rank breaks it, and it is the parent of rank 0 too: a leader that was killed or
// stands still is replaced like any other. Each rank holds one end of a socket,
// over which it learns what it is to be and says what became of it. A rank ends
// at once when that socket does, and the kernel kills it when its parent dies, so
// no kill of any of them leaves another behind.
//
// When one rank ends, the group is over: the others get a moment to say so to
// whoever they serve, are killed, and all begin anew after a pause that grows
// while starts keep failing. A group that never was ready is not started again:
// its options are wrong.
package supervise
