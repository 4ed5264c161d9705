package group

import (
	"errors"
	"fmt"
	"sync/atomic"

	"chorale/worker/collective"
)

// ErrAlone reports an operation of a group whose ranks have not met yet.
var ErrAlone = errors.New("the ranks of the group have not met yet")

// Late is a rank's end of a group that is built later: models are loaded, which
// takes only number and size, before ranks meet. Operations then are the group's;
// before, they fail with ErrAlone.
type Late struct {
	rank, size int
	group      atomic.Pointer[collective.Group]
	counter    collective.Counter // of nothing
}

var _ collective.Group = (*Late)(nil)

// NewLate makes the end of a rank of size.
func NewLate(rank, size int) *Late { return &Late{rank: rank, size: size} }

// Set gives the group. It has the same rank and size.
func (l *Late) Set(g collective.Group) error {
	if g.Rank() != l.rank || g.Size() != l.size {
		return fmt.Errorf("rank %d of %d in the place of rank %d of %d: %w", g.Rank(), g.Size(), l.rank, l.size, collective.ErrShape)
	}
	l.group.Store(&g)
	return nil
}

// Rank is this rank's number.
func (l *Late) Rank() int { return l.rank }

// Size is the number of ranks.
func (l *Late) Size() int { return l.size }

func (l *Late) do(op func(collective.Group) error) error {
	if g := l.group.Load(); g != nil {
		return op(*g)
	}
	return ErrAlone
}

// AllReduce is collective.Group's, as are the next four.
func (l *Late) AllReduce(x []float32) error {
	return l.do(func(g collective.Group) error { return g.AllReduce(x) })
}

// ReduceScatter sums parts.
func (l *Late) ReduceScatter(dst, src []float32) error {
	return l.do(func(g collective.Group) error { return g.ReduceScatter(dst, src) })
}

// AllGather collects.
func (l *Late) AllGather(dst, src []byte) error {
	return l.do(func(g collective.Group) error { return g.AllGather(dst, src) })
}

// Broadcast copies.
func (l *Late) Broadcast(x []byte, root int) error {
	return l.do(func(g collective.Group) error { return g.Broadcast(x, root) })
}

// Barrier waits for all.
func (l *Late) Barrier() error { return l.do(collective.Group.Barrier) }

// Abort ends the group.
func (l *Late) Abort(reason string) {
	_ = l.do(func(g collective.Group) error { g.Abort(reason); return nil }) // alone there is nobody to tell
}

// Ended tells why the group is over.
func (l *Late) Ended() error {
	if g := l.group.Load(); g != nil {
		return (*g).Ended()
	}
	return nil
}

// Counts tells of the operations so far.
func (l *Late) Counts() collective.Counts {
	if g := l.group.Load(); g != nil {
		return (*g).Counts()
	}
	return l.counter.Counts()
}

// Close leaves the group.
func (l *Late) Close() error {
	if l.group.Load() == nil {
		return nil
	}
	return l.do(collective.Group.Close)
}
