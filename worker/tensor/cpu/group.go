package cpu

import (
	"fmt"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// Join makes the backend one rank of g.
func (b *Backend) Join(g collective.Group) error {
	if g == nil {
		return fmt.Errorf("cpu: joining no group: %w", tensor.ErrUnsupported)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.joined || len(b.streams) > 0 {
		return fmt.Errorf("cpu: joining a group a second time, or after streams were made: %w", tensor.ErrUnsupported)
	}
	b.group, b.joined = g, true
	return nil
}

// Group is what was joined.
func (b *Backend) Group() collective.Group { return b.group }

// SplitVocab shares a vocabulary out.
func (s *stream) SplitVocab(total int) {
	if total <= 0 {
		s.fail("SplitVocab", "%d tokens", total)
		return
	}
	s.vocab = total
}

// split tells whether n rows of a table, or columns of logits, are a rank's part
// of a vocabulary; vocab is the size of the whole.
func (s *stream) split(op string, n int) (vocab int, split, ok bool) {
	size := s.b.group.Size()
	if s.vocab == 0 || size == 1 {
		return n, false, true
	}
	if n*size < s.vocab {
		return 0, true, s.fail(op, "%d tokens on each of %d ranks, the vocabulary has %d", n, size, s.vocab)
	}
	return s.vocab, true, true
}

// AllReduce sums x over ranks.
func (s *stream) AllReduce(x tensor.Buffer) {
	const op = "AllReduce"
	if s.b.group.Size() == 1 || !s.ready(op) {
		return
	}
	b := s.buf(op, "operand", x)
	if b == nil {
		return
	}
	b.fresh = false
	if err := s.b.group.AllReduce(b.data[:b.rows*b.cols]); err != nil {
		s.lost(op, err)
	}
}

// lost keeps an error of the group.
func (s *stream) lost(op string, err error) { s.keep(fmt.Errorf("cpu: %s: %w", op, err)) }

// AllGather puts all ranks' columns side by side.
func (s *stream) AllGather(dst, src tensor.Buffer) {
	const op = "AllGather"
	if !s.ready(op) {
		return
	}
	d, x := s.buf(op, "destination", dst), s.buf(op, "source", src)
	if s.err != nil {
		return
	}
	size := s.b.group.Size()
	if d == x {
		s.fail(op, "destination and source must differ")
		return
	}
	if !s.size(op, d, x.rows, size*x.cols) || x.rows == 0 {
		return
	}
	d.fresh = false
	n := x.rows * x.cols
	if size == 1 {
		copy(d.data[:n], x.data[:n])
		return
	}
	s.gathered = grow(s.gathered, size*n)
	if err := s.b.group.AllGather(collective.Bytes(s.gathered), collective.Bytes(x.data[:n])); err != nil {
		s.lost(op, err)
		return
	}
	for r := range size {
		for t := range x.rows {
			copy(d.row(t)[r*x.cols:], s.gathered[r*n+t*x.cols:][:x.cols])
		}
	}
}

func grow(v []float32, n int) []float32 {
	if cap(v) < n {
		return make([]float32, n)
	}
	return v[:n]
}

// own turns the step's ids into rows of this rank's part of a table. others are
// the rows of the step that other ranks have; they get row 0.
func (s *stream) own(n int) []int32 {
	first := int32(s.b.group.Rank() * n)
	s.local, s.others = s.local[:0], s.others[:0]
	for t, id := range s.ids {
		if id -= first; id < 0 || int(id) >= n {
			id = 0
			s.others = append(s.others, t)
		}
		s.local = append(s.local, id)
	}
	return s.local
}
