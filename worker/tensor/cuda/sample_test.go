package cuda

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"chorale/worker/tensor"
)

// sample runs a step of n rows that samples them as asked, and gives the tables.
func (m *bench) sample(rows ...tensor.SampleRow) (*submission, []tensor.Sampled) {
	m.Helper()
	n := len(rows)
	b := &tensor.Batch{IDs: make([]int32, n), Pos: make([]int32, n)}
	out := make([]tensor.Sampled, n)
	m.s.Begin(b)
	m.s.Embed(m.logit, m.wide, nil)
	m.s.Sample(out, m.logit, rows)
	if err := m.s.Finish(); err != nil {
		m.Fatal(err)
	}
	sub := m.f.submitted[len(m.f.submitted)-1]
	m.f.submitted = nil
	return &sub, out
}

// TestSampleSame: what is asked of rows changes no operation.
func TestSampleSame(t *testing.T) {
	m := newBench(t)
	greedy, _ := m.sample(make([]tensor.SampleRow, 5)...)
	asked := make([]tensor.SampleRow, 7)
	for i := range asked {
		asked[i] = tensor.SampleRow{Temperature: 1, TopP: 0.5, TopK: 3, Top: 20, Ban: []int32{1, 2}, IDs: []int32{3}}
	}
	other, _ := m.sample(asked...)
	if !bytes.Equal(bytesOf(greedy), bytesOf(other)) || greedy.layout != other.layout {
		t.Error("parameters make a difference")
	}
}

// TestSampleTables: what a step's tables hold for its rows, and where results
// are looked for.
func TestSampleTables(t *testing.T) {
	m := newBench(t)
	m.f.found = sampled{token: 9, argMax: 8, max: 3, logSumExp: 4, fromLogit: 1.5}
	sub, out := m.sample(
		tensor.SampleRow{Given: true, Token: 5, Temperature: 1, Top: 3},
		tensor.SampleRow{
			Temperature: 0.5, TopK: 7, TopP: 0.25, MinP: 1, U: 0.75, Repetition: 2, Frequency: 3, Presence: 4, IDs: []int32{63, 1},
			Adjust: []tensor.Adjust{{ID: -1, Bias: 1}, {ID: 6, Bias: 2, Count: 3, Seen: true}, {ID: 64, Bias: 1}}, Ban: []int32{2, 99, 4},
		},
		tensor.SampleRow{Temperature: 9, TopK: 1, Top: 70},
	)
	tb := &m.s.(*stream).tables
	list := at[header](tb, tb.layout.header, 1)[0].samples[0]
	if list.rows != 3 || list.first != 0 {
		t.Fatalf("list %+v", list)
	}
	rows := at[sampleRow](tb, list.at, 3)
	neg := float32(math.Inf(-1))
	for i, want := range []sampleRow{
		{given: 5, last: -1, topP: 1, top: 3, ids: rows[0].ids},
		{
			u: 0.75, topP: 0.25, inverse: 2, reach: -16, repetition: 2, frequency: 3, presence: 4, topK: 7, given: -1, last: -1,
			adjust: rows[1].adjust, adjusts: 1, bans: rows[1].adjust + 16, banCount: 2, ids: rows[1].ids, idCount: 2, out: sampledWords + 6,
		},
		{given: -1, last: -1, topP: 1, top: 64, ids: rows[2].ids, adjust: rows[2].adjust, bans: rows[2].bans, out: 2*sampledWords + 8},
	} {
		if rows[i] != want {
			t.Errorf("row %d: %+v\nwant %+v", i, rows[i], want)
		}
	}
	if got := at[int32](tb, rows[1].ids, 2); !slices.Equal(got, []int32{63, 1}) {
		t.Errorf("ids %v", got)
	}
	if got := at[adjustment](tb, rows[1].adjust, 3); !slices.Equal(got, []adjustment{{6, 2, 3, 1}, {id: 2}, {id: 4}}) {
		t.Errorf("adjustments %+v", got)
	}
	if int(sub.used) > len(tb.room.tables) || sub.words != 3*sampledWords+8+128 {
		t.Errorf("%d bytes of tables, %d words of results", sub.used, sub.words)
	}
	if out[0].Token != 9 || out[0].Stat != (tensor.LogitStat{ArgMax: 8, Max: 3, LogSumExp: 4}) || out[0].Logprob != -2.5 || len(out[0].Top) != 3 || len(out[1].Requested) != 2 || out[1].Requested[0].ID != 63 {
		t.Errorf("results %+v", out)
	}
	none, _ := m.sample(tensor.SampleRow{Temperature: 1, TopP: 1})
	if list = at[header](tb, tb.layout.header, 1)[0].samples[0]; at[sampleRow](tb, list.at, 1)[0].minReach != neg || none.words != sampledWords {
		t.Errorf("without min-p, rows reach down to %v", at[sampleRow](tb, list.at, 1)[0].minReach)
	}
}

