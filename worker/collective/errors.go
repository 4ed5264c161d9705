package collective

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrAborted: the group is over. The error is an *AbortError.
	ErrAborted = errors.New("the group is over")
	// ErrTimeout: a rank did not arrive in time. The error is a *TimeoutError.
	ErrTimeout = errors.New("a rank did not arrive")
	// ErrMismatch: ranks called different operations, or sizes.
	ErrMismatch = errors.New("ranks called different operations")
	// ErrShape: arguments do not fit one another; nothing was sent.
	ErrShape = errors.New("sizes do not fit")
	// ErrLag: a follower is behind by the whole plan ring.
	ErrLag = errors.New("a follower lags")
	// ErrRole: only the leader publishes, only followers read.
	ErrRole = errors.New("not this rank's part")
	// ErrTooLong: a record does not fit into the plan ring; nothing was sent.
	ErrTooLong = errors.New("the plan is too long")
	// ErrUnsupported: this system has no such transport.
	ErrUnsupported = errors.New("not supported on this system")
)

// AbortError tells whose fault ended the group.
type AbortError struct {
	Rank   int
	Reason string
}

func (e *AbortError) Error() string {
	return fmt.Sprintf("the group is over: rank %d: %s", e.Rank, e.Reason)
}

// Is makes it an ErrAborted.
func (e *AbortError) Is(target error) bool { return target == ErrAborted }

// TimeoutError tells for whom an operation waited in vain.
type TimeoutError struct {
	Op    string
	Rank  int // the one that did not arrive
	After time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("%s: rank %d did not arrive within %v", e.Op, e.Rank, e.After)
}

// Is makes it an ErrTimeout.
func (e *TimeoutError) Is(target error) bool { return target == ErrTimeout }

// CheckScatter tells whether src is size times dst.
func CheckScatter(dst, src, size int) error {
	if dst*size != src {
		return fmt.Errorf("%d elements for each of %d ranks are not %d: %w", dst, size, src, ErrShape)
	}
	return nil
}

// CheckRoot tells whether there is such a rank.
func CheckRoot(root, size int) error {
	if root < 0 || root >= size {
		return fmt.Errorf("no rank %d among %d: %w", root, size, ErrShape)
	}
	return nil
}
