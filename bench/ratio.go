package bench

import (
	"cmp"

	"chorale/bench/figure"
)

func compare(a, b string) int { return cmp.Compare(a, b) }

// Ratio is one figure of a cell over the same figure of another, taken round
// by round.
type Ratio struct {
	Target string `json:"target"`
	Mode   Mode   `json:"mode"`
	// OverTarget and OverMode are the cell that was divided by.
	OverTarget string `json:"over_target"`
	OverMode   Mode   `json:"over_mode"`
	// Output tokens per second, 95th percentile of TTFT, median TPOT, CPU.
	OutputPerSecond Spread  `json:"output_tokens_per_second"`
	TTFT            Spread  `json:"ttft_p95"`
	TPOT            Spread  `json:"tpot_p50"`
	CPU             *Spread `json:"cpu_seconds,omitempty"`
	Rounds          int     `json:"rounds"`
}

// ratios compares each target with the first in the same mode, and each mode
// with the target's own first.
func ratios(c *Config, cells []Cell) []Ratio {
	at := func(t, m int) *Cell { return &cells[t*len(c.Modes)+m] }
	var out []Ratio
	keep := func(a, b *Cell) {
		if r, ok := over(a, b); ok {
			out = append(out, r)
		}
	}
	for t := 1; t < len(c.Targets); t++ {
		for m := range c.Modes {
			keep(at(t, m), at(0, m))
		}
	}
	for t := range c.Targets {
		for m := 1; m < len(c.Modes); m++ {
			keep(at(t, m), at(t, 0))
		}
	}
	return out
}

// over divides a by b in the rounds that both have whole.
func over(a, b *Cell) (Ratio, bool) {
	out := Ratio{Target: a.Target, Mode: a.Mode, OverTarget: b.Target, OverMode: b.Mode}
	var rate, ttft, tpot, cpu []float64
	div := func(list *[]float64, x, y float64) {
		if y > 0 {
			*list = append(*list, x/y)
		}
	}
	for i := range min(len(a.Rounds), len(b.Rounds)) {
		x, y := &a.Rounds[i], &b.Rounds[i]
		if x.Cut || y.Cut || x.Metrics.E2E.N == 0 || y.Metrics.E2E.N == 0 {
			continue
		}
		out.Rounds++
		div(&rate, x.Metrics.OutputPerSecond, y.Metrics.OutputPerSecond)
		div(&ttft, x.Metrics.TTFT.P95, y.Metrics.TTFT.P95)
		div(&tpot, x.Metrics.TPOT.P50, y.Metrics.TPOT.P50)
		if x.Metrics.CPU != nil && y.Metrics.CPU != nil {
			div(&cpu, *x.Metrics.CPU, *y.Metrics.CPU)
		}
	}
	out.OutputPerSecond, out.TTFT, out.TPOT = figure.SpreadOf(rate), figure.SpreadOf(ttft), figure.SpreadOf(tpot)
	if len(cpu) > 0 {
		s := figure.SpreadOf(cpu)
		out.CPU = &s
	}
	return out, out.Rounds > 0
}
