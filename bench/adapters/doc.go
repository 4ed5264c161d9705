// Package adapters measures what many registered adapters cost: how long one
// more takes to load, the list, a watch's first picture and its news, the
// manager's start, memory per adapter; what requests wait while others are
// loaded; and the time from the call that loads an adapter to its first token.
//
// It starts a worker, an adapter manager and a router of its own, on a model of
// noise, so that each one's memory is its own; everything goes the way of every
// client, over HTTP. Adapters are folders on the local disk whose pages the system
// has cached.
//
// Requests beside loads are compared with requests alone in rounds that
// alternate, and what counts is the ratio within a round's pair: the machine may
// be somebody else's at the same time.
package adapters
