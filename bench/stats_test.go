package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"chorale/bench/figure"
)

// twoRounds are a round with a good, a slow, a failed and a cut request, and
// one with a short answer whose tokens came in chunks.
func twoRounds() [][]Sample {
	return [][]Sample{{
		{Adapter: "a", PromptTokens: 10, Asked: 3, Due: 0, Sent: 0, Tokens: []float64{1, 2, 3}, Done: 3},
		{Adapter: "b", PromptTokens: 10, Asked: 2, Due: 1, Sent: 1.5, Tokens: []float64{9, 10}, Done: 10},
		{Adapter: "a", PromptTokens: 10, Asked: 2, Due: 2, Sent: 2, Error: "x", Done: 2},
		{Adapter: "b", PromptTokens: 10, Asked: 9, Due: 2, Sent: 2, Tokens: []float64{4}, Cut: true, Done: 10},
	}, {
		{Adapter: "a", PromptTokens: 20, Asked: 5, Due: 0, Sent: 0, Tokens: []float64{2, 2, 4, 4}, Done: 4},
	}}
}

func TestMeasure(t *testing.T) {
	got := measure(twoRounds(), SLO{TTFT: 6})
	want := Metrics{
		Requests: 5, Errors: 1, Cut: 1, Short: 1, PromptTokens: 50, OutputTokens: 10, Wall: 14,
		RequestsPerSecond: 3.0 / 14, OutputPerSecond: 10.0 / 14, TotalPerSecond: 60.0 / 14,
		DecodePerSecond: 6.0 / 11, // 3 in 10−1 seconds and 3 in 4−2
		TTFT:            figure.Summary([]float64{1, 8, 2}), TPOT: figure.Summary([]float64{1, 1, 2.0 / 3}),
		ITL: figure.Summary([]float64{1, 1, 1, 0, 2, 0}), E2E: figure.Summary([]float64{3, 9, 4}),
		SLO: 2.0 / 5, Goodput: 2.0 / 14, Late: .5,
	}
	if d := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-12)); d != "" {
		t.Error(d)
	}
	if got := measure(nil, SLO{}); got != (Metrics{}) {
		t.Errorf("of nothing: %+v", got)
	}
	if got := measure(twoRounds(), SLO{TTFT: 6, TPOT: .8}); got.SLO != .2 {
		t.Errorf("SLO %g with a limit on TPOT, want 0.2", got.SLO)
	}
}

func TestPerAdapter(t *testing.T) {
	got := perAdapter(twoRounds(), SLO{TTFT: 6})
	if len(got) != 2 || got[0].Adapter != "a" || got[0].Metrics.Requests != 3 || got[1].Adapter != "b" || got[1].Metrics.Cut != 1 {
		t.Errorf("%+v", got)
	}
}

func TestRatios(t *testing.T) {
	round := func(rate, ttft float64) Run {
		return Run{Metrics: Metrics{OutputPerSecond: rate, TTFT: Dist{P95: ttft}, E2E: Dist{N: 1}}}
	}
	cut := round(1, 1)
	cut.Cut = true
	c := &Config{Targets: []TargetSpec{{Name: "p"}, {Name: "q"}}, Modes: []Mode{ModeNone, ModeEach}}
	cells := []Cell{
		{Target: "p", Mode: ModeNone, Rounds: []Run{round(10, 1), round(20, 1), cut}},
		{Target: "p", Mode: ModeEach, Rounds: []Run{round(5, 2), round(5, 4)}},
		{Target: "q", Mode: ModeNone, Rounds: []Run{round(30, 1), round(20, 2), round(1, 1)}},
		{Target: "q", Mode: ModeEach, Rounds: []Run{round(30, 1)}},
	}
	got := ratios(c, cells)
	want := []Ratio{
		{Target: "q", Mode: ModeNone, OverTarget: "p", OverMode: ModeNone, OutputPerSecond: Spread{Median: 2, Min: 1, Max: 3}, TTFT: Spread{Median: 1.5, Min: 1, Max: 2}, Rounds: 2},
		{Target: "q", Mode: ModeEach, OverTarget: "p", OverMode: ModeEach, OutputPerSecond: Spread{Median: 6, Min: 6, Max: 6}, TTFT: Spread{Median: .5, Min: .5, Max: .5}, Rounds: 1},
		{Target: "p", Mode: ModeEach, OverTarget: "p", OverMode: ModeNone, OutputPerSecond: Spread{Median: .375, Min: .25, Max: .5}, TTFT: Spread{Median: 3, Min: 2, Max: 4}, Rounds: 2},
		{Target: "q", Mode: ModeEach, OverTarget: "q", OverMode: ModeNone, OutputPerSecond: Spread{Median: 1, Min: 1, Max: 1}, TTFT: Spread{Median: 1, Min: 1, Max: 1}, Rounds: 1},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat("123 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 8 0")
	if err != nil || got != 3 {
		t.Errorf("%g, %v, want 3", got, err)
	}
	for _, s := range []string{"", "1 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a b 1"} {
		if _, err := parseStat(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
	if s, err := CPUSeconds(0); s != 0 || err != nil {
		t.Errorf("no process: %g, %v", s, err)
	}
	if _, err := CPUSeconds(1 << 30); err == nil {
		t.Error("no error for a process that is not there")
	}
}
