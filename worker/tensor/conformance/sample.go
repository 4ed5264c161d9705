package conformance

import (
	"math"
	"reflect"
	"slices"

	"chorale/worker/sample"
	"chorale/worker/tensor"
)

// border is how near to the edge of a token's share a draw may lie for weights
// in float32 to give the neighbour.
const border = 2e-5

// testSample compares tokens and log probabilities with those that package
// sample finds in a copy of the same logits.
func testSample(c *check) {
	near, drawn := 0, 0
	for _, vocab := range []int{1, 17, 1000, 9000, 128256} {
		d := c.device(2, 64)
		table := c.logitTable(vocab)
		n := table.rows
		if vocab > 10_000 {
			n /= 2 // the host sorts long
		}
		rows := make([]tensor.SampleRow, n)
		for i := range rows {
			rows[i] = c.sampleRow(vocab)
		}
		ids := make([]int32, len(rows))
		for i := range ids {
			ids[i] = int32(i)
		}
		logits, got := d.sample(table, ids, rows)
		for i := range rows {
			row := logits[i*vocab : (i+1)*vocab]
			c.compareStat(vocab, i, row, got[i].Stat)
			n := c.compareSampled(vocab, i, row, &rows[i], &got[i])
			if near += n; !rows[i].Given && !rows[i].Greedy() {
				drawn++
			}
		}
		for _, i := range []int{n / 2, n - 1} {
			_, alone := d.sample(table, ids[i:i+1], rows[i:i+1])
			if !sameSampled(&alone[0], &got[i]) {
				c.Errorf("vocabulary %d row %d: alone %+v, in a batch %+v", vocab, i, alone[0], got[i])
			}
		}
	}
	if near > 1+drawn/50 {
		c.Errorf("%d of %d draws are not those of the host", near, drawn)
	}
}

// logitTable makes rows of all sorts.
func (c *check) logitTable(vocab int) dense {
	m := c.random(tensor.BF16, 24, vocab, 1)
	for i := range m.rows {
		row := m.row(i)
		switch i % 6 {
		case 1: // many ties
			for j := range row {
				row[j] = math.Round(row[j])
			}
		case 2: // a few above the others
			for range 5 {
				row[c.rng.IntN(vocab)] += 4
			}
		case 3:
			for j := range row {
				row[j] *= 16
			}
		}
	}
	for j := range vocab { // all equal
		m.set(4, j, 0.5)
	}
	// What broken adapters give.
	m.set(5, c.rng.IntN(vocab), math.NaN())
	m.set(11, c.rng.IntN(vocab), math.Inf(1))
	for j := range vocab {
		m.set(17, j, []float64{math.Inf(-1), math.NaN()}[c.rng.IntN(2)])
	}
	return m
}

// sampleRow makes random parameters.
func (c *check) sampleRow(vocab int) tensor.SampleRow {
	one := func(v ...float64) float64 { return v[c.rng.IntN(len(v))] }
	r := tensor.SampleRow{
		Temperature: one(0, 0.3, 0.7, 1, 1, 1.3, 50), TopP: one(1, 1, 0.95, 0.5, 0.001), TopK: int(one(0, 0, -1, 1, 2, 40, 3000)),
		MinP: one(0, 0, 0.001, 0.1, 1), U: c.rng.Float64(), Repetition: float32(one(1, 1, 1.3, 0.7)),
		Frequency: float32(one(0, 0.4)), Presence: float32(one(0, -0.3)), Top: int(one(0, 0, 1, 20, 128)),
	}
	if c.rng.IntN(8) == 0 {
		r.Given, r.Token = true, int32(c.rng.IntN(vocab))
	}
	some := func(n int) []int32 {
		ids := []int32{int32(vocab + 7), -1} // to be ignored
		for range c.rng.IntN(n) {
			ids = append(ids, int32(c.rng.IntN(vocab)))
		}
		slices.Sort(ids)
		return slices.Compact(ids)
	}
	if c.rng.IntN(2) == 0 {
		for _, id := range some(60) {
			n := int32(c.rng.IntN(3))
			r.Adjust = append(r.Adjust, tensor.Adjust{ID: id, Bias: float32(one(0, 0, 3, -5)), Count: n, Seen: n > 0 || c.rng.IntN(2) == 0})
		}
	}
	if c.rng.IntN(4) == 0 {
		r.Ban = some(6)
	}
	for range c.rng.IntN(3) {
		r.IDs = append(r.IDs, int32(c.rng.IntN(vocab)))
	}
	return r
}

