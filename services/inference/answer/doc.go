// Package answer reads what the router answers: all answers of a call at once
// (Collect) or piece by piece in the order they are made (Each). Both end with
// every handle closed, so that a client that went away, a failed write or a
// failed neighbour aborts whatever still runs.
package answer
