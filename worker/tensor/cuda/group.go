package cuda

import (
	"fmt"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// Join makes the backend one rank of g, which must be its only one.
func (b *Backend) Join(g collective.Group) error {
	if g == nil || g.Size() != 1 {
		return fmt.Errorf("cuda: a group of ranks: %w", tensor.ErrUnsupported)
	}
	b.group = g
	return nil
}

// Group is what was joined.
func (b *Backend) Group() collective.Group { return b.group }

// SplitVocab changes nothing: there is one rank.
func (s *stream) SplitVocab(int) {}

// AllReduce changes nothing: there is one rank.
func (s *stream) AllReduce(tensor.Buffer) {}

// AllGather is not here yet.
func (s *stream) AllGather(_, _ tensor.Buffer) {
	s.keep("AllGather", tensor.ErrUnsupported)
}