// sample runs a step that samples from rows of the table, normed so that they
// have all the bits of float32, and gives the logits, too.
func (d device) sample(table dense, ids []int32, rows []tensor.SampleRow) ([]float32, []tensor.Sampled) {
	d.Helper()
	weight := newDense(1, table.cols)
	for i := range weight.v {
		weight.v[i] = 2.5
	}
	w := must(d.NewVector(weight.floats()))(d.check)
	defer w.Free()
	x := must(d.NewBuffer(tensor.Wide, len(ids), table.cols))(d.check)
	defer x.Free()
	logits := must(d.NewBuffer(tensor.Wide, len(ids), table.cols))(d.check)
	defer logits.Free()
	m := must(d.NewMatrix(table.rows, table.cols, table.Rows))(d.check)
	defer m.Free()
	d.Begin(&tensor.Batch{IDs: ids, Pos: make([]int32, len(ids))})
	d.Embed(x, m, nil)
	whole := x
	// One column would be normed to the same everywhere, and norms have limits.
	if table.cols > 1 && table.cols < 16384 {
		d.RMSNorm(logits, x, w, 1e-5)
		whole = logits
	}
	host := slices.Clone(d.Host(whole))
	out := make([]tensor.Sampled, len(rows))
	d.Sample(out, whole, rows)
	d.finish()
	return host, out
}

func (c *check) compareStat(vocab, i int, row []float32, got tensor.LogitStat) {
	c.Helper()
	best := sample.ArgMax(row)
	var sum float64
	for _, v := range row {
		sum += math.Exp(float64(v) - float64(row[best]))
	}
	want := float64(row[best]) + math.Log(sum)
	if math.IsNaN(want) { // of a row with NaN only its token counts
		return
	}
	if got.ArgMax != best || got.Max != row[best] || math.Abs(float64(got.LogSumExp)-want) > c.tol.Rows*(1+math.Abs(want)) {
		c.Errorf("vocabulary %d row %d: %+v, want %d, %v, %v", vocab, i, got, best, row[best], want)
	}
}

// compareSampled checks one row; 1 when the token is a neighbour of the host's.
func (c *check) compareSampled(vocab, i int, row []float32, r *tensor.SampleRow, got *tensor.Sampled) (near int) {
	c.Helper()
	var s sample.Sampler
	want := s.Sample(row, got.Stat, r, -1)
	if got.Token != want.Token {
		if !c.neighbour(row, r, got) {
			c.Errorf("vocabulary %d row %d: token %d, want %d, of %+v", vocab, i, got.Token, want.Token, *r)
			return 0
		}
		near = 1
		given := *r
		given.Given, given.Token = true, got.Token
		want = s.Sample(row, got.Stat, &given, -1)
	}
	same := func(what string, got, want float64) {
		c.Helper()
		if math.Abs(got-want) > 1e-5*(1+math.Abs(want)) || math.IsNaN(got) != math.IsNaN(want) {
			c.Errorf("vocabulary %d row %d: %s has log probability %v, want %v", vocab, i, what, got, want)
		}
	}
	same("the token", got.Logprob, want.Logprob)
	for _, l := range []struct {
		what      string
		got, want []tensor.TokenLogprob
	}{{"one of the most likely", got.Top, want.Top}, {"a requested one", got.Requested, want.Requested}} {
		if len(l.got) != len(l.want) {
			c.Errorf("vocabulary %d row %d: %d log probabilities, want %d", vocab, i, len(l.got), len(l.want))
			continue
		}
		for j := range l.got {
			if l.got[j].ID != l.want[j].ID {
				c.Errorf("vocabulary %d row %d: %s is %d, want %d", vocab, i, l.what, l.got[j].ID, l.want[j].ID)
				break
			}
			same(l.what, l.got[j].Logprob, l.want[j].Logprob)
		}
	}
	return near
}

