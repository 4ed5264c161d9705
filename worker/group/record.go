package group

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"chorale/worker/collective"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/tensor"
)

// ErrRecord reports a plan that cannot be read.
var ErrRecord = errors.New("a step's plan is broken")

// A record is words of 32 bits in the machine's own order, so that most of it is
// copied on one side and looked at in place on the other. It begins with its
// kind.
const (
	recStep = iota + 1 // a whole step
	recPart            // a piece of one that is longer than a record may be; more follow
	recLast            // the last piece
)

// head is a step's fixed part, in words.
type head struct {
	kind                                 uint32
	ids, seqs, segs, rows, rowSegs, asks uint32
	step, landed                         uint32 // low words of the counts: they only grow by one
	_                                    uint32
}

const headWords = int(unsafe.Sizeof(head{}) / 4)

// words appends to a record.
type words []uint32

func (w *words) put(v ...uint32) { *w = append(*w, v...) }
func (w *words) int(v int)       { *w = append(*w, uint32(v)) }
func (w *words) f32(v float32)   { *w = append(*w, math.Float32bits(v)) }
func (w *words) f64(v float64) {
	b := math.Float64bits(v)
	*w = append(*w, uint32(b), uint32(b>>32))
}

func (w *words) ints(v []int32) {
	if len(v) > 0 {
		*w = append(*w, unsafe.Slice((*uint32)(unsafe.Pointer(&v[0])), len(v))...)
	}
}

// sized appends a slice with its length.
func (w *words) sized(v []int32) {
	w.int(len(v))
	w.ints(v)
}

// bytes shows the record.
func (w words) bytes() []byte { return collective.Bytes(w) }

// encode writes a step. number gives the numbers of adapters.
func (w *words) encode(s *decoder.Step, asks []tensor.SampleRow, step, landed uint64, number func(*nn.Adapter) uint32) {
	b := &s.Batch
	*w = (*w)[:0]
	w.put(recStep, uint32(len(b.IDs)), uint32(len(b.Seqs)), uint32(len(s.Segments)), uint32(len(s.LogitRows)),
		uint32(len(s.LogitSegments)), uint32(len(asks)), uint32(step), uint32(landed), 0)
	w.ints(b.IDs)
	w.ints(b.Pos)
	for i := range b.Seqs {
		q := &b.Seqs[i]
		w.put(uint32(q.QStart), uint32(q.QLen), uint32(q.CtxLen))
		w.sized(q.Pages)
	}
	w.segments(s.Segments, number)
	w.ints(s.LogitRows)
	w.segments(s.LogitSegments, number)
	for i := range asks {
		w.ask(&asks[i])
	}
}

func (w *words) segments(segs []nn.Segment, number func(*nn.Adapter) uint32) {
	for _, sg := range segs {
		w.put(uint32(sg.Start), uint32(sg.End), number(sg.Adapter))
	}
}

// Bits of an ask's first word: which parts follow.
const (
	askGiven = 1 << iota
	askAdjusted
	askBans
	askDrawn
	askReports
)

// ask writes what is asked of one row; most rows ask for little.
func (w *words) ask(r *tensor.SampleRow) {
	at := len(*w)
	bits := uint32(0)
	w.put(0, uint32(r.Token), uint32(r.Last))
	if r.Given {
		bits |= askGiven
	}
	if len(r.Adjust) > 0 || r.Repetition != 0 || r.Frequency != 0 || r.Presence != 0 {
		bits |= askAdjusted
		w.f32(r.Repetition)
		w.f32(r.Frequency)
		w.f32(r.Presence)
		w.int(len(r.Adjust))
		for i := range r.Adjust {
			w.adjust(&r.Adjust[i])
		}
	}
	if len(r.Ban) > 0 {
		bits |= askBans
		w.sized(r.Ban)
	}
	if r.Temperature != 0 || r.TopK != 0 || r.TopP != 0 || r.MinP != 0 || r.U != 0 {
		bits |= askDrawn
		w.f64(r.Temperature)
		w.int(r.TopK)
		w.f64(r.TopP)
		w.f64(r.MinP)
		w.f64(r.U)
	}
	if r.Top != 0 || len(r.IDs) > 0 {
		bits |= askReports
		w.int(r.Top)
		w.sized(r.IDs)
	}
	(*w)[at] = bits
}

// seenBit is Adjust.Seen beside the count, which is never negative.
const seenBit = 1 << 31

func (w *words) adjust(a *tensor.Adjust) {
	count := uint32(a.Count)
	if a.Seen {
		count |= seenBit
	}
	w.put(uint32(a.ID), math.Float32bits(a.Bias), count)
}

// reader takes a record apart. Its slices show the record's memory. After the
// first thing that is not there it gives zeros, and broken says so.
type reader struct {
	w      []uint32
	broken bool
}

// wordsOf looks at a record as words.
func wordsOf(b []byte) ([]uint32, error) {
	if len(b)%4 != 0 || len(b) == 0 {
		return nil, fmt.Errorf("%d bytes: %w", len(b), ErrRecord)
	}
	if uintptr(unsafe.Pointer(&b[0]))%4 != 0 {
		w := make([]uint32, len(b)/4)
		copy(collective.Bytes(w), b)
		return w, nil
	}
	return unsafe.Slice((*uint32)(unsafe.Pointer(&b[0])), len(b)/4), nil
}

