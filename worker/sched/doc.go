// Package sched decides what a step computes. It is pure: no goroutine, clock,
// logger or device; the same calls give the same plans, which is how its golden
// scripts test it.
//
// A sequence waits, runs, and ends. Next first gives every running sequence
// that decodes its one token, then spends what is left of the token budget on
// prompt chunks of running sequences, then admits waiting ones, in order of
// arrival. So prefill and decode share a step and a long prompt never stalls
// those who are already talking.
//
// Three limits bound a plan:
//
//   - tokens: MaxBatchTokens rows;
//   - pages: when the cache is full the youngest running sequence is preempted:
//     its pages are released and it is computed again later (batch invariance
//     makes the second computation equal the first, bit for bit);
//     When the cache can grow (Memory), it grows first, and the sequence waits
//     for the pages that come;
//   - adapters: at most MaxAdapters distinct ones in a step. When more are
//     running, those that have waited longest for a step go first, so that all
//     take turns.
//
// A sequence whose adapter is not on the device is parked: it keeps its place
// while others are admitted past it. If no adapter can make room because all
// are in use, and this lasts StarveSteps steps, one of them is drained: its
// waiting sequences are held back until its running ones have ended. Where
// adapters and pages share memory, that may not be enough; then nobody is
// admitted until it is.
package sched
