package cpu

import (
	"fmt"
	"math"
	"slices"

	"chorale/worker/sample"
	"chorale/worker/tensor"
)

// stream checks every operand and hands it to the kernels, which run at once.
type stream struct {
	b         *Backend
	maxTokens int
	ropes     []tensor.RopeSpec
	batch     *tensor.Batch
	err       error

	// Per rope, [maxTokens, HeadDim/2] for the step's rows.
	cosSin []*block
	// places of the step's rows for pageSize; 0 when not computed yet.
	places   []rowPlace
	pageSize int
	// covered says that the step's sequences cover its rows.
	covered bool

	terms   []term
	scratch *block // LoRA intermediates

	sampler sample.Sampler
	stats   []tensor.LogitStat
	// tokens are those that the step sampled, before those of the step before it.
	tokens, before []int32
	ids            []int32 // of the step, all known

	flights []error // of launched steps, which are computed by then

	// Of a group of ranks: the vocabulary that is split, 0 for none; scratch.
	vocab    int
	local    []int32
	others   []int
	gathered []float32
	sharded  sample.Sharded
	cuts     cuts
}

// NewStream makes a stream for steps of at most maxTokens rows.
func (b *Backend) NewStream(maxTokens int, ropes []tensor.RopeSpec) (tensor.Stream, error) {
	if maxTokens <= 0 {
		return nil, fmt.Errorf("cpu: stream of %d tokens: %w", maxTokens, tensor.ErrShape)
	}
	s := &stream{b: b, maxTokens: maxTokens, ropes: ropes}
	for i, r := range ropes {
		if len(r.InvFreq) == 0 {
			s.free()
			return nil, fmt.Errorf("cpu: rope %d has no frequencies: %w", i, tensor.ErrShape)
		}
		mem, err := newBlock(2*maxTokens*len(r.InvFreq), 4)
		if err != nil {
			s.free()
			return nil, fmt.Errorf("cpu: rope %d: %w", i, err)
		}
		s.cosSin = append(s.cosSin, mem)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams = append(b.streams, s)
	return s, nil
}

func (s *stream) free() {
	for _, m := range s.cosSin {
		m.release()
	}
	s.scratch.release()
	s.cuts.free()
}

// fail keeps the first error. It returns false so that checks can end with it.
func (s *stream) fail(op, format string, args ...any) bool {
	if s.err == nil {
		s.err = fmt.Errorf("cpu: %s: %s: %w", op, fmt.Sprintf(format, args...), tensor.ErrShape)
	}
	return false
}

// Begin starts a step and computes its rotary angles.
func (s *stream) Begin(b *tensor.Batch) {
	s.batch, s.pageSize, s.covered = nil, 0, false
	s.tokens, s.before = s.before[:0], s.tokens
	if s.err != nil {
		return
	}
	if b == nil || len(b.IDs) != len(b.Pos) || len(b.IDs) == 0 || len(b.IDs) > s.maxTokens {
		if b == nil {
			b = &tensor.Batch{}
		}
		s.fail("Begin", "%d ids, %d positions, at most %d rows", len(b.IDs), len(b.Pos), s.maxTokens)
		return
	}
	if !s.checkSeqs(b) || !s.resolve(b.IDs) {
		return
	}
	s.batch = b
	for i, r := range s.ropes {
		half := len(r.InvFreq)
		angles(s.cosSin[i].floats(2*s.maxTokens*half), s.maxTokens*half, r, b.Pos)
	}
}

// resolve puts the tokens of the step before in the place of negative ids.
func (s *stream) resolve(ids []int32) bool {
	s.ids = append(s.ids[:0], ids...)
	for t, id := range ids {
		if id >= 0 {
			continue
		}
		if n := -1 - int(id); n < len(s.before) {
			s.ids[t] = s.before[n]
		} else {
			return s.fail("Begin", "row %d is token %d of the step before, which sampled %d", t, n, len(s.before))
		}
	}
	return true
}

// angles fills cos (from 0) and sin (from sinAt), [T, HeadDim/2] each, the way
// transformers does: the product in float32, then cos and sin, then the scale.
func angles(dst []float32, sinAt int, r tensor.RopeSpec, pos []int32) {
	half := len(r.InvFreq)
	for t, p := range pos {
		for i, f := range r.InvFreq {
			sin, cos := math.Sincos(float64(f * float32(p)))
			dst[t*half+i] = float32(cos) * r.Scale
			dst[sinAt+t*half+i] = float32(sin) * r.Scale
		}
	}
}

// checkSeqs checks that the sequences, when there are any, cover the rows in
// order and agree with the positions.
func (s *stream) checkSeqs(b *tensor.Batch) bool {
	row := 0
	for i, q := range b.Seqs {
		if q.QStart != row || q.QLen <= 0 || q.QLen > len(b.IDs)-row || q.CtxLen < q.QLen {
			return s.fail("Begin", "sequence %d has rows %d+%d and context %d; the batch has %d rows and row %d is next",
				i, q.QStart, q.QLen, q.CtxLen, len(b.IDs), row)
		}
		for j := range q.QLen {
			if int(b.Pos[row+j]) != q.CtxLen-q.QLen+j {
				return s.fail("Begin", "row %d of sequence %d has position %d, want %d", row+j, i, b.Pos[row+j], q.CtxLen-q.QLen+j)
			}
		}
		row += q.QLen
	}
	if len(b.Seqs) > 0 && row != len(b.IDs) {
		return s.fail("Begin", "sequences cover %d of %d rows", row, len(b.IDs))
	}
	s.covered = len(b.Seqs) > 0
	return true
}

// keep keeps an error of the kernels, unless there is one already.
func (s *stream) keep(err error) {
	if s.err == nil {
		s.err = err
	}
}

// ready reports whether an operation should run, and fails without a step.
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
	if !ok || b == nil || b.data == nil {
		s.fail(op, "%s is not a live buffer of this backend", name)
		return nil
	}
	return b
}

