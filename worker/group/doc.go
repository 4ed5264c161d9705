// Package group makes several processes one worker: the ranks of a tensor
// parallel group, each with its slice of the model on a device of its own.
//
// Rank 0, the leader, has the engine, which decides everything as if it were
// alone. What it does to its device, the others do to theirs:
//
//   - Steps are records of collective.Plans: the integers of a batch, the
//     adapters by number, what is asked of each row of logits. A follower
//     computes them with the same decoder.Runner, in the same order.
//   - Everything else goes beside the steps, over two connections per follower
//     (lanes): one for adapters' weights, one for the short commands: bring an
//     adapter onto the device or take it off, bring groups of the cache or give
//     them back. The leader uses nothing before all have acknowledged it, so a
//     step never waits for such a command; and a command that takes something
//     away says which step was the last to use it, and waits for that one.
//
// Every follower sends digests of the tokens that it drew. When they are not the
// leader's, the group ends with a report of the step and what each rank had.
//
// # Faults
//
// A group lives as long as all its ranks: see worker/collective. After the first
// fault the leader's engine ends as it does when its device is lost, so the
// router continues its sequences elsewhere; the processes end, and their
// supervisor (package supervise) starts them again.
//
// # Order at the start
//
// A rank knows its number before it loads its slice of the model, and meets the
// others after: Late is a collective.Group that is told apart. Then the leader
// asks everybody how much memory is left, and all make the same pool.
package group
