package group

import (
	"errors"
	"fmt"

	"chorale/worker/collective"
)

// ErrOver reports a group that has ended. The error is a *Fault.
var ErrOver = errors.New("the worker group is over")

// Fault tells why a group ended.
type Fault struct {
	// Rank is the one at fault, -1 where nobody knows whose.
	Rank   int
	Reason string
	err    error
}

func (f *Fault) Error() string {
	if f.Rank < 0 {
		return f.Reason
	}
	return fmt.Sprintf("rank %d: %s", f.Rank, f.Reason)
}

// Is makes it an ErrOver.
func (f *Fault) Is(target error) bool { return target == ErrOver }

// Unwrap gives what was found first, if anything.
func (f *Fault) Unwrap() error { return f.err }

// InOrder tells whether nothing was wrong: the leader has left.
func (f *Fault) InOrder() bool { return f.Rank == 0 && f.Reason == ErrLeft.Error() }

// faultOf makes a fault of whatever ended a group; own is the rank at fault when
// the error does not say.
func faultOf(err error, own int) *Fault {
	var f *Fault
	var a *collective.AbortError
	var t *collective.TimeoutError
	var d *collective.DisagreeError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &a):
		return &Fault{a.Rank, a.Reason, err}
	case errors.As(err, &t):
		return &Fault{t.Rank, fmt.Sprintf("did not arrive at %s within %v", t.Op, t.After), err}
	case errors.As(err, &d):
		return &Fault{-1, d.Error(), err}
	}
	return &Fault{own, err.Error(), err}
}
