package steps

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"chorale/bench/kernels"
	"chorale/bench/local"
	"chorale/bench/shape"
	"chorale/worker/engine"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func tiny(t *testing.T) Config {
	m, err := shape.Find("tiny")
	if err != nil {
		t.Fatal(err)
	}
	m.Spec.Layers, m.Spec.Windows = 12, make([]int, 12) // long enough to be timed
	return Config{
		Model: m, Batches: []int{1, 4}, Adapters: []int{0, 1, 4}, Ranks: []kernels.Ranks{{4}, {2, 8}}, Contexts: []int{48},
		Steps: 8, Warmup: 2, Prefill: []int{20, 100}, Repeat: 2, Chunk: 64, Bandwidth: 10e9, Seed: 1, ProductTime: 100 * time.Microsecond,
	}
}

func backend(t *testing.T) tensor.Backend {
	b, err := cpu.New(cpu.Options{Precision: tensor.BF16, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestRun(t *testing.T) {
	res, err := Run(t.Context(), backend(t), tiny(t))
	if err != nil {
		t.Fatal(err)
	}
	// Per rank: one row takes one adapter, four take one or four.
	if len(res.Cells) != 2+2*3 || len(res.Prefill) != 2*3 || len(res.Skipped) != 0 {
		t.Fatalf("%d cells, %d prefills, skipped %v", len(res.Cells), len(res.Prefill), res.Skipped)
	}
	timed := 0
	for _, c := range res.Cells {
		if c.Step.N != 8 || c.Floor.GEMM <= 0 || c.Adapters == 0 && c.Overhead != nil {
			t.Errorf("%+v", c)
		}
		// On a busy machine all tokens of such short steps may come at once.
		if c.Step.P50 > 0 && c.TokensPerSecond > 0 && c.Ratio > 0 {
			timed++
		}
		if c.Context < 40 || c.Context > 60 {
			t.Errorf("context %g, asked for 48", c.Context)
		}
		perToken := 2.0 * 12 * 2 * 16 * 2
		if want := float64(c.Batch) * c.Context * perToken / 10e9; c.Floor.KV < want*.999 || c.Floor.KV > want*1.001 {
			t.Errorf("floor %g of the cache, want %g", c.Floor.KV, want)
		}
	}
	if timed < 4 {
		t.Errorf("%d of %d cells have times", timed, len(res.Cells))
	}
	if c := res.Cells[len(res.Cells)-1]; c.Adapters != 4 || c.SumRank != 20 || c.Ranks.String() != "2+8" {
		t.Errorf("%+v", c)
	}
	for _, p := range res.Prefill {
		if p.TTFT.N != 2 || p.GEMM <= 0 || p.Ratio <= 0 || (p.Overhead == nil) != (p.Ranks == nil) {
			t.Errorf("%+v", p)
		}
	}
	checkWritten(t, res)
}

func checkWritten(t *testing.T, res *Result) {
	text, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(res.Cells, back.Cells); d != "" {
		t.Error(d)
	}
	back.Skipped, back.Stopped = []string{"B=9"}, "an interrupt"
	var b bytes.Buffer
	if err := back.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"tiny, weights of noise, on cpu", "overhead", "first token", "2+8", "left out B=9", "an interrupt"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
	if err := back.Page().WriteFile(filepath.Join(t.TempDir(), "p.svg")); err != nil {
		t.Error(err)
	}
}

// TestWatched: known times give known figures.
func TestWatched(t *testing.T) {
	start := time.Unix(0, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	w := &watched{rows: 8, context: 7, cpu: 30 * time.Millisecond, tokens: []time.Time{at(100), at(110), at(120), at(150)}}
	for _, ms := range []int{90, 100, 110, 120, 150} {
		w.steps = append(w.steps, local.Step{At: at(ms), Status: engine.Status{Duration: 8 * time.Millisecond}})
	}
	c := w.cell()
	near := func(what string, got, want float64) {
		if got < want-1e-9 || got > want+1e-9 {
			t.Errorf("%s %g, want %g", what, got, want)
		}
	}
	near("median", c.Step.P50, .010)
	near("mean", c.Step.Mean, 50e-3/3)
	near("tokens a second", c.TokensPerSecond, 8*3/50e-3)
	near("engine", c.Engine, .008)
	near("host", c.Host, .002)
	near("cpu", c.CPU, .010)
}

func TestApart(t *testing.T) {
	start := time.Unix(0, 0)
	var times, want []time.Time
	for _, ms := range []int{5, 5, 8, 8, 8, 10} {
		times = append(times, start.Add(time.Duration(ms)*time.Millisecond))
	}
	for _, ms := range []int{5, 5, 6, 7, 8, 10} {
		want = append(want, start.Add(time.Duration(ms)*time.Millisecond))
	}
	if d := cmp.Diff(want, apart(times)); d != "" {
		t.Error(d)
	}
}

// small is a device with memory for the first context and too little for the
// second: the engine leaves 1 GiB free.
type small struct{ tensor.Backend }

func (small) Memory() (free, total int64, err error) { return 1<<30 + 300*16*12*128, 4 << 30, nil }

func TestSkips(t *testing.T) {
	c := tiny(t)
	c.Ranks, c.Adapters, c.Prefill, c.Batches, c.Contexts = nil, []int{0}, nil, []int{4}, []int{48, 2000}
	res, err := Run(t.Context(), small{backend(t)}, c)
	if err != nil || len(res.Cells) != 1 || len(res.Skipped) != 1 || res.Device.MemoryMiB != 4096 {
		t.Errorf("%d cells, skipped %v, %v", len(res.Cells), res.Skipped, err)
	}
}

func TestStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	res, err := Run(ctx, backend(t), tiny(t))
	if err != nil || res.Stopped == "" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestConfig(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"nothing": func(c *Config) { c.Batches, c.Prefill = nil, nil },
		"batch":   func(c *Config) { c.Batches = []int{64} },
		"rank":    func(c *Config) { c.Ranks = nil },
		"steps":   func(c *Config) { c.Steps = 0 },
		"repeat":  func(c *Config) { c.Repeat = 0 },
		"context": func(c *Config) { c.Contexts = []int{9} },
		"long":    func(c *Config) { c.Contexts = []int{4096} },
		"prefill": func(c *Config) { c.Prefill = []int{4096} },
	} {
		c := tiny(t)
		spoil(&c)
		if _, err := Run(t.Context(), nil, c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