// vec returns the backend's vector behind v of length n, or nil after failing.
func (s *stream) vec(op, name string, v tensor.Vector, n int) *vector {
	w, ok := v.(*vector)
	if !ok || w == nil || len(w.data) != n {
		s.fail(op, "%s is not a vector of %d values", name, n)
		return nil
	}
	return w
}

// mat returns the backend's matrix behind m, or nil after failing.
func (s *stream) mat(op string, m tensor.Matrix) *matrix {
	w, ok := m.(*matrix)
	if !ok || w == nil || !w.w.live(s.b.precision) {
		s.fail(op, "the weight is not a matrix of this backend's precision")
		return nil
	}
	return w
}

// size sets dst's rows after checking its capacity and columns.
func (s *stream) size(op string, dst *buffer, rows, cols int) bool {
	if rows > dst.cap || dst.cols != cols {
		return s.fail(op, "destination holds [%d, %d], result is [%d, %d]", dst.cap, dst.cols, rows, cols)
	}
	dst.rows = rows
	return true
}

// Embed looks up the step's ids.
func (s *stream) Embed(dst tensor.Buffer, table tensor.Matrix, lora []tensor.LoRATerm) {
	const op = "Embed"
	if !s.ready(op) {
		return
	}
	d, m := s.buf(op, "destination", dst), s.mat(op, table)
	if s.err != nil || !s.size(op, d, len(s.batch.IDs), m.in) {
		return
	}
	vocab, split, ok := s.split(op, m.out)
	if !ok {
		return
	}
	for t, id := range s.ids {
		if id < 0 || int(id) >= vocab {
			s.fail(op, "row %d has id %d, the table has %d", t, id, vocab)
			return
		}
	}
	terms, _, ok := s.checkTerms(op, lora, d.rows, m.out, m.in, true)
	if !ok {
		return
	}
	d.fresh = false
	if !split {
		s.keep(s.b.k.embed(d, m, s.ids, terms))
		return
	}
	s.keep(s.b.k.embed(d, m, s.own(m.out), terms))
	for _, t := range s.others {
		clear(d.row(t))
	}
}

// RMSNorm writes dst = x / rms(x) * w.
func (s *stream) RMSNorm(dst, x tensor.Buffer, w tensor.Vector, eps float32) {
	s.norm("RMSNorm", dst, x, nil, w, eps)
}

