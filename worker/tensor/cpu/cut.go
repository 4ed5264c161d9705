package cpu

import (
	"fmt"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// cutPair is an adapted module whose A and B the ranks share out. Both are kept
// like weights, because the intermediates leave the kernels between the two
// products.
type cutPair struct {
	cut           tensor.LoRACut
	rank, in, out int
	scale         float32
	a, b          *matrix // [cut.Rows, in], [out, rank]
}

func (p *cutPair) Rank() int    { return p.rank }
func (p *cutPair) In() int      { return p.in }
func (p *cutPair) Out() int     { return p.out }
func (p *cutPair) Bytes() int64 { return p.a.Bytes() + p.b.Bytes() }

func (p *cutPair) Free() {
	p.a.Free()
	p.b.Free()
}

// newCutPair packs this rank's part of a pair.
func (b *Backend) newCutPair(s *tensor.LoRASpec) (tensor.LoRAPair, error) {
	if s.Embedding || s.Cut > tensor.Summed || s.Rank <= 0 || s.Rank > maxRank {
		return nil, fmt.Errorf("cpu: cut %d of a LoRA of rank %d, of an embedding: %v: %w", s.Cut, s.Rank, s.Embedding, tensor.ErrUnsupported)
	}
	p := &cutPair{cut: s.Cut, rank: s.Rank, in: s.In, out: s.Out, scale: s.Scale}
	pack := func(out, in int, rows tensor.Rows) (*matrix, error) {
		m, err := b.NewMatrix(out, in, rows)
		if err != nil {
			return nil, err
		}
		return m.(*matrix), nil
	}
	var err error
	if p.a, err = pack(s.Cut.Rows(s.Rank, b.group.Size()), s.In, s.A); err != nil {
		return nil, fmt.Errorf("LoRA A: %w", err)
	}
	if p.b, err = pack(s.Out, s.Rank, s.B); err != nil {
		p.a.Free()
		return nil, fmt.Errorf("LoRA B: %w", err)
	}
	return p, nil
}

// cutTerm is a checked LoRATerm of a cutPair. Its intermediates, rows of
// cut.Rows values, are in cuts.own or cuts.sums from at.
type cutTerm struct {
	start, end, offset, at int
	*cutPair
}

// cuts is what a stream needs for cut pairs.
type cuts struct {
	terms []cutTerm
	plain []tensor.LoRATerm
	// own are this rank's intermediates that are gathered, into all, by rank; sums
	// are those that are added.
	own, all, sums []float32
	// in and out are buffers of cutRows rows by columns.
	in, out map[int]*buffer
}

// cutRows is how many rows the products of cut pairs have at a time.
const cutRows = 32

func (c *cuts) free() {
	for _, m := range []map[int]*buffer{c.in, c.out} {
		for _, b := range m {
			b.Free()
		}
	}
}

// partCuts keeps the terms of cut pairs for addCuts and gives the others, among
// which are the cut ones' biases.
func (s *stream) partCuts(op string, lora []tensor.LoRATerm, rows, in, out int) ([]tensor.LoRATerm, bool) {
	c := &s.cuts
	c.terms = c.terms[:0]
	for i := range lora {
		if _, ok := lora[i].Pair.(*cutPair); ok {
			return s.part(op, lora, rows, in, out)
		}
	}
	return lora, true
}

func (s *stream) part(op string, lora []tensor.LoRATerm, rows, in, out int) ([]tensor.LoRATerm, bool) {
	c := &s.cuts
	c.plain = c.plain[:0]
	own, sums := 0, 0
	for i, l := range lora {
		p, ok := l.Pair.(*cutPair)
		if !ok {
			c.plain = append(c.plain, l)
			continue
		}
		if p == nil || p.in != in || !p.a.w.live(s.b.precision) || l.Start < 0 || l.Start > l.End || l.End > rows || l.Offset < 0 || p.out > out-l.Offset {
			return nil, s.fail(op, "LoRA term %d, cut among ranks, does not fit [%d, %d] to [%d, %d]", i, rows, in, rows, out)
		}
		t := cutTerm{l.Start, l.End, l.Offset, own, p}
		n := (l.End - l.Start) * p.a.out
		if p.cut == tensor.Summed {
			t.at = sums
			sums += n
		} else {
			own += n
		}
		c.terms = append(c.terms, t)
		if l.Bias != nil {
			l.Pair = nil
			c.plain = append(c.plain, l)
		}
	}
	c.own, c.sums = grow(c.own, own), grow(c.sums, sums)
	return c.plain, true
}

// addCuts adds the cut terms to dst = x · wᵀ: this rank's part of the
// intermediates, a collective that joins them, and this rank's outputs.
func (s *stream) addCuts(op string, d, x *buffer) {
	c := &s.cuts
	if len(c.terms) == 0 || s.err != nil {
		return
	}
	for i := range c.terms {
		s.shrinkCut(x, &c.terms[i])
	}
	if s.err != nil {
		return
	}
	g := s.b.group
	if len(c.own) > 0 {
		c.all = grow(c.all, len(c.own)*g.Size())
		if err := g.AllGather(collective.Bytes(c.all), collective.Bytes(c.own)); err != nil {
			s.lost(op, err)
			return
		}
	}
	if len(c.sums) > 0 {
		if err := g.AllReduce(c.sums); err != nil {
			s.lost(op, err)
			return
		}
	}
	for i := range c.terms {
		s.expandCut(d, &c.terms[i])
	}
}

// shrinkCut computes this rank's intermediates of a term.
func (s *stream) shrinkCut(x *buffer, t *cutTerm) {
	n := t.a.out
	to := s.cuts.own
	if t.cut == tensor.Summed {
		to = s.cuts.sums
	}
	to = to[t.at : t.at+(t.end-t.start)*n]
	out := s.cutBuffer(&s.cuts.out, n)
	for row := t.start; row < t.end && s.err == nil; row += cutRows {
		part := x.rowsOf(row, min(row+cutRows, t.end))
		out.rows, out.fresh = part.rows, false
		s.keep(s.b.k.linear(out, part, t.a, nil, nil, nil))
		for i, v := range out.data[:part.rows*n] {
			to[(row-t.start)*n+i] = v * t.scale
		}
	}
}

// expandCut adds what a term's whole intermediates give.
func (s *stream) expandCut(d *buffer, t *cutTerm) {
	in, out := s.cutBuffer(&s.cuts.in, t.rank), s.cutBuffer(&s.cuts.out, t.out)
	for row := t.start; row < t.end && s.err == nil; row += cutRows {
		n := min(cutRows, t.end-row)
		in.rows, in.fresh, out.rows, out.fresh = n, false, n, false
		for i := range n {
			s.cuts.whole(in.row(i), t, row-t.start+i)
		}
		if !s.shadow(in) {
			return
		}
		s.keep(s.b.k.linear(out, in, t.b, nil, nil, nil))
		for i := range n {
			to := d.row(row + i)[t.offset:]
			for k, v := range out.row(i) {
				to[k] += v
			}
		}
	}
}

// whole writes a row's intermediates, all ranks' together.
func (c *cuts) whole(dst []float32, t *cutTerm, row int) {
	n := t.a.out
	at := t.at + row*n
	if t.cut == tensor.Summed {
		copy(dst, c.sums[at:at+n])
		return
	}
	for from := 0; from < t.rank; from += n { // the last rank's end in padding
		copy(dst[from:], c.all[at:at+n])
		at += len(c.own)
	}
}

// cutBuffer finds a buffer of so many columns.
func (s *stream) cutBuffer(m *map[int]*buffer, cols int) *buffer {
	if *m == nil {
		*m = map[int]*buffer{}
	}
	if b := (*m)[cols]; b != nil {
		return b
	}
	made, err := s.b.NewBuffer(tensor.Wide, cutRows, cols)
	if err != nil {
		s.keep(err)
		return &buffer{cols: cols, cap: cutRows, data: make([]float32, cutRows*cols)}
	}
	b := made.(*buffer)
	(*m)[cols] = b
	return b
}

// rowsOf is a part of a buffer's rows, in its memory.
func (b *buffer) rowsOf(from, to int) *buffer {
	v := &buffer{rows: to - from, cols: b.cols, cap: to - from, data: b.data[from*b.cols : to*b.cols], stride: b.stride, fresh: b.fresh}
	if b.shadow != nil {
		v.shadow = b.shadow[from*b.stride : to*b.stride]
	}
	return v
}
