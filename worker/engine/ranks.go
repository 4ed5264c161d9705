package engine

import (
	"errors"
	"fmt"

	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
)

// ErrGroup reports a worker group that is over because of one of its ranks. All
// its sequences may be continued elsewhere.
var ErrGroup = errors.New("the worker group is lost")

// Ranks are the other ranks of a tensor-parallel group, which do to their
// devices what the engine does to its own (group.Leader). Step, Landed, Shrink
// and Fail are called on the engine's goroutine and wait for no rank.
type Ranks interface {
	// Fit makes a layout one that all ranks have memory for, and has the others
	// make their pools; Same checks that they are like the engine's.
	Fit(l *tensor.MemoryLayout) error
	Same(m tensor.Memory) error
	// Step has the others compute a step that the engine is about to launch;
	// Landed notes that the oldest one has ended.
	Step(s *decoder.Step, asks []tensor.SampleRow) error
	Landed(out []tensor.Sampled)
	// Grow has the others bring groups of the cache and returns when all have;
	// Shrink has them give groups back.
	Grow(groups []int32) error
	Shrink(groups []int32)
	// Fail ends the group. Over is closed when it has ended, of whatever; Err
	// tells then.
	Fail(err error)
	Over() <-chan struct{}
	Err() error
}

// alone is a group of one rank.
type alone struct{}

func (alone) Fit(*tensor.MemoryLayout) error               { return nil }
func (alone) Same(tensor.Memory) error                     { return nil }
func (alone) Step(*decoder.Step, []tensor.SampleRow) error { return nil }
func (alone) Landed([]tensor.Sampled)                      {}
func (alone) Grow([]int32) error                           { return nil }
func (alone) Shrink([]int32)                               {}
func (alone) Fail(error)                                   {}
func (alone) Over() <-chan struct{}                        { return nil }
func (alone) Err() error                                   { return nil }

// grouped tells whether there are other ranks.
func (e *Engine) grouped() bool { return e.ranks != alone{} }

// watchGroup ends the loop when the group is over while nothing is computed.
func (e *Engine) watchGroup() {
	select {
	case <-e.ranks.Over():
		e.do(e.groupLost)
	case <-e.done:
	}
}

// groupLost notes that the group is over.
func (e *Engine) groupLost() {
	if e.lost == nil {
		e.lost = fmt.Errorf("%w: %w", ErrGroup, e.ranks.Err())
	}
}

// broken ends the group of a step that failed: what the other ranks made of it
// nobody knows.
func (e *Engine) broken(err error) {
	e.ranks.Fail(err)
	e.groupLost()
}