// AddRMSNorm adds delta to residual and writes its norm.
func (s *stream) AddRMSNorm(dst, residual, delta tensor.Buffer, w tensor.Vector, eps float32) {
	if delta == nil && s.err == nil {
		s.fail("AddRMSNorm", "delta is nil")
	}
	s.norm("AddRMSNorm", dst, residual, delta, w, eps)
}

func (s *stream) norm(op string, dst, x, delta tensor.Buffer, w tensor.Vector, eps float32) {
	if !s.ready(op) {
		return
	}
	d, in := s.buf(op, "destination", dst), s.buf(op, "input", x)
	if s.err != nil {
		return
	}
	var add *buffer
	if delta != nil {
		if add = s.buf(op, "delta", delta); add == nil {
			return
		}
		if add.rows != in.rows || add.cols != in.cols || add == in {
			s.fail(op, "residual [%d, %d], delta [%d, %d]", in.rows, in.cols, add.rows, add.cols)
			return
		}
	}
	v := s.vec(op, "weight", w, in.cols)
	if v == nil || !s.size(op, d, in.rows, in.cols) {
		return
	}
	if delta != nil {
		in.fresh = false
	}
	s.keep(s.b.k.norm(d, in, add, v, eps))
	d.fresh = d.shadow != nil
}

// RopeKV finishes q and k and writes k and v to the cache.
func (s *stream) RopeKV(qkv tensor.Buffer, kv tensor.KV, r tensor.RopeKV) {
	const op = "RopeKV"
	if !s.ready(op) {
		return
	}
	x, c := s.attentionOperands(op, qkv, kv, r.Layer, r.Heads)
	if s.err != nil {
		return
	}
	if r.Rope < 0 || r.Rope >= len(s.ropes) || 2*len(s.ropes[r.Rope].InvFreq) != c.layout.HeadDim {
		s.fail(op, "rope %d of %d does not turn heads of %d", r.Rope, len(s.ropes), c.layout.HeadDim)
		return
	}
	half := c.layout.HeadDim / 2
	angles := s.cosSin[r.Rope].floats(2 * s.maxTokens * half)
	j := ropeJob{
		qkv: x, kv: c, layer: r.Layer, heads: r.Heads, eps: r.Eps, places: s.places,
		cos: angles[:s.maxTokens*half], sin: angles[s.maxTokens*half:],
	}
	if r.QNorm != nil {
		j.qNorm = s.vec(op, "q norm", r.QNorm, c.layout.HeadDim)
	}
	if r.KNorm != nil {
		j.kNorm = s.vec(op, "k norm", r.KNorm, c.layout.HeadDim)
	}
	if s.err != nil {
		return
	}
	x.fresh = false
	s.keep(s.b.k.ropeKV(&j))
}

// attentionOperands checks what RopeKV and Attention share.
func (s *stream) attentionOperands(op string, qkv tensor.Buffer, kv tensor.KV, layer, heads int) (*buffer, *kvCache) {
	x := s.buf(op, "qkv", qkv)
	c, ok := kv.(*kvCache)
	if !ok || c == nil || !c.w.live(s.b.precision) {
		s.fail(op, "not a cache of this backend's precision")
	}
	if s.err != nil {
		return nil, nil
	}
	l := c.layout
	if layer < 0 || layer >= l.Layers || heads <= 0 || heads%l.KVHeads != 0 {
		s.fail(op, "layer %d of %d, %d heads over %d kv heads", layer, l.Layers, heads, l.KVHeads)
		return nil, nil
	}
	if !s.covered || x.rows != len(s.batch.IDs) || x.cols != (heads+2*l.KVHeads)*l.HeadDim {
		s.fail(op, "qkv [%d, %d], want [%d, %d] covered by sequences", x.rows, x.cols, len(s.batch.IDs), (heads+2*l.KVHeads)*l.HeadDim)
		return nil, nil
	}
	if !s.place(op, l) {
		return nil, nil
	}
	return x, c
}

