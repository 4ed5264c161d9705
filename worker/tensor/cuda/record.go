package cuda

import (
	"chorale/worker/tensor"
)

// ready reports whether an operation should be recorded, and fails without a step.
func (s *stream) ready(op string) bool {
	if s.err != nil {
		return false
	}
	if s.batch == nil {
		return s.fail(op, "no step: Begin is missing")
	}
	return true
}

// buf returns the backend's buffer behind v, or nil after failing.
func (s *stream) buf(op, name string, v tensor.Buffer) *buffer {
	b, ok := v.(*buffer)
	if !ok || b == nil || b.at == 0 {
		s.fail(op, "%s is not a live buffer of this backend", name)
		return nil
	}
	return b
}

// act returns a buffer of kind Act, or nil after failing.
func (s *stream) act(op, name string, v tensor.Buffer) *buffer {
	b := s.buf(op, name, v)
	if b != nil && b.kind != tensor.Act {
		s.fail(op, "%s must be a buffer of kind Act", name)
		return nil
	}
	return b
}

// vec returns the backend's vector behind v of length n, or nil after failing.
func (s *stream) vec(op, name string, v tensor.Vector, n int) *vector {
	w, ok := v.(*vector)
	if !ok || w == nil || w.at == 0 || w.n != n {
		s.fail(op, "%s is not a vector of %d values", name, n)
		return nil
	}
	return w
}

// mat returns the backend's matrix behind m, or nil after failing.
func (s *stream) mat(op string, m tensor.Matrix) *matrix {
	w, ok := m.(*matrix)
	if !ok || w == nil || w.at == 0 {
		s.fail(op, "the weight is not a matrix of this backend")
		return nil
	}
	return w
}

// size sets dst's rows after checking its capacity and columns.
func (s *stream) size(op string, dst *buffer, rows, cols int) bool {
	if rows > dst.cap || dst.cols != cols {
		return s.fail(op, "destination holds [%d, %d], result is [%d, %d]", dst.cap, dst.cols, rows, cols)
	}
	if rows > s.maxTokens {
		return s.fail(op, "%d rows, the stream takes %d", rows, s.maxTokens)
	}
	dst.rows, dst.fresh = rows, false
	return true
}

// Embed looks up the step's ids.
func (s *stream) Embed(dst tensor.Buffer, table tensor.Matrix, lora []tensor.LoRATerm) {
	const name = "Embed"
	if !s.ready(name) {
		return
	}
	d, m := s.buf(name, "destination", dst), s.mat(name, table)
	if s.err != nil || !s.size(name, d, len(s.batch.IDs), m.in) {
		return
	}
	first, vocab, whole, ok := s.split(name, m.out)
	if !ok {
		return
	}
	for t, id := range s.batch.IDs {
		if int(id) >= vocab { // negative ones are tokens of the step before
			s.fail(name, "row %d has id %d, the table has %d", t, id, vocab)
			return
		}
	}
	o := op{kind: opEmbed, rows: s.rows, dst: d.view(), w: m.at}
	if !whole {
		o.in, o.out = int32(first), int32(m.out)
	}
	if o.slot, ok = s.terms(name, lora, d.rows, m.out, m.in, true); ok {
		s.record(o)
	}
}

// RMSNorm writes dst = x / rms(x) * w.
func (s *stream) RMSNorm(dst, x tensor.Buffer, w tensor.Vector, eps float32) {
	s.norm("RMSNorm", op{kind: opRMSNorm, eps: eps}, dst, x, nil, w)
}

// AddRMSNorm adds delta to residual and writes its norm.
func (s *stream) AddRMSNorm(dst, residual, delta tensor.Buffer, w tensor.Vector, eps float32) {
	if delta == nil && s.err == nil {
		s.fail("AddRMSNorm", "delta is nil")
	}
	s.norm("AddRMSNorm", op{kind: opAddRMSNorm, eps: eps}, dst, residual, delta, w)
}

func (s *stream) norm(name string, o op, dst, x, delta tensor.Buffer, w tensor.Vector) {
	if !s.ready(name) {
		return
	}
	d, in := s.buf(name, "destination", dst), s.buf(name, "input", x)
	if s.err != nil {
		return
	}
	if delta != nil {
		add := s.buf(name, "delta", delta)
		if add == nil {
			return
		}
		if add.rows != in.rows || add.cols != in.cols || add == in {
			s.fail(name, "residual [%d, %d], delta [%d, %d]", in.rows, in.cols, add.rows, add.cols)
			return
		}
		o.y = add.view()
	}
	v := s.vec(name, "weight", w, in.cols)
	if v == nil || !s.size(name, d, in.rows, in.cols) || in.rows == 0 {
		return
	}
	if delta != nil {
		in.fresh = false
	}
	o.rows, o.dst, o.x, o.w = int32(bucket(in.rows)), d.view(), in.view(), v.at
	s.record(o)
}

