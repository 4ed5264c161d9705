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
}

// answer says where a row's results are among a step's, in words.
type answer struct {
	at, top int32
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
	if err := tensor.CheckSample(x, x.cols, s.maxTokens-int(s.drawn), int(s.before), out, rows); err != nil {
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
	if s.tables.draws == lists {
		s.flush()
	}
	list, asked, err := s.tables.samples(rows, x.cols, first)
	if !s.keep(name, err) {
		return
	}
	to.asked = asked
	s.pending = append(s.pending, to)
	s.record(op{kind: opSample, rows: int32(bucket(len(rows))), x: x.view(), list: list})
}

// samples writes a list of rows over cols logits and returns its number and
// where the results will be.
func (t *tables) samples(rows []tensor.SampleRow, cols int, first int32) (int32, []answer, error) {
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
	w := &writer{t: t, at: start + int32(bytes), cols: cols}
	for i := range rows {
		r := &rows[i]
		dst[i] = w.row(r)
		dst[i].out = t.words
		asked[i] = answer{at: t.words, top: dst[i].top, ids: r.IDs}
		t.words += sampledWords + 2*dst[i].top + dst[i].idCount
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
	t    *tables
	at   int32
	cols int
}

// row writes a row's lists and gives the row.
func (w *writer) row(r *tensor.SampleRow) sampleRow {
	d := sampleRow{given: -1, last: -1, topP: 1, top: int32(min(r.Top, w.cols))}
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

// adjustment writes one, unless its id is outside the vocabulary, and counts it.
func (w *writer) adjustment(a adjustment) int32 {
	if a.id < 0 || int(a.id) >= w.cols {
		return 0
	}
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

// deliver hands out a step's results.
func deliver(sinks []sink, words []uint32) {
	for i := range sinks {
		sinks[i].fill(words)
	}
}

func (to *sink) fill(words []uint32) {
	for i := range to.asked {
		a := &to.asked[i]
		got := (*sampled)(unsafe.Pointer(&words[a.at]))
		stat := tensor.LogitStat{ArgMax: got.argMax, Max: got.max, LogSumExp: got.logSumExp}
		if to.stats != nil {
			to.stats[i] = stat
			continue
		}
		lp := func(logit float32) float64 { return float64(logit) - float64(stat.LogSumExp) }
		out := tensor.Sampled{Token: got.token, Stat: stat, Logprob: lp(got.fromLogit)}
		rest := words[a.at+sampledWords:]
		for j := range a.top {
			out.Top = append(out.Top, tensor.TokenLogprob{ID: int32(rest[2*j]), Logprob: lp(math.Float32frombits(rest[2*j+1]))})
		}
		rest = rest[2*a.top:]
		for j, id := range a.ids {
			out.Requested = append(out.Requested, tensor.TokenLogprob{ID: id, Logprob: lp(math.Float32frombits(rest[j]))})
		}
		to.out[i] = out
	}
}