// place finds the cache page of every row and checks the page tables, once per
// step and page size.
func (s *stream) place(op string, l tensor.KVLayout) bool {
	if s.pageSize == l.PageSize {
		return true
	}
	s.places = s.places[:0]
	for i, q := range s.batch.Seqs {
		if len(q.Pages) < ceilDiv(q.CtxLen, l.PageSize) {
			return s.fail(op, "sequence %d has %d pages of %d for %d tokens", i, len(q.Pages), l.PageSize, q.CtxLen)
		}
		for j, p := range q.Pages[:ceilDiv(q.CtxLen, l.PageSize)] {
			if p < 0 || int(p) >= l.Pages {
				return s.fail(op, "page %d of sequence %d is %d, the cache has %d", j, i, p, l.Pages)
			}
		}
		for pos := q.CtxLen - q.QLen; pos < q.CtxLen; pos++ {
			s.places = append(s.places, rowPlace{pos: int32(pos), page: q.Pages[pos/l.PageSize]})
		}
	}
	s.pageSize = l.PageSize
	return true
}

// Attention attends over the cache.
func (s *stream) Attention(dst, qkv tensor.Buffer, kv tensor.KV, a tensor.AttentionSpec) {
	const op = "Attention"
	if !s.ready(op) {
		return
	}
	x, c := s.attentionOperands(op, qkv, kv, a.Layer, a.Heads)
	if s.err != nil {
		return
	}
	d := s.buf(op, "destination", dst)
	if d == nil || !s.size(op, d, x.rows, a.Heads*c.layout.HeadDim) {
		return
	}
	if d == x || a.Window < 0 {
		s.fail(op, "window %d; destination and input must differ", a.Window)
		return
	}
	s.keep(s.b.k.attention(&attentionJob{
		dst: d, qkv: x, kv: c, layer: a.Layer, heads: a.Heads,
		scale: a.Scale, window: a.Window, seqs: s.batch.Seqs,
	}))
	d.fresh = d.shadow != nil
}

// SiluMul writes dst = silu(gate) * up.
func (s *stream) SiluMul(dst, gateUp tensor.Buffer) {
	const op = "SiluMul"
	if !s.ready(op) {
		return
	}
	d, x := s.buf(op, "destination", dst), s.buf(op, "gateUp", gateUp)
	if s.err != nil {
		return
	}
	if x.cols%2 != 0 || d == x {
		s.fail(op, "gateUp has %d columns; destination and input must differ", x.cols)
		return
	}
	if s.size(op, d, x.rows, x.cols/2) {
		s.keep(s.b.k.siluMul(d, x))
		d.fresh = d.shadow != nil
	}
}

// GatherRows copies rows of src.
func (s *stream) GatherRows(dst, src tensor.Buffer, rows []int32) {
	const op = "GatherRows"
	if !s.ready(op) {
		return
	}
	d, x := s.buf(op, "destination", dst), s.buf(op, "source", src)
	if s.err != nil {
		return
	}
	if d == x {
		s.fail(op, "destination and source must differ")
		return
	}
	for i, r := range rows {
		if r < 0 || int(r) >= x.rows {
			s.fail(op, "row %d is %d, the source has %d", i, r, x.rows)
			return
		}
	}
	if !s.size(op, d, len(rows), x.cols) {
		return
	}
	d.fresh = false
	for i, r := range rows {
		copy(d.row(i), x.row(int(r)))
	}
}

// Host returns buf's rows. They are the buffer's own memory.
func (s *stream) Host(buf tensor.Buffer) []float32 {
	b, ok := buf.(*buffer)
	if !ok || b == nil || b.data == nil {
		s.fail("Host", "not a live buffer of this backend")
		return nil
	}
	b.fresh = false // the caller may write
	return b.data[:b.rows*b.cols]
}

// Err returns the step's first error so far.
func (s *stream) Err() error { return s.err }

// Depth is what the backend was told.
func (s *stream) Depth() int { return s.b.depth }

// Launch ends the step, which is computed already.
func (s *stream) Launch() {
	s.flights = append(s.flights, s.err)
	s.err, s.batch, s.covered = nil, nil, false
}

// Wait returns the first error of the oldest step that was launched.
func (s *stream) Wait() error {
	if len(s.flights) == 0 {
		return nil
	}
	err := s.flights[0]
	s.flights = slices.Delete(s.flights, 0, 1)
	return err
}

// Finish returns the first error of the step and those before it.
func (s *stream) Finish() error {
	s.Launch()
	var first error
	for len(s.flights) > 0 {
		if err := s.Wait(); first == nil {
			first = err
		}
	}
	return first
}
