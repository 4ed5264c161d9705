// Package engine is a worker group's loop: tokens in, tokens out.
//
//	absorb (inbox) → sched.Next (pure plan) → launch → land the step before → sched.Commit → one outputs message
//
// Where the stream's depth is 2, a step is planned and launched while the one
// before it is computed. The plan assumes that every sequence goes on with a
// token that only the device knows yet; the ends by length are known ahead. A
// sequence that turns out to have ended has a row too many in the step under
// way: its result is dropped, and its pages, adapter and lease are given back
// when that step has ended. No sequence is preempted while a step is under way.
//
// One goroutine, Run's, owns all state: sequences, scheduler, pages, adapter
// residency, the model's runner. Everybody else leaves closures in its inbox
// and goes on; the loop never waits for a client, a file or a lock that one
// holds. Outputs go to the connection that submitted the sequence, into a
// queue that holds at most what its sequences may produce, so a slow reader
// costs memory it was admitted for, and time only to itself.
//
// A sequence ends in exactly one function, Engine.end, which gives back its
// pages, its use of the device and its lease.
package engine
