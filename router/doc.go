// Package router is the core between clients and worker groups: text becomes
// tokens, requests queue, batches form by adapter set, answers become text.
//
// The router keeps the deep queue; a worker group is given only what keeps it
// busy. So fairness, affinity and retry are decided late, with the freshest
// picture, and a dead worker loses little.
//
// # Who owns what
//
// Submit checks, renders and tokenizes in the caller's goroutine. One
// goroutine, Run's, owns the queue and the groups' books; everybody else
// leaves closures in its inbox. Each worker group has a link: a goroutine that
// dials, receives, detokenizes and pushes events to the requests it carries.
// The catalogue of adapters is an immutable snapshot behind an atomic pointer.
//
// # Continuing after a loss
//
// The router knows the prompt and every token so far, and a token is a
// function of (tokens, adapter, parameters, seed, position) alone. When a
// group is lost its sequences go back to the front of the queue and are
// continued elsewhere, without a repeated or lost token.
package router