// TestFlights: two steps may be under way; each gets its own results, also when
// memory moves meanwhile, and they take turns at the device's tokens.
func TestFlights(t *testing.T) {
	m := newBench(t)
	s := m.s.(*stream)
	ahead := func(ids []int32, rows ...tensor.SampleRow) []tensor.Sampled {
		out := make([]tensor.Sampled, len(ids))
		m.s.Begin(&tensor.Batch{IDs: ids, Pos: make([]int32, len(ids))})
		m.s.Embed(m.logit, m.wide, nil)
		m.s.Sample(out, m.logit, append(rows, make([]tensor.SampleRow, len(ids)-len(rows))...))
		m.s.Launch()
		return out
	}
	m.f.found = sampled{token: 1}
	first := ahead([]int32{5, 6})
	m.f.found.token = 2
	// So many results that their memory grows.
	second := ahead([]int32{-1, -2, 7}, tensor.SampleRow{Last: 2, Top: 60}, tensor.SampleRow{Top: 60}, tensor.SampleRow{Top: 60})
	if a, b := m.f.submitted[0], m.f.submitted[1]; a.result == b.result {
		t.Errorf("both steps bring their results to buffer %d", a.result)
	}
	tb := &s.tables
	h := at[header](tb, tb.layout.header, 1)[0]
	if rows := at[sampleRow](tb, h.samples[0].at, 3); h.turn != m.f.submitted[1].result || rows[0].last != 1 || rows[1].last != -1 {
		t.Errorf("turn %d, rows %+v", h.turn, rows)
	}
	if first[0].Token != 0 || second[0].Token != 0 {
		t.Error("results before anybody waited")
	}
	if err := m.s.Wait(); err != nil || first[1].Token != 1 || second[0].Token != 0 {
		t.Errorf("after the first step: %v, %+v, %+v", err, first, second)
	}
	third := ahead([]int32{-3})
	if err := m.s.Finish(); err != nil || second[0].Token != 2 || len(second[2].Top) != 60 || third[0].Token != 2 {
		t.Errorf("in the end: %v, %+v, %+v", err, second, third)
	}
	if s.d.(*fakeStream).early {
		t.Error("tables were written while the device may read them")
	}
	for name, ids := range map[string][]int32{"no such row": {-2}, "no such row at all": {-9}} {
		ahead([]int32{1})
		ahead(ids)
		if err := m.s.Wait(); err != nil {
			t.Errorf("%s: the step before fails: %v", name, err)
		}
		if err := m.s.Wait(); !errors.Is(err, tensor.ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ahead([]int32{1})
	ahead([]int32{1})
	m.s.Begin(&tensor.Batch{IDs: []int32{1}, Pos: []int32{0}})
	if err := m.s.Finish(); !errors.Is(err, tensor.ErrShape) {
		t.Errorf("three steps under way: %v", err)
	}
}
