package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"chorale/bench/chart"
	"chorale/bench/figure"
)

// WriteTable prints the sweep for people.
func (r *SweepResult) WriteTable(out io.Writer) error {
	var b strings.Builder
	c := &r.Config
	fmt.Fprintf(&b, "open loop of %v a point, %v tokens in, %v out, seed %d; SLO: first token within %s\n", c.Duration, c.Prompt, c.Output, c.Seed, figure.Seconds(c.SLO.TTFT))
	for _, t := range r.Targets {
		fmt.Fprintf(&b, "%s: %s %s, %s\n", t.Name, t.Model, t.Version, figure.Plural(len(t.Used), "adapter"))
	}
	fmt.Fprintf(&b, "load 1 is %.2f requests/s", r.Capacity.RequestsPerSecond)
	if r.Capacity.Seconds > 0 {
		fmt.Fprintf(&b, ": what %s did with %s that always ask, without adapters (%.0f tokens/s)", r.Config.Targets[0].Name, figure.Plural(c.Clients, "client"), r.Capacity.TokensPerSecond)
	}
	b.WriteString("\n\n")
	r.rates(&b)
	r.latencies(&b)
	r.notes(&b)
	_, err := io.WriteString(out, b.String())
	return err
}

// place are the first cells of a point's line.
func (p *Point) place() []string {
	alpha := "-"
	if p.Adapters > 0 {
		alpha = fmt.Sprint(p.Alpha)
	}
	return []string{p.Target, fmt.Sprint(p.Adapters), alpha, fmt.Sprint(p.CV), fmt.Sprintf("%.2f", p.Load)}
}

func (r *SweepResult) rates(b *strings.Builder) {
	t := figure.Table{Left: 1}
	t.Add("target", "adapters", "alpha", "cv", "load", "asked", "req/s", "tok/s", "SLO", "good/s", "Jain", "gap tok/s", "light p95", "heavy p95", "requests", "failed")
	for i := range r.Points {
		p := &r.Points[i]
		m, f, gap := &p.Metrics, &p.Fairness, "-"
		if f.Windows > 0 {
			gap = fmt.Sprintf("%.0f", f.Gap)
		}
		t.Add(append(p.place(), fmt.Sprint(p.Asked), fmt.Sprintf("%.2f", m.RequestsPerSecond), fmt.Sprintf("%.0f", m.OutputPerSecond), fmt.Sprintf("%.0f%%", 100*m.SLO),
			fmt.Sprintf("%.2f", m.Goodput), fmt.Sprintf("%.3f", f.Jain), gap, figure.Seconds(f.Light.P95), figure.Seconds(f.Heavy.P95),
			fmt.Sprint(m.Requests), fmt.Sprint(m.Errors+m.Cut))...)
	}
	t.Write(b)
}

func (r *SweepResult) latencies(b *strings.Builder) {
	t := figure.Table{Left: 1}
	t.Add("target", "adapters", "alpha", "cv", "load", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "p99", "ITL p99", "max")
	for i := range r.Points {
		p := &r.Points[i]
		m := &p.Metrics
		line := p.place()
		for _, v := range []float64{m.TTFT.P50, m.TTFT.P95, m.TTFT.P99, m.TPOT.P50, m.TPOT.P95, m.TPOT.P99, m.ITL.P99, m.ITL.Max} {
			line = append(line, figure.Seconds(v))
		}
		t.Add(line...)
	}
	b.WriteByte('\n')
	t.Write(b)
}

func (r *SweepResult) notes(b *strings.Builder) {
	var w []string
	if r.Stopped != "" {
		w = append(w, "the measurement ended early: "+r.Stopped)
	}
	for i := range r.Points {
		p := &r.Points[i]
		if p.Metrics.Late > lateLimit && r.Config.MaxInFlight == 0 {
			w = append(w, fmt.Sprintf("%s: this client sent up to %s late (latencies count from the due time)", p.name(), figure.Seconds(p.Metrics.Late)))
		}
		for _, e := range p.Errors {
			w = append(w, p.name()+": "+e)
		}
	}
	if len(w) > 0 {
		b.WriteByte('\n')
	}
	for _, s := range w {
		b.WriteString("note: " + s + "\n")
	}
}

// Page draws, for each popularity and burstiness, goodput, first tokens and the
// time per token over the load.
func (r *SweepResult) Page() *chart.Page {
	c := &r.Config
	p := &chart.Page{Title: "chorale bench serve: open loop", Subtitle: fmt.Sprintf("%v tokens in, %v out, %v a point, SLO %s · load 1 is %.2f requests/s · %s",
		c.Prompt, c.Output, c.Duration, figure.Seconds(c.SLO.TTFT), r.Capacity.RequestsPerSecond, r.Started.UTC().Format("2006-01-02 15:04 UTC"))}
	for _, alpha := range c.Alphas {
		for _, cv := range c.CVs {
			if row := r.row(alpha, cv); len(row.Legend) > 0 {
				p.Rows = append(p.Rows, row)
			}
		}
	}
	return p
}

// row shows the points of one popularity and burstiness, a line for each
// target and number of adapters.
func (r *SweepResult) row(alpha, cv float64) chart.Row {
	const x = "load, share of the capacity without adapters"
	where := fmt.Sprintf("alpha %g, cv %g", alpha, cv)
	good := chart.Chart{Title: "Good requests (" + where + ")", XLabel: x, YLabel: "per second"}
	ttft := chart.Chart{Title: "First token, p95", XLabel: x, YLabel: "seconds", LogY: true}
	tpot := chart.Chart{Title: "Time per token, p50 (dashed: p99)", XLabel: x, YLabel: "ms"}
	row := chart.Row{Height: 280}
	ideal := chart.Series{Colour: chart.Soft, Dash: true, X: []float64{0, slices.Max(r.Config.Loads)}}
	ideal.Y = []float64{0, ideal.X[1] * r.Capacity.RequestsPerSecond}
	good.Series = append(good.Series, ideal)
	n := 0
	for _, t := range r.Config.Targets {
		for _, count := range r.Config.Counts {
			e := chart.Entry{Name: figure.Plural(count, "adapter"), Colour: chart.Palette[n%len(chart.Palette)]}
			if count == 0 {
				e.Name = "no adapter"
			}
			if len(r.Config.Targets) > 1 {
				e.Name = t.Name + ", " + e.Name
			}
			n++
			line := func(y func(p *Point) float64) chart.Series {
				s := chart.Series{Colour: e.Colour, Marks: true}
				for i := range r.Points {
					p := &r.Points[i]
					if p.Target == t.Name && p.Adapters == count && p.CV == cv && (count == 0 || p.Alpha == alpha) {
						s.X, s.Y = append(s.X, p.Load), append(s.Y, y(p))
					}
				}
				return s
			}
			first := line(func(p *Point) float64 { return p.Metrics.TTFT.P95 })
			if len(first.X) == 0 {
				continue
			}
			row.Legend = append(row.Legend, e)
			good.Series = append(good.Series, line(func(p *Point) float64 { return p.Metrics.Goodput }))
			ttft.Series = append(ttft.Series, first)
			p99 := line(func(p *Point) float64 { return p.Metrics.TPOT.P99 * 1e3 })
			p99.Dash = true
			tpot.Series = append(tpot.Series, p99, line(func(p *Point) float64 { return p.Metrics.TPOT.P50 * 1e3 }))
		}
	}
	row.Charts = []chart.Chart{good, ttft, tpot}
	return row
}