func (r *reader) take(n int) []uint32 {
	if n < 0 || n > len(r.w) {
		r.broken = true
		r.w = nil
		return nil
	}
	v := r.w[:n:n]
	r.w = r.w[n:]
	return v
}

func (r *reader) word() uint32 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) int() int { return int(int32(r.word())) }

func (r *reader) f32() float32 { return math.Float32frombits(r.word()) }

func (r *reader) f64() float64 {
	lo := r.word()
	return math.Float64frombits(uint64(lo) | uint64(r.word())<<32)
}

func (r *reader) ints(n int) []int32 {
	v := r.take(n)
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*int32)(unsafe.Pointer(&v[0])), len(v))
}

func (r *reader) sized() []int32 { return r.ints(r.int()) }

// frame is a step that was read, with memory that is used again. It shows the
// record's bytes, which must stay as they are meanwhile.
type frame struct {
	decoder.Step
	record       []byte // what all this shows
	asks         []tensor.SampleRow
	adjusts      []tensor.Adjust
	sampled      []tensor.Sampled
	step, landed uint32
}

// decode reads a step. adapter finds adapters by their numbers.
func (f *frame) decode(record []byte, adapter func(number uint32) (*nn.Adapter, error)) error {
	w, err := wordsOf(record)
	if err != nil {
		return err
	}
	if len(w) < headWords || w[0] != recStep {
		return fmt.Errorf("%d words: %w", len(w), ErrRecord)
	}
	h := (*head)(unsafe.Pointer(&w[0]))
	r := &reader{w: w[headWords:]}
	f.step, f.landed = h.step, h.landed
	b := &f.Batch
	b.IDs, b.Pos = r.ints(int(h.ids)), r.ints(int(h.ids))
	b.Seqs = sized(b.Seqs, int(h.seqs), len(r.w))
	for i := range b.Seqs {
		b.Seqs[i] = tensor.Seq{QStart: r.int(), QLen: r.int(), CtxLen: r.int(), Pages: r.sized()}
	}
	if f.Segments, err = r.segments(f.Segments, int(h.segs), adapter); err != nil {
		return err
	}
	f.LogitRows = r.ints(int(h.rows))
	if f.LogitSegments, err = r.segments(f.LogitSegments, int(h.rowSegs), adapter); err != nil {
		return err
	}
	f.asks = sized(f.asks, int(h.asks), len(r.w))
	f.sampled = sized(f.sampled, int(h.asks), len(r.w))
	clear(f.sampled)
	f.adjusts = f.adjusts[:0]
	for i := range f.asks {
		f.ask(r, &f.asks[i])
	}
	if r.broken || len(r.w) > 0 {
		return fmt.Errorf("%d words, %d left: %w", len(w), len(r.w), ErrRecord)
	}
	return nil
}

// sized makes room for n elements, each of which takes a word of the left at
// least.
func sized[T any](s []T, n, left int) []T {
	n = min(n, left)
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

func (r *reader) segments(segs []nn.Segment, n int, adapter func(uint32) (*nn.Adapter, error)) ([]nn.Segment, error) {
	segs = sized(segs, n, len(r.w))
	for i := range segs {
		s := nn.Segment{Start: r.int(), End: r.int()}
		number := r.word()
		if r.broken {
			return nil, fmt.Errorf("%d segments: %w", n, ErrRecord)
		}
		var err error
		if s.Adapter, err = adapter(number); err != nil {
			return nil, err
		}
		segs[i] = s
	}
	return segs, nil
}

func (f *frame) ask(r *reader, a *tensor.SampleRow) {
	bits := r.word()
	*a = tensor.SampleRow{Given: bits&askGiven != 0, Token: int32(r.word()), Last: r.int()}
	if bits&askAdjusted != 0 {
		a.Repetition, a.Frequency, a.Presence = r.f32(), r.f32(), r.f32()
		a.Adjust = f.adjust(r)
	}
	if bits&askBans != 0 {
		a.Ban = r.sized()
	}
	if bits&askDrawn != 0 {
		a.Temperature, a.TopK, a.TopP, a.MinP, a.U = r.f64(), r.int(), r.f64(), r.f64(), r.f64()
	}
	if bits&askReports != 0 {
		a.Top, a.IDs = r.int(), r.sized()
	}
}

func (f *frame) adjust(r *reader) []tensor.Adjust {
	n := r.int()
	if n <= 0 || n > len(r.w)/3 {
		r.broken = r.broken || n != 0
		return nil
	}
	from := len(f.adjusts)
	for range n {
		a := tensor.Adjust{ID: int32(r.word()), Bias: r.f32()}
		count := r.word()
		a.Count, a.Seen = int32(count&^seenBit), count&seenBit != 0
		f.adjusts = append(f.adjusts, a)
	}
	return f.adjusts[from:len(f.adjusts):len(f.adjusts)]
}

// digest is of the tokens of a step.
func digest(out []tensor.Sampled) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a, a token at a time
	h := uint64(offset)
	for i := range out {
		h = (h ^ uint64(uint32(out[i].Token))) * prime
	}
	return h
}
