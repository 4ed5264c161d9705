package sample

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"chorale/worker/collective"
	"chorale/worker/collective/inprocess"
	"chorale/worker/tensor"
)

func gatherRanks(t *testing.T, size int) inprocess.Group {
	t.Helper()
	g, err := inprocess.Shared(size, inprocess.Patient)
	if errors.Is(err, collective.ErrUnsupported) {
		g, err = inprocess.TCP(t.Context(), size, inprocess.Patient)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// statOf summarises a row as a device does.
func statOf(row []float32) tensor.LogitStat {
	best := ArgMax(row)
	sum := 0.0
	for _, v := range row {
		sum += math.Exp(float64(v) - float64(row[best]))
	}
	return tensor.LogitStat{ArgMax: best, Max: row[best], LogSumExp: float32(float64(row[best]) + math.Log(sum))}
}

// table is rows of logits that ranks share out, width columns each.
type table struct {
	vocab, width int
	logits       [][]float32
	rows         []tensor.SampleRow
	last         []int32 // what Last stands for
}

func (tb *table) lastOf(r *tensor.SampleRow) int32 {
	if r.Last > 0 {
		return tb.last[r.Last-1]
	}
	return -1
}

// shard cuts a rank's part out, with padding of rubbish.
func (tb *table) shard(m collective.Member) Shard {
	rubbish := rand.New(rand.NewPCG(1, uint64(m.Rank())))
	parts := make([][]float32, len(tb.logits))
	sh := Shard{Group: m, Width: tb.width, Total: tb.vocab, Row: func(i int) []float32 { return parts[i] }}
	for i, l := range tb.logits {
		parts[i] = make([]float32, tb.width)
		n := 0
		if from := m.Rank() * tb.width; from < tb.vocab {
			n = copy(parts[i], l[from:])
		}
		if n > 0 {
			sh.Stats = append(sh.Stats, statOf(parts[i][:n]))
		} else {
			sh.Stats = append(sh.Stats, tensor.LogitStat{ArgMax: 3, LogSumExp: float32(math.NaN())})
		}
		for k := n; k < tb.width; k++ {
			parts[i][k] = 100 * rubbish.Float32()
		}
	}
	return sh
}

// run serves the rows on all ranks, which must agree, and tells how many gathers
// that took.
func (tb *table) run(t *testing.T, g inprocess.Group, s []*Sharded) ([]tensor.Sampled, int64) {
	t.Helper()
	before := g[0].Counts().AllGather
	out := make([][]tensor.Sampled, len(g))
	err := g.Each(func(m collective.Member) error {
		out[m.Rank()] = make([]tensor.Sampled, len(tb.rows))
		return s[m.Rank()].Sample(out[m.Rank()], tb.shard(m), tb.rows, tb.lastOf)
	})
	if err != nil {
		t.Fatal(err)
	}
	for r := range out {
		if !reflect.DeepEqual(printed(out[r]), printed(out[0])) {
			t.Fatalf("rank %d: %+v, rank 0: %+v", r, out[r], out[0])
		}
	}
	return out[0], g[0].Counts().AllGather - before
}

// printed makes NaN equal to itself.
func printed(out []tensor.Sampled) string { return fmt.Sprintf("%+v", out) }

func sharders(n int) []*Sharded {
	out := make([]*Sharded, n)
	for i := range out {
		out[i] = new(Sharded)
	}
	return out
}

// compare holds the ranks' answer against that of one.
func (tb *table) compare(t *testing.T, got []tensor.Sampled) {
	t.Helper()
	var one Sampler
	for i := range tb.rows {
		row, r := tb.logits[i], &tb.rows[i]
		want := one.Sample(slices.Clone(row), statOf(row), r, tb.lastOf(r))
		g := &got[i]
		where := fmt.Sprintf("vocabulary %d in parts of %d, row %d, %+v", tb.vocab, tb.width, i, *r)
		if g.Token != want.Token || g.Stat.ArgMax != want.Stat.ArgMax || g.Stat.Max != want.Stat.Max && want.Stat.Max == want.Stat.Max {
			t.Errorf("%s: %+v, want %+v", where, *g, want)
		}
		ulps := 3e-7 * (1 + math.Abs(float64(want.Stat.LogSumExp))) // two, of the log-sum-exp
		close := func(a, b float64) bool {
			return a == b || math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) <= ulps
		}
		if !close(float64(g.Stat.LogSumExp), float64(want.Stat.LogSumExp)) || !close(g.Logprob, want.Logprob) {
			t.Errorf("%s: %+v, want %+v", where, *g, want)
		}
		for _, l := range [][2][]tensor.TokenLogprob{{g.Top, want.Top}, {g.Requested, want.Requested}} {
			if !slices.EqualFunc(l[0], l[1], func(a, b tensor.TokenLogprob) bool { return a.ID == b.ID && close(a.Logprob, b.Logprob) }) {
				t.Errorf("%s: %+v, want %+v", where, l[0], l[1])
			}
		}
	}
}

// randomTable makes rows of all sorts with parameters of all sorts.
func randomTable(rng *rand.Rand, vocab, width, rows int) *table {
	tb := &table{vocab: vocab, width: width, last: []int32{int32(rng.IntN(vocab)), int32(rng.IntN(vocab))}}
	for range rows {
		l := make([]float32, vocab)
		spread := []float64{0.01, 1, 3, 16}[rng.IntN(4)]
		coarse := rng.IntN(3) == 0
		for j := range l {
			v := rng.NormFloat64() * spread
			if coarse { // ties
				v = math.Round(v)
			}
			l[j] = float32(v)
		}
		if rng.IntN(5) == 0 { // a mask
			for j := range l {
				if rng.IntN(8) > 0 {
					l[j] = -inf
				}
			}
		}
		if rng.IntN(12) == 0 {
			l[rng.IntN(vocab)] = []float32{float32(math.NaN()), inf, -inf}[rng.IntN(3)]
		}
		tb.logits = append(tb.logits, l)
		tb.rows = append(tb.rows, randomRow(rng, vocab))
	}
	return tb
}

func randomRow(rng *rand.Rand, vocab int) tensor.SampleRow {
	one := func(v ...float64) float64 { return v[rng.IntN(len(v))] }
	r := tensor.SampleRow{
		Temperature: one(0, 0.3, 0.7, 1, 1, 1.3, 50), TopP: one(1, 1, 0.95, 0.5, 0.001), TopK: int(one(0, 0, -1, 1, 2, 40, 700, 3000)),
		MinP: one(0, 0, 0.001, 0.1, 1), U: rng.Float64(), Repetition: float32(one(1, 1, 1.3, 0.7)),
		Frequency: float32(one(0, 0.4)), Presence: float32(one(0, -0.3)), Top: int(one(0, 0, 1, 20, 128)), Last: rng.IntN(3),
	}
	if rng.IntN(8) == 0 {
		r.Given, r.Token = true, int32(rng.IntN(vocab))
	}
	ids := func(n int) []int32 {
		out := []int32{int32(vocab + 7), -1} // to be ignored
		for range rng.IntN(n) {
			out = append(out, int32(rng.IntN(vocab)))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	if rng.IntN(2) == 0 {
		for _, id := range ids(60) {
			n := int32(rng.IntN(3))
			r.Adjust = append(r.Adjust, tensor.Adjust{ID: id, Bias: float32(one(0, 0, 3, -5)), Count: n, Seen: n > 0 || rng.IntN(2) == 0})
		}
	}
	if rng.IntN(4) == 0 {
		r.Ban = ids(6)
	}
	for range rng.IntN(3) {
		r.IDs = append(r.IDs, int32(rng.IntN(vocab)))
	}
	return r
}

// TestSharded: with every parameter, ties, masks and broken logits, ranks find
// the token and the log probabilities that one finds.
func TestSharded(t *testing.T) {
	for _, size := range []int{1, 2, 3, 4} {
		g, s := gatherRanks(t, size), sharders(size)
		rng := rand.New(rand.NewPCG(9, uint64(size)))
		for range 25 {
			vocab := []int{1, 3, 17, 100, 500, 2000, 9000}[rng.IntN(7)]
			width := (vocab+size-1)/size + rng.IntN(5)
			tb := randomTable(rng, vocab, width, 24)
			got, _ := tb.run(t, g, s)
			tb.compare(t, got)
		}
	}
}

// TestShardedRounds: what is cheap stays cheap, and rows whose cut lies deeper
// than what ranks list are found all the same.
func TestShardedRounds(t *testing.T) {
	const vocab, size = 4000, 2
	g, s := gatherRanks(t, size), sharders(size)
	rng := rand.New(rand.NewPCG(4, 4))
	peaked, flat := make([]float32, vocab), make([]float32, vocab)
	for i := range peaked {
		peaked[i], flat[i] = float32(rng.NormFloat64()*4), float32(rng.NormFloat64()*0.01)
	}
	for _, tt := range []struct {
		name   string
		logits []float32
		row    tensor.SampleRow
		rounds int64
	}{
		{"greedy", flat, tensor.SampleRow{}, 1},
		{"given, with log probabilities", flat, tensor.SampleRow{Given: true, Token: 3999, Top: 5, IDs: []int32{1, 2500}}, 1},
		{"top-k", flat, tensor.SampleRow{Temperature: 1, TopP: 1, TopK: 50}, 1},
		{"top-k and top-p", peaked, tensor.SampleRow{Temperature: 1, TopP: 0.9, TopK: 50}, 1},
		{"largest top-k", flat, tensor.SampleRow{Temperature: 1, TopP: 1, TopK: maxListed}, 1},
		{"top-p", peaked, tensor.SampleRow{Temperature: 1, TopP: 0.9}, 2},
		{"all", flat, tensor.SampleRow{Temperature: 1, TopP: 1}, 3},
		{"min-p", flat, tensor.SampleRow{Temperature: 1, TopP: 1, MinP: 0.5}, 3},
		{"wide top-p", flat, tensor.SampleRow{Temperature: 1, TopP: 0.9}, 3},
		{"wide top-k", flat, tensor.SampleRow{Temperature: 1, TopP: 1, TopK: maxListed + 1}, 2},
	} {
		for _, u := range []float64{0, 0.2, 0.6, 1 - 1e-12} {
			row := tt.row
			row.U = u
			tb := &table{vocab: vocab, width: vocab / size, logits: [][]float32{tt.logits}, rows: []tensor.SampleRow{row}}
			got, rounds := tb.run(t, g, s)
			tb.compare(t, got)
			if rounds != tt.rounds {
				t.Errorf("%s: %d rounds, want %d", tt.name, rounds, tt.rounds)
			}
		}
	}
	none, rounds := (&table{vocab: vocab, width: vocab / size}).run(t, g, s)
	if len(none) != 0 || rounds != 0 {
		t.Errorf("no rows: %d results, %d rounds", len(none), rounds)
	}
}

// TestShardedStats joins statistics.
func TestShardedStats(t *testing.T) {
	g, s := gatherRanks(t, 3), sharders(3)
	tb := randomTable(rand.New(rand.NewPCG(3, 1)), 40, 20, 60) // nothing on rank 2
	err := g.Each(func(m collective.Member) error {
		out := make([]tensor.LogitStat, len(tb.logits))
		if err := s[m.Rank()].Stats(out, tb.shard(m)); err != nil {
			return err
		}
		for i, l := range tb.logits {
			want := statOf(l)
			if math.IsNaN(float64(want.LogSumExp)) && math.IsNaN(float64(out[i].LogSumExp)) {
				out[i].LogSumExp, want.LogSumExp = 0, 0
			}
			if out[i].ArgMax != want.ArgMax || out[i].Max != want.Max && want.Max == want.Max || !(math.Abs(float64(out[i].LogSumExp-want.LogSumExp)) < 1e-5) {
				t.Errorf("row %d: %+v, want %+v", i, out[i], want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestShardedEnds: the end of a group ends the call.
func TestShardedEnds(t *testing.T) {
	g, s := gatherRanks(t, 2), sharders(2)
	g[1].Abort("enough")
	tb := randomTable(rand.New(rand.NewPCG(3, 1)), 40, 20, 3)
	if err := s[0].Sample(make([]tensor.Sampled, 3), tb.shard(g[0]), tb.rows, tb.lastOf); !errors.Is(err, collective.ErrAborted) {
		t.Error(err)
	}
	if err := s[0].Stats(make([]tensor.LogitStat, 3), tb.shard(g[0])); !errors.Is(err, collective.ErrAborted) {
		t.Error(err)
	}
}
