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

// longest is the most tokens that a case needs.
func (g *golden) longest() int {
	n := 0
	for _, c := range g.Cases {
		n = max(n, len(c.IDs)+max(len(c.Greedy.IDs), len(c.Given.IDs)))
	}
	return n
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

// runner computes one sequence.
type runner struct {
	t     *testing.T
	r     *decoder.Runner
	a     *nn.Adapter
	cache tensor.KV
	pages []int32
	n     int // tokens so far
	vocab int
}

func (r *real) runner(t *testing.T, a *nn.Adapter, tokens int) *runner {
	t.Helper()
	pages := (tokens + kv.PageSize - 1) / kv.PageSize
	s := &r.m.Spec
	cache, err := r.b.NewKV(tensor.KVLayout{Layers: s.Layers, KVHeads: s.KVHeads, HeadDim: s.HeadDim, PageSize: kv.PageSize, Pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	rn, err := r.m.NewRunner(cache, 512)
	if err != nil {
		t.Fatal(err)
	}
	out := &runner{t: t, r: rn, a: a, cache: cache, vocab: s.Vocab}
	for p := range pages {
		out.pages = append(out.pages, int32(p))
	}
	return out
}

func (x *runner) free() { x.r.Free(); x.cache.Free() }

// again starts another sequence.
func (x *runner) again() { x.n = 0 }

// feed computes ids and calls each with the logits after each of the last
// tail tokens.
func (x *runner) feed(ids []int32, tail int, each func(i int, logits []float32, st tensor.LogitStat)) {
	x.t.Helper()
	st := &decoder.Step{Batch: tensor.Batch{IDs: ids, Seqs: []tensor.Seq{{QLen: len(ids), CtxLen: x.n + len(ids), Pages: x.pages}}}}
	for i := range ids {
		st.Batch.Pos = append(st.Batch.Pos, int32(x.n+i))
		if i >= len(ids)-tail {
			st.LogitRows = append(st.LogitRows, int32(i))
		}
	}
	if x.a != nil {
		st.Segments = []nn.Segment{{End: len(ids), Adapter: x.a}}
		st.LogitSegments = []nn.Segment{{End: tail, Adapter: x.a}}
	}
	x.r.Forward(st)
	for lo := 0; lo < tail; lo += decoder.LogitBlock {
		hi := min(lo+decoder.LogitBlock, tail)
		stats := make([]tensor.LogitStat, hi-lo)
		l, err := x.r.Logits(st, lo, hi, stats)
		if err != nil {
			x.t.Fatal(err)
		}
		for i := lo; i < hi; i++ {
			each(i, l[(i-lo)*x.vocab:(i-lo+1)*x.vocab], stats[i-lo])
		}
	}
	if err := x.r.Finish(); err != nil {
		x.t.Fatal(err)
	}
	x.n += len(ids)
}

// TestGreedyParity: at least the share greedyShare of the greedy tokens of the base
// and of every voice are those of transformers + PEFT in float32.
func TestGreedyParity(t *testing.T) {
	r := openReal(t, greedyPrecision)
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			a := r.voice(t, name)
			equal, total := 0, 0
			x := r.runner(t, a, g.longest())
			defer x.free()
			for _, c := range g.Cases {
				x.again()
				next := int32(-1)
				take := func(_ int, _ []float32, st tensor.LogitStat) { next = st.ArgMax }
				x.feed(c.IDs, 1, take)
				for i, want := range c.Greedy.IDs {
					total++
					if next == want {
						equal++
					}
					if i+1 < len(c.Greedy.IDs) {
						x.feed([]int32{next}, 1, take)
					}
				}
			}
			t.Logf("%d of %d greedy tokens equal", equal, total)
			if float64(equal) < greedyShare*float64(total) {
				t.Errorf("%d of %d greedy tokens equal, want %.0f %%", equal, total, 100*greedyShare)
			}
		})
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
			x := r.runner(t, a, g.longest())
			defer x.free()
			for _, c := range g.Cases {
				for _, given := range []struct {
					IDs      []int32
					Logprobs []float64
				}{c.Greedy, c.Given} {
					ids := slices.Concat(c.IDs, given.IDs[:len(given.IDs)-1])
					x.again()
					x.feed(ids, len(given.IDs), func(i int, l []float32, st tensor.LogitStat) {
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
