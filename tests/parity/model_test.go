// Package parity holds the real model against transformers + PEFT, for the base
// and every voice; with -tags gpu it is computed on the first GPU. `make test`
// fetches the model first.
package parity

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chorale/internal/checkpoint"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/internal/testkit"
	"chorale/worker/kv"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/sample"
	"chorale/worker/tensor"
)

// golden is worker/model/testdata/smollm2/*.json, made by tools/goldens.
type golden struct {
	Adapter *string
	BF16    struct {
		All struct {
			Mean float64 `json:"mean_abs_dlogprob"`
		}
	}
	Cases []struct {
		Kind          string
		Messages      json.RawMessage
		Text          string
		IDs           []int32
		Greedy, Given struct {
			IDs      []int32
			Logprobs []float64
		}
	}
}

// pages is what the cases need of a cache that keeps them all.
func (g *golden) pages() int {
	n := 0
	for i := range g.Cases {
		n += g.casePages(i)
	}
	return n
}

func (g *golden) casePages(i int) int {
	c := &g.Cases[i]
	tokens := len(c.IDs) + max(len(c.Greedy.IDs), len(c.Given.IDs))
	return (tokens + kv.PageSize - 1) / kv.PageSize
}

// goldens reads the references of the base and of every voice.
func goldens(t *testing.T) map[string]golden {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testkit.Root(), "worker", "model", "testdata", "smollm2", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	out := map[string]golden{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if err := json.Unmarshal(b, &g); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		name := filepath.Base(f)
		out[name[:len(name)-len(".json")]] = g
	}
	return out
}

// real is the real model on the backend of this build.
type real struct {
	b tensor.Backend
	m *decoder.Model
}

func openReal(t *testing.T, p tensor.Precision) *real {
	t.Helper()
	b := openBackend(t, p)
	c, err := checkpoint.Open(testkit.Model(t))
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := model.Open(b, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Free(); c.Close() })
	return &real{b, m}
}

