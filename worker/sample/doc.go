// Package sample turns a row of logits into a token. It works row by row and
// keeps no state but the sequence's own, so that a row's token never depends
// on its neighbours, and a token is a function of (logits, parameters, seed,
// position) alone: every rank of a worker group, and a router that continues
// an answer elsewhere, get the same one.
//
// Order of operations, as SGLang and vLLM have it: logit bias, penalties,
// bans (min tokens), temperature, top-k, top-p, min-p, draw. Log
// probabilities are those of the model's own logits, before any of this.
package sample