// neighbour tells whether a draw or a top-p that lies a little elsewhere gives
// the token.
func (c *check) neighbour(row []float32, r *tensor.SampleRow, got *tensor.Sampled) bool {
	if r.Given || r.Greedy() {
		return false
	}
	var s sample.Sampler
	for _, u := range []float64{0, -border, border} {
		for _, p := range []float64{0, -border, border} {
			q := *r
			q.U = min(max(0, r.U+u), 1-1e-9)
			if r.TopP < 1 {
				q.TopP = min(r.TopP+p, 1-1e-9)
			}
			if s.Sample(row, got.Stat, &q, -1).Token == got.Token {
				return true
			}
		}
	}
	return false
}

// sameSampled compares bit by bit; NaN equals NaN.
func sameSampled(a, b *tensor.Sampled) bool {
	bits := func(s *tensor.Sampled) []any {
		out := []any{s.Token, s.Stat.ArgMax, math.Float32bits(s.Stat.Max), math.Float32bits(s.Stat.LogSumExp), math.Float64bits(s.Logprob)}
		for _, l := range slices.Concat(s.Top, s.Requested) {
			out = append(out, l.ID, math.Float64bits(l.Logprob))
		}
		return out
	}
	return reflect.DeepEqual(bits(a), bits(b))
}

// testDraws checks that draws follow the distribution, with and without a cut.
func testDraws(c *check) {
	const vocab, steps, rows = 6, 100, 64
	d := c.device(2, rows)
	table := newDense(1, vocab)
	copy(table.v, []float64{1, 0, 2, -1, 0.5, 0.5})
	ids := make([]int32, rows)
	for _, tt := range []struct {
		name string
		row  tensor.SampleRow
		kept []int
	}{
		{"all", tensor.SampleRow{Temperature: 1.92, TopP: 1}, []int{0, 1, 2, 3, 4, 5}},
		{"top-k", tensor.SampleRow{Temperature: 1.92, TopP: 1, TopK: 3}, []int{0, 2, 4}},
		{"top-p", tensor.SampleRow{Temperature: 1.92, TopP: 0.9}, []int{0, 2, 4, 5}},
		{"min-p", tensor.SampleRow{Temperature: 1.92, TopP: 1, MinP: 0.1}, []int{0, 2, 4, 5}},
	} {
		counts := make([]float64, vocab)
		var logits []float32
		for step := range steps {
			asked := make([]tensor.SampleRow, rows)
			for i := range asked {
				asked[i] = tt.row
				asked[i].U = sample.Uniform(uint64(i), uint64(step))
			}
			var out []tensor.Sampled
			logits, out = d.sample(table, ids, asked)
			for _, s := range out {
				counts[s.Token]++
			}
		}
		total, n := 0.0, 0.0
		weight := func(i int) float64 { return math.Exp(float64(logits[i]) / tt.row.Temperature) }
		for _, i := range tt.kept {
			total += weight(i)
			n += counts[i]
		}
		if n != steps*rows {
			c.Errorf("%s: %v tokens that were cut off", tt.name, steps*rows-n)
		}
		chi := 0.0
		for _, i := range tt.kept {
			e := weight(i) / total * n
			chi += (counts[i] - e) * (counts[i] - e) / e
		}
		if chi > 20.5 { // 99.9 % of 5 degrees of freedom
			c.Errorf("%s: chi-square %v, counts %v", tt.name, chi, counts)
		}
	}
}
