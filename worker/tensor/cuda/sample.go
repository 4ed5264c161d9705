package cuda

import (
	"math"
	"unsafe"

	"chorale/worker/sample"
	"chorale/worker/tensor"
)

// sink is where the results of a Sample go.
type sink struct {
	out   []tensor.Sampled
	stats []tensor.LogitStat // of LogitStats, which has no other results
	asked []answer
	width int // tokens of each rank, when each has a part of the results; else 0
}

// answer says where a row's results are among a step's, in words.
type answer struct {
	at, top int32 // top entries have room, of each rank
	most    int32 // entries that are wanted
	ids     []int32
}

const sampledWords = int32(unsafe.Sizeof(sampled{}) / 4)

// LogitStats is Sample of greedy rows whose tokens nobody wants.
func (s *stream) LogitStats(out []tensor.LogitStat, logits tensor.Buffer) {
	const name = "LogitStats"
	if !s.ready(name) {
		return
	}
	x := s.buf(name, "logits", logits)
	if x == nil {
		return
	}
	if len(out) != x.rows || x.rows > s.maxTokens {
		s.fail(name, "%d results for %d rows, at most %d", len(out), x.rows, s.maxTokens)
		return
	}
	s.sample(name, x, make([]tensor.SampleRow, len(out)), -1, sink{stats: out})
}

// Sample leaves the logits on the device; out is filled when the step ends.
func (s *stream) Sample(out []tensor.Sampled, logits tensor.Buffer, rows []tensor.SampleRow) {
	const name = "Sample"
	if !s.ready(name) {
		return
	}
	x := s.buf(name, "logits", logits)
	if x == nil {
		return
	}
	if x.kind != tensor.Wide {
		s.fail(name, "logits must be a buffer of kind Wide")
		return
	}
	_, vocab, _, ok := s.split(name, x.cols)
	if !ok {
		return
	}
	if err := tensor.CheckSample(x, vocab, s.maxTokens-int(s.drawn), int(s.before), out, rows); err != nil {
		s.fail(name, "%v", err)
		return
	}
	first := s.drawn
	s.drawn += int32(len(rows))
	x.fresh = false
	s.sample(name, x, rows, first, sink{out: out})
}

// sample writes a list of rows to the tables and records its operation. The
// tokens are numbered from first on; -1 numbers none.
func (s *stream) sample(name string, x *buffer, rows []tensor.SampleRow, first int32, to sink) {
	if len(rows) == 0 {
		return
	}
	from, vocab, whole, ok := s.split(name, x.cols)
	if !ok {
		return
	}
	if s.tables.draws == lists {
		s.flush()
	}
	w := &writer{t: &s.tables, first: from, cols: max(0, min(x.cols, vocab-from)), width: x.cols, vocab: vocab, parts: !whole}
	list, asked, err := s.tables.samples(rows, w, first)
	if !s.keep(name, err) {
		return
	}
	to.asked = asked
	o := op{kind: opSample, rows: int32(bucket(len(rows))), x: x.view(), list: list}
	if !whole {
		to.width = x.cols
		o.in, o.out, o.heads, o.window = int32(from), int32(vocab), w.draws, min(wholeRows(w.gathered), o.rows)
	}
	s.pending = append(s.pending, to)
	s.record(o)
}

// samples writes a list of rows and returns its number and where the results will
// be.
func (t *tables) samples(rows []tensor.SampleRow, w *writer, first int32) (int32, []answer, error) {
	bytes := len(rows) * int(unsafe.Sizeof(sampleRow{}))
	start, err := t.reserve(bytes + extra(rows))
	if err != nil {
		return 0, nil, err
	}
	list := int32(t.draws)
	t.draws++
	h := (*header)(unsafe.Pointer(&t.room.tables[t.layout.header]))
	h.samples[list] = samples{at: start, rows: int32(len(rows)), first: first}
	dst := at[sampleRow](t, start, len(rows))
	asked := make([]answer, len(rows))
	w.at = start + int32(bytes)
	for i := range rows {
		r := &rows[i]
		dst[i] = w.row(r)
		dst[i].out = t.words
		a := answer{at: t.words, top: min(dst[i].top, int32(w.width)), most: dst[i].top, ids: r.IDs}
		asked[i] = a
		t.words += sampledWords + 2*a.top + dst[i].idCount
	}
	if t.words > t.room.words {
		err = t.grow(room{words: t.words})
	}
	return list, asked, err
}

// extra bounds the bytes of the rows' lists.
func extra(rows []tensor.SampleRow) int {
	n := 0
	for i := range rows {
		r := &rows[i]
		n += (len(r.Adjust)+len(r.Ban))*int(unsafe.Sizeof(adjustment{})) + len(r.IDs)*4
	}
	return n
}

// writer lays the rows' lists out behind one another.
type writer struct {
	t  *tables
	at int32
	// The logits: the first token of this rank, how many there are here and at most
	// on a rank, and of all.
	first, cols, width, vocab int
	parts                     bool // other ranks have some of them
	// Of the rows written: how many must be drawn from whole, and whether any is
	// drawn at all.
	gathered, draws int32
}

// row writes a row's lists and gives the row.
func (w *writer) row(r *tensor.SampleRow) sampleRow {
	d := sampleRow{given: -1, last: -1, topP: 1, top: int32(min(r.Top, w.vocab))}
	d.ids, d.idCount = take(w, r.IDs)
	if r.Given {
		d.given = r.Token
		return d
	}
	d.u = r.U
	if !r.Greedy() {
		d.inverse, d.reach, d.minReach = float32(1/r.Temperature), sample.Reach(r), sample.MinReach(r)
		d.topP = r.TopP
		d.topK = int32(min(max(r.TopK, 0), math.MaxInt32))
		w.draws = 1
		if w.cut(r) {
			w.gathered++
			d.gathered = w.gathered
		}
	}
	d.last = int32(r.Last) - 1
	d.repetition, d.frequency, d.presence = r.Repetition, r.Frequency, r.Presence
	d.adjust = w.at
	for _, a := range r.Adjust {
		e := adjustment{id: a.ID, bias: a.Bias, count: a.Count}
		if a.Seen {
			e.seen = 1
		}
		d.adjusts += w.adjustment(e)
	}
	d.bans = w.at
	for _, id := range r.Ban {
		d.banCount += w.adjustment(adjustment{id: id})
	}
	return d
}

// cut tells whether a row that is shared out is drawn from whole: where top-k and
// top-p cut it no rank can tell alone.
func (w *writer) cut(r *tensor.SampleRow) bool {
	return w.parts && (r.TopP < 1 || r.TopK > 0 && r.TopK < w.vocab)
}

// adjustment writes one, unless its token is not here, and counts it.
func (w *writer) adjustment(a adjustment) int32 {
	if a.id < int32(w.first) || int(a.id) >= w.first+w.cols {
		return 0
	}
	a.id -= int32(w.first)
	take(w, []adjustment{a})
	return 1
}

// take writes values and tells where and how many.
func take[T any](w *writer, v []T) (at0, n int32) {
	start := w.at
	copy(at[T](w.t, start, len(v)), v)
	var one T
	w.at += int32(len(v)) * int32(unsafe.Sizeof(one))
	return start, int32(len(v))
}
