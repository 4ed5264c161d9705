package kernels

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chorale/bench/shape"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

func TestMixes(t *testing.T) {
	for b := 1; b <= 256; b++ {
		for _, m := range Mixes {
			sum := 0
			for _, n := range m.Rows(b) {
				if n < 1 {
					t.Fatalf("%s of %d: an adapter without rows", m, b)
				}
				sum += n
			}
			if sum != b {
				t.Errorf("%s of %d: %d rows", m, b, sum)
			}
		}
	}
	for m, want := range map[Mix]int{Distinct: 64, Uniform: 8, Skewed: 10, Identical: 1} {
		if got := len(m.Rows(64)); got != want {
			t.Errorf("%s of 64: %d adapters, want %d", m, got, want)
		}
	}
	if got := Skewed.Rows(64); !slices.Equal(got, []int{22, 14, 10, 6, 4, 3, 2, 1, 1, 1}) {
		t.Errorf("skewed %v", got)
	}
	if got := Uniform.Rows(10); !slices.Equal(got, []int{2, 3, 2, 3}) {
		t.Errorf("uniform %v", got)
	}
}

func TestRanks(t *testing.T) {
	r, err := ParseRanks("8+64")
	if err != nil || r.String() != "8+64" || r.Sum(3) != 80 || r.Max() != 64 || r.Of(3) != 64 {
		t.Errorf("%v, %v", r, err)
	}
	for _, s := range []string{"", "0", "513", "8+", "x"} {
		if _, err := ParseRanks(s); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", s, err)
		}
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

// tiny is a whole measurement in a blink.
func tiny(t *testing.T) Config {
	m, err := shape.Find("tiny")
	if err != nil {
		t.Fatal(err)
	}
	s := &m.Spec
	return Config{
		Products: shape.Products(s), Heads: s.Heads, KVHeads: s.KVHeads, HeadDim: s.HeadDim, Batches: []int{1, 6},
		Ranks: []Ranks{{4}, {2, 8}}, Mixes: Mixes, Rotate: 1 << 16, Time: 100 * time.Microsecond, Repeat: 3, Bandwidth: 10e9,
	}
}

func TestRun(t *testing.T) {
	res, err := Run(t.Context(), backend(t), tiny(t))
	if err != nil {
		t.Fatal(err)
	}
	// At one row the four mixes are one; at six all differ.
	if len(res.Products) != 8 || len(res.Cells) != 4*2*(1+4) {
		t.Fatalf("%d products, %d cells", len(res.Products), len(res.Cells))
	}
	for _, p := range res.Products {
		if p.Time <= 0 || p.Followed <= 0 || p.Ratio <= 0 || p.FLOPS <= 0 {
			t.Errorf("%+v", p)
		}
	}
	var qkv *Cell
	for i := range res.Cells {
		if c := &res.Cells[i]; c.Name == "qkv" && c.Batch == 6 && c.Mix == Distinct && c.Ranks.String() == "2+8" {
			qkv = c
		}
	}
	if qkv == nil || qkv.Adapters != 6 || qkv.SumRank != 30 || qkv.Bytes != 2*30*(3*64+128) || qkv.Floor != float64(qkv.Bytes)/10e9 {
		t.Errorf("%+v", qkv)
	}
	checkWritten(t, res)
}

// checkWritten: what is read is what was written, and all of it can be shown.
func checkWritten(t *testing.T, res *Result) {
	text, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(res.Cells, back.Cells); d != "" || back.Kind != "kernels" || back.Device.Name != res.Device.Name {
		t.Errorf("%s", d)
	}
	var b bytes.Buffer
	if err := back.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"gate/up 64→256", "LoRA on down", "distinct", "10 GB/s by given"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
	for _, ext := range []string{".svg", ".png"} {
		if err := back.Page().WriteFile(filepath.Join(t.TempDir(), "p"+ext)); err != nil {
			t.Error(err)
		}
	}
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	res, err := Run(ctx, backend(t), tiny(t))
	if err != nil || res.Stopped == "" || len(res.Cells) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestConfig(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"products": func(c *Config) { c.Products = nil },
		"batches":  func(c *Config) { c.Batches = nil },
		"batch":    func(c *Config) { c.Batches = []int{0} },
		"mix":      func(c *Config) { c.Mixes = []Mix{"x"} },
		"repeat":   func(c *Config) { c.Repeat = 0 },
		"time":     func(c *Config) { c.Time = 0 },
		"rotate":   func(c *Config) { c.Rotate = -1 },
	} {
		c := tiny(t)
		spoil(&c)
		if _, err := Run(t.Context(), nil, c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestProbes: rates of sizes that fit a cache are plausible.
func TestProbes(t *testing.T) {
	b := backend(t)
	for name, rate := range map[string]func() (float64, error){
		"copy": func() (float64, error) { return copyRate(b, 256, 1024) },
		"read": func() (float64, error) { return readRate(b, 512, 1024) },
	} {
		if v, err := rate(); err != nil || v != 0 && (v < 1e7 || v > 1e13) {
			t.Errorf("%s: %g bytes a second, %v", name, v, err)
		}
	}
}

// TestBest: the best probe wins, a known figure goes first, failures are told.
func TestBest(t *testing.T) {
	probe := func(name string, v float64, err error) Probe {
		return Probe{name, func() (float64, error) { return v, err }}
	}
	if v, how, err := best([]Probe{probe("a", 3, nil), probe("b", 7, nil), probe("c", 0, nil)}); v != 7 || how != "b" || err != nil {
		t.Errorf("%g by %s, %v", v, how, err)
	}
	if v, how, err := Bandwidth(nil, 5, nil); v != 5 || how != "given" || err != nil {
		t.Errorf("%g by %s, %v", v, how, err)
	}
	broken := errors.New("broken")
	if _, _, err := best([]Probe{probe("x", 0, broken)}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, _, err := best([]Probe{probe("x", 0, nil)}); !errors.Is(err, ErrConfig) {
		t.Errorf("nothing found: %v", err)
	}
}
