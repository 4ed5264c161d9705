// Package engine is a worker group's loop: tokens in, tokens out.
//
//	absorb (inbox) → sched.Next (pure plan) → forward → sample → sched.Commit → one outputs message
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
