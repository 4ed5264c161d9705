package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sweep(t *testing.T) Sweep {
	c := sample()
	c.Targets = []TargetSpec{{Name: "p", URL: sglangServer(t, func(string) {}), API: "sglang", Adapters: []string{"a", "b", "c"}}}
	c.Clients, c.Duration, c.Warmup, c.SLO, c.MaxDuration = 2, 200*time.Millisecond, 1, SLO{TTFT: 1}, time.Minute
	return Sweep{Config: c, Counts: []int{0, AllAdapters}, Alphas: []float64{.2, 1}, CVs: []float64{1, 4}, Loads: []float64{.5}, Capacity: 100}
}

func TestSweep(t *testing.T) {
	res, err := MeasureSweep(t.Context(), sweep(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Points) != 2+4 || res.Stopped != "" {
		t.Fatalf("%d points, stopped %q", len(res.Points), res.Stopped)
	}
	answered := 0
	for _, p := range res.Points {
		answered += p.Metrics.E2E.N
		if p.Rate != 50 || p.Metrics.Errors != 0 || (p.Adapters == 0) != (p.Alpha == 0) || p.Adapters == 0 && p.Asked != 0 || p.Asked > 3 || p.Fairness.Jain <= 0 {
			t.Errorf("%+v", p)
		}
	}
	if answered < 10 {
		t.Errorf("%d answers in 6 points of 0.2 s at 50 a second", answered)
	}
	// The same arrivals with and without adapters.
	if a, b := res.Points[0].Metrics.Requests, res.Points[2].Metrics.Requests; a != b {
		t.Errorf("%d requests without adapters, %d with", a, b)
	}
	text, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var back SweepResult
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(res.Points, back.Points); d != "" {
		t.Error(d)
	}
	back.Stopped = "an interrupt"
	var b bytes.Buffer
	if err := back.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"load 1 is 100.00 requests/s\n", "Jain", "TTFT p50", "ended early: an interrupt"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if err := back.Page().WriteFile(filepath.Join(t.TempDir(), "s.svg")); err != nil {
		t.Error(err)
	}
}

// TestSweepCapacity measures the capacity first.
func TestSweepCapacity(t *testing.T) {
	s := sweep(t)
	s.Capacity, s.Counts, s.CVs, s.Loads = 0, []int{0}, []float64{1}, []float64{.001}
	res, err := MeasureSweep(t.Context(), s)
	if res == nil || err != nil && !errors.Is(err, ErrAllFailed) { // so few requests may be none
		t.Fatal(err)
	}
	c := res.Capacity
	if c.RequestsPerSecond <= 0 || c.Seconds <= 0 || math.Abs(c.TokensPerSecond/c.RequestsPerSecond-6) > 2 {
		t.Errorf("%+v: answers have 4 to 8 tokens", c)
	}
}

// TestCapacityOf: two clients; one begins at 2 s, the other has no more to ask
// at 6 s. Between are 4 tokens of the first and 2 of the second.
func TestCapacityOf(t *testing.T) {
	samples := []Sample{
		{Client: 0, Asked: 4, Tokens: []float64{1, 2, 3, 4}, Done: 4},
		{Client: 0, Asked: 4, Tokens: []float64{5, 6}, Done: 6},
		{Client: 1, Asked: 4, Tokens: []float64{2, 4, 6, 8}, Done: 9, Cut: true},
	}
	items := []item{{output: 4}, {output: 4}, {client: 1, output: 2}, {client: 1, output: 2}}
	got := capacityOf(samples, 2, items)
	want := Capacity{RequestsPerSecond: 6.0 / 4 / 3, TokensPerSecond: 6.0 / 4, Seconds: 4}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := capacityOf(samples[:2], 2, items); got != (Capacity{}) {
		t.Errorf("a client without a token: %+v", got)
	}
}

func TestSweepCheck(t *testing.T) {
	for name, spoil := range map[string]func(*Sweep){
		"grid":     func(s *Sweep) { s.Loads = nil },
		"count":    func(s *Sweep) { s.Counts = []int{-2} },
		"alpha":    func(s *Sweep) { s.Alphas = []float64{0} },
		"cv":       func(s *Sweep) { s.CVs = []float64{101} },
		"load":     func(s *Sweep) { s.Loads = []float64{0} },
		"duration": func(s *Sweep) { s.Duration = 0 },
		"capacity": func(s *Sweep) { s.Capacity = -1 },
		"target":   func(s *Sweep) { s.Targets = nil },
		"many":     func(s *Sweep) { s.Counts = []int{4} },
	} {
		s := sweep(t)
		spoil(&s)
		if _, err := MeasureSweep(t.Context(), s); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: error %v, want ErrConfig", name, err)
		}
	}
}

func TestSweepEnds(t *testing.T) {
	s := sweep(t)
	s.MaxDuration = time.Nanosecond
	if _, err := MeasureSweep(t.Context(), s); err == nil {
		t.Error("no time at all, no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	s = sweep(t)
	s.Loads = []float64{.5, .6, .7, .8}
	res, err := MeasureSweep(ctx, s)
	if res == nil || res.Stopped != "an interrupt" || len(res.Points) >= 24 {
		t.Errorf("%v, %v", res, err)
	}
}