// Linear multiplies and adds the LoRA terms. x must be of kind Act.
func (s *stream) Linear(dst, x tensor.Buffer, w tensor.Matrix, bias tensor.Vector, lora []tensor.LoRATerm) {
	const name = "Linear"
	if !s.ready(name) {
		return
	}
	d, in, m := s.buf(name, "destination", dst), s.act(name, "input", x), s.mat(name, w)
	if s.err != nil {
		return
	}
	if d == in || in.cols != m.in {
		s.fail(name, "x [%d, %d], w [%d, %d]; destination and input must differ", in.rows, in.cols, m.out, m.in)
		return
	}
	if !s.size(name, d, in.rows, m.out) {
		return
	}
	o := op{kind: opLinear, rows: int32(bucket(in.rows)), dst: d.view(), x: in.view(), w: m.at, out: int32(pad8(m.out)), in: int32(pad8(m.in))}
	if bias != nil {
		base := s.vec(name, "bias", bias, m.out)
		if base == nil {
			return
		}
		o.bias = base.at
	}
	slot, ok := s.terms(name, lora, in.rows, m.in, m.out, false)
	if !ok || in.rows == 0 {
		return
	}
	o.slot = slot
	s.record(o)
}

// terms checks the terms of one call on rows of depth in and width out and
// writes them to their slot, whose number plus 1 it returns.
func (s *stream) terms(name string, lora []tensor.LoRATerm, rows, in, out int, embedding bool) (int32, bool) {
	if slot, ok := s.tables.again(lora, rows, in, out, embedding); ok {
		return slot, true
	}
	terms := s.termScratch[:0]
	for i, l := range lora {
		t := loraTerm{row0: int32(l.Start), rows: int32(l.End - l.Start), col: int32(l.Offset)}
		width := 0
		if l.Pair != nil {
			pair, ok := l.Pair.(*loraPair)
			if !ok || pair == nil || pair.in != in || pair.embedding != embedding || pair.at == 0 {
				return 0, s.fail(name, "LoRA term %d is not a pair of this backend for %d inputs", i, in)
			}
			width, t.a, t.b, t.rank, t.scale = pair.out, pair.at, pair.b, int32(pair.rank), pair.scale
		}
		if l.Bias != nil {
			bias, ok := l.Bias.(*vector)
			if !ok || bias == nil || bias.at == 0 || l.Pair != nil && bias.n != width {
				return 0, s.fail(name, "LoRA term %d has an unfit bias", i)
			}
			width, t.bias = bias.n, bias.at
		}
		if l.Start < 0 || l.Start > l.End || l.End > rows || l.Offset < 0 || width > out-l.Offset {
			return 0, s.fail(name, "LoRA term %d covers rows %d:%d of %d and columns %d+%d of %d", i, l.Start, l.End, rows, l.Offset, width, out)
		}
		if t.out = int32(width); l.Start < l.End && width > 0 {
			terms = append(terms, t)
		}
	}
	s.termScratch = terms
	slot, err := s.tables.terms(terms)
	if slot != 0 {
		s.tables.remember(lora, rows, in, out, embedding)
	}
	return slot, s.keep(name, err)
}

// RopeKV finishes q and k and writes k and v to the cache.
func (s *stream) RopeKV(qkv tensor.Buffer, kv tensor.KV, r tensor.RopeKV) {
	const name = "RopeKV"
	if !s.ready(name) {
		return
	}
	x, c := s.attentionOperands(name, qkv, kv, r.Layer, r.Heads)
	if s.err != nil {
		return
	}
	if r.Rope < 0 || r.Rope >= len(s.halves) || 2*s.halves[r.Rope] != c.layout.HeadDim {
		s.fail(name, "rope %d of %d does not turn heads of %d", r.Rope, len(s.halves), c.layout.HeadDim)
		return
	}
	o := op{kind: opRopeKV, rows: s.rows, dst: x.view(), cache: c.view(r.Layer), heads: int32(r.Heads), rope: int32(r.Rope), eps: r.Eps}
	if r.QNorm != nil {
		if v := s.vec(name, "q norm", r.QNorm, c.layout.HeadDim); v != nil {
			o.w = v.at
		}
	}
	if r.KNorm != nil {
		if v := s.vec(name, "k norm", r.KNorm, c.layout.HeadDim); v != nil {
			o.w2 = v.at
		}
	}
	if s.err == nil {
		x.fresh = false
		s.record(o)
	}
}

