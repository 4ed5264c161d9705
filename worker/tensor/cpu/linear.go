package cpu

import (
	"chorale/worker/tensor"
)

// Linear multiplies and adds the LoRA terms.
func (s *stream) Linear(dst, x tensor.Buffer, w tensor.Matrix, bias tensor.Vector, lora []tensor.LoRATerm) {
	const op = "Linear"
	if !s.ready(op) {
		return
	}
	d, in, m := s.buf(op, "destination", dst), s.buf(op, "input", x), s.mat(op, w)
	if s.err != nil {
		return
	}
	if d == in || in.cols != m.in {
		s.fail(op, "x [%d, %d], w [%d, %d]; destination and input must differ", in.rows, in.cols, m.out, m.in)
		return
	}
	if !s.size(op, d, in.rows, m.out) {
		return
	}
	var base *vector
	if bias != nil {
		if base = s.vec(op, "bias", bias, m.out); base == nil {
			return
		}
	}
	lora, ok := s.partCuts(op, lora, in.rows, m.in, m.out)
	if !ok {
		return
	}
	terms, values, ok := s.checkTerms(op, lora, in.rows, m.in, m.out, false)
	if !ok || in.rows == 0 || !s.shadow(in) || !s.reserve(op, values) {
		return
	}
	var scratch []float32
	if values > 0 {
		scratch = s.scratch.floats(values)
	}
	d.fresh = false
	s.keep(s.b.k.linear(d, in, m, base, terms, scratch))
	s.addCuts(op, d, in)
}

// shadow makes sure that the rounded copy of x is there when the kernels use it.
func (s *stream) shadow(x *buffer) bool {
	if !s.b.k.rounds() || x.fresh {
		return true
	}
	if x.shadow == nil {
		if err := x.makeShadow(); err != nil {
			s.err = err
			return false
		}
	}
	s.keep(s.b.k.round(x))
	x.fresh = true
	return true
}

// reserve makes room for the LoRA intermediates of one call.
func (s *stream) reserve(op string, values int) bool {
	if values == 0 || s.scratch != nil && len(s.scratch.bytes) >= values*4 {
		return true
	}
	s.scratch.release()
	mem, err := newBlock(values*3/2, 4)
	if err != nil {
		s.scratch, s.err = nil, err
		return false
	}
	s.scratch = mem
	return true
}

// checkTerms checks the terms of one call on rows of depth in and width out. It
// returns how many intermediate values they need.
func (s *stream) checkTerms(op string, lora []tensor.LoRATerm, rows, in, out int, embedding bool) ([]term, int, bool) {
	s.terms = s.terms[:0]
	values := 0
	for i, l := range lora {
		t := term{start: l.Start, end: l.End, offset: l.Offset}
		if l.Pair != nil {
			pair, ok := l.Pair.(*loraPair)
			if !ok || pair == nil || pair.in != in || pair.embedding != embedding || !pair.a.live(s.b.precision) {
				return nil, 0, s.fail(op, "LoRA term %d is not a pair of this backend for %d inputs", i, in)
			}
			t.pair, t.out = pair, pair.out
		}
		if l.Bias != nil {
			bias, ok := l.Bias.(*vector)
			if !ok || bias == nil || t.pair != nil && bias.Len() != t.out {
				return nil, 0, s.fail(op, "LoRA term %d has an unfit bias", i)
			}
			t.bias, t.out = bias, bias.Len()
		}
		if l.Start < 0 || l.Start > l.End || l.End > rows || l.Offset < 0 || t.out > out-l.Offset {
			return nil, 0, s.fail(op, "LoRA term %d covers rows %d:%d of %d and columns %d+%d of %d",
				i, l.Start, l.End, rows, l.Offset, t.out, out)
		}
		if l.Start == l.End || t.out == 0 {
			continue
		}
		t.at = values
		if t.pair != nil {
			values += (t.end - t.start) * t.pair.rank
		}
		s.terms = append(s.terms, t)
	}
	return s.terms, values, true
}