// voice brings examples/adapters/<name> onto the model.
func (r *real) voice(t *testing.T, name string) *nn.Adapter {
	t.Helper()
	if name == "base" {
		return nil
	}
	dir := filepath.Join(testkit.Root(), "examples", "adapters", name)
	raw, err := os.ReadFile(filepath.Join(dir, peft.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := peft.ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(dir, peft.WeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a, err := peft.Bind(cfg, f, model.Modules(&r.m.Spec), peft.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := model.Pack(r.m, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Free)
	return p.Adapter
}

// runner computes steps over a cache of its own.
type runner struct {
	t     *testing.T
	r     *decoder.Runner
	cache tensor.KV
	used  int32 // pages given away
	vocab int
}

// sequence is a place in the cache.
type sequence struct {
	a     *nn.Adapter
	pages []int32
	n     int // tokens so far
}

// part is what one sequence feeds to a step; logits are wanted after the last tail
// of its ids.
type part struct {
	*sequence
	ids  []int32
	tail int
}

func (r *real) runner(t *testing.T, pages int) *runner {
	t.Helper()
	s := &r.m.Spec
	cache, err := r.b.NewKV(tensor.KVLayout{Layers: s.Layers, KVHeads: s.KVHeads, HeadDim: s.HeadDim, PageSize: kv.PageSize, Pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	rn, err := r.m.NewRunner(cache, 512)
	if err != nil {
		t.Fatal(err)
	}
	return &runner{t: t, r: rn, cache: cache, vocab: s.Vocab}
}

func (x *runner) free() { x.r.Free(); x.cache.Free() }

// sequence takes the next pages.
func (x *runner) sequence(a *nn.Adapter, pages int) *sequence {
	s := &sequence{a: a}
	for range pages {
		s.pages = append(s.pages, x.used)
		x.used++
	}
	return s
}

// feed computes parts in one step and calls each with the logits after the i-th of
// the last tail tokens of part p. Parts of one adapter lie together.
func (x *runner) feed(parts []part, each func(p, i int, logits []float32, st tensor.LogitStat)) {
	x.t.Helper()
	st := &decoder.Step{}
	type row struct{ p, i int }
	var rows []row
	for p, s := range parts {
		for i := range s.ids {
			st.Batch.Pos = append(st.Batch.Pos, int32(s.n+i))
			if k := i - (len(s.ids) - s.tail); k >= 0 {
				st.LogitRows = append(st.LogitRows, int32(len(st.Batch.IDs)+i))
				rows = append(rows, row{p, k})
			}
		}
		st.Batch.IDs = append(st.Batch.IDs, s.ids...)
		s.n += len(s.ids)
		st.Batch.Seqs = append(st.Batch.Seqs, tensor.Seq{QStart: len(st.Batch.IDs) - len(s.ids), QLen: len(s.ids), CtxLen: s.n, Pages: s.pages})
		st.Segments = extend(st.Segments, len(s.ids), len(st.Batch.IDs), s.a)
		st.LogitSegments = extend(st.LogitSegments, s.tail, len(st.LogitRows), s.a)
	}
	x.r.Forward(st)
	for lo := 0; lo < len(rows); lo += decoder.LogitBlock {
		hi := min(lo+decoder.LogitBlock, len(rows))
		stats := make([]tensor.LogitStat, hi-lo)
		l, err := x.r.Logits(st, lo, hi, stats)
		if err != nil {
			x.t.Fatal(err)
		}
		for k, r := range rows[lo:hi] {
			each(r.p, r.i, l[k*x.vocab:(k+1)*x.vocab], stats[k])
		}
	}
	if err := x.r.Finish(); err != nil {
		x.t.Fatal(err)
	}
}

// extend adds the n rows before end to the segment of a, where that is the last, or
// to a new one.
func extend(s []nn.Segment, n, end int, a *nn.Adapter) []nn.Segment {
	if a == nil || n == 0 {
		return s
	}
	if k := len(s); k > 0 && s[k-1].Adapter == a {
		s[k-1].End = end
		return s
	}
	return append(s, nn.Segment{Start: end - n, End: end, Adapter: a})
}

// TestGreedyParity: at least the share greedyShare of the greedy tokens of the base
// and of every voice are those of transformers + PEFT in float32, where each step
// computes a row of every case of every voice.
func TestGreedyParity(t *testing.T) {
	r := openReal(t, greedyPrecision)
	all, pages := goldens(t), 0
	for _, g := range all {
		pages += g.pages()
	}
	x := r.runner(t, pages)
	defer x.free()
	var parts []part // of the cases that go on
	var names []string
	var wants [][]int32
	equal, total := map[string]int{}, map[string]int{}
	take := func(k int, st tensor.LogitStat) {
		total[names[k]]++
		if st.ArgMax == wants[k][0] {
			equal[names[k]]++
		}
		parts[k].ids, wants[k] = []int32{st.ArgMax}, wants[k][1:]
	}
	for name, g := range all {
		a := r.voice(t, name)
		for i, c := range g.Cases {
			k := len(parts)
			parts = append(parts, part{x.sequence(a, g.casePages(i)), c.IDs, 1})
			names, wants = append(names, name), append(wants, c.Greedy.IDs)
			x.feed(parts[k:], func(_, _ int, _ []float32, st tensor.LogitStat) { take(k, st) })
		}
	}
	for {
		var on []int
		var step []part
		for k, w := range wants {
			if len(w) > 0 {
				on, step = append(on, k), append(step, parts[k])
			}
		}
		if len(on) == 0 {
			break
		}
		x.feed(step, func(p, _ int, _ []float32, st tensor.LogitStat) { take(on[p], st) })
	}
	for name, n := range total {
		t.Logf("%s: %d of %d greedy tokens equal", name, equal[name], n)
		if n == 0 || float64(equal[name]) < greedyShare*float64(n) {
			t.Errorf("%s: %d of %d greedy tokens equal, want %.0f %%", name, equal[name], n, 100*greedyShare)
		}
	}
}

// TestLogprobParity: teacher-forced in bfloat16, log probabilities are on the
// mean within 0.03 of transformers in float32, for base and voices.
func TestLogprobParity(t *testing.T) {
	r := openReal(t, tensor.BF16)
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			a := r.voice(t, name)
			var sum, worst float64
			n := 0
			x := r.runner(t, g.pages())
			defer x.free()
			for i, c := range g.Cases {
				s := x.sequence(a, g.casePages(i))
				last := len(c.IDs) - 1
				if last > 0 {
					x.feed([]part{{s, c.IDs[:last], 0}}, nil)
				}
				for _, given := range []struct {
					IDs      []int32
					Logprobs []float64
				}{c.Greedy, c.Given} {
					s.n = last
					ids := slices.Concat(c.IDs[last:], given.IDs[:len(given.IDs)-1])
					x.feed([]part{{s, ids, len(given.IDs)}}, func(_, i int, l []float32, st tensor.LogitStat) {
						d := math.Abs(sample.Logprobs(l, st.LogSumExp, given.IDs[i], 0, nil).Logprob - given.Logprobs[i])
						sum += d
						worst = max(worst, d)
						n++
					})
				}
			}
			mean := sum / float64(n)
			t.Logf("mean |Δlogprob| %.4f, worst %.3f over %d tokens; torch in bfloat16: %.4f", mean, worst, n, g.BF16.All.Mean)
			if mean > 0.03 {
				t.Errorf("mean |Δlogprob| %.4f, want at most 0.03", mean)
			}
		})
	}
}