// attentionOperands checks what RopeKV and Attention share.
func (s *stream) attentionOperands(name string, qkv tensor.Buffer, kv tensor.KV, layer, heads int) (*buffer, *kvCache) {
	x := s.act(name, "qkv", qkv)
	c, ok := kv.(*kvCache)
	if !ok || c == nil || c.at == 0 {
		s.fail(name, "not a live cache of this backend")
	}
	if s.err != nil {
		return nil, nil
	}
	l := c.layout
	if layer < 0 || layer >= l.Layers || heads <= 0 || heads%l.KVHeads != 0 {
		s.fail(name, "layer %d of %d, %d heads over %d kv heads", layer, l.Layers, heads, l.KVHeads)
		return nil, nil
	}
	if want := (heads + 2*l.KVHeads) * l.HeadDim; !s.covered || x.rows != len(s.batch.IDs) || x.cols != want {
		s.fail(name, "qkv [%d, %d], want [%d, %d] covered by sequences", x.rows, x.cols, len(s.batch.IDs), want)
		return nil, nil
	}
	if !s.checkPages(name, l) {
		return nil, nil
	}
	return x, c
}

// checkPages checks the page tables, once per step and page size.
func (s *stream) checkPages(name string, l tensor.KVLayout) bool {
	if s.pageSize == l.PageSize {
		return true
	}
	for i, q := range s.batch.Seqs {
		n := (q.CtxLen + l.PageSize - 1) / l.PageSize
		if len(q.Pages) < n {
			return s.fail(name, "sequence %d has %d pages of %d for %d tokens", i, len(q.Pages), l.PageSize, q.CtxLen)
		}
		for j, p := range q.Pages[:n] {
			if p < 0 || int(p) >= l.Pages {
				return s.fail(name, "page %d of sequence %d is %d, the cache has %d", j, i, p, l.Pages)
			}
		}
	}
	s.pageSize = l.PageSize
	return true
}

// Attention attends over the cache.
func (s *stream) Attention(dst, qkv tensor.Buffer, kv tensor.KV, a tensor.AttentionSpec) {
	const name = "Attention"
	if !s.ready(name) {
		return
	}
	x, c := s.attentionOperands(name, qkv, kv, a.Layer, a.Heads)
	if s.err != nil {
		return
	}
	d := s.act(name, "destination", dst)
	if d == nil || !s.size(name, d, x.rows, a.Heads*c.layout.HeadDim) {
		return
	}
	if d == x || a.Window < 0 {
		s.fail(name, "window %d; destination and input must differ", a.Window)
		return
	}
	s.record(op{
		kind: opAttention, rows: s.rows, dst: d.view(), x: x.view(), cache: c.view(a.Layer),
		heads: int32(a.Heads), window: int32(a.Window), scale: a.Scale,
	})
}

// SiluMul writes dst = silu(gate) * up.
func (s *stream) SiluMul(dst, gateUp tensor.Buffer) {
	const name = "SiluMul"
	if !s.ready(name) {
		return
	}
	d, x := s.act(name, "destination", dst), s.act(name, "gateUp", gateUp)
	if s.err != nil {
		return
	}
	if x.cols%2 != 0 || d == x {
		s.fail(name, "gateUp has %d columns; destination and input must differ", x.cols)
		return
	}
	if s.size(name, d, x.rows, x.cols/2) && x.rows > 0 {
		s.record(op{kind: opSiluMul, rows: int32(bucket(x.rows)), dst: d.view(), x: x.view()})
	}
}

// GatherRows copies rows of src, at most as many as the step has.
func (s *stream) GatherRows(dst, src tensor.Buffer, rows []int32) {
	const name = "GatherRows"
	if !s.ready(name) {
		return
	}
	d, x := s.buf(name, "destination", dst), s.buf(name, "source", src)
	if s.err != nil {
		return
	}
	if d == x || len(rows) > int(s.rows) {
		s.fail(name, "%d rows in a step of %d; destination and source must differ", len(rows), len(s.batch.IDs))
		return
	}
	for i, r := range rows {
		if r < 0 || int(r) >= x.rows {
			s.fail(name, "row %d is %d, the source has %d", i, r, x.rows)
			return
		}
	}
	if !s.size(name, d, len(rows), x.cols) || len(rows) == 0 {
		return
	}
	if s.tables.lists == lists {
		s.flush()
	}
	s.record(op{kind: opGather, rows: int32(bucket(len(rows))), dst: d.view(), x: x.view(), list: s.tables.list(rows)})
}
