package bench

import (
	"fmt"
	"io"
	"strings"

	"chorale/bench/figure"
)

// Report is how much WriteTable shows.
type Report struct {
	// PerAdapter adds a table of each cell's adapters, at most so many rows.
	PerAdapter int
}

// WriteTable prints the result for people.
func (r *Result) WriteTable(out io.Writer, o Report) error {
	var b strings.Builder
	r.head(&b)
	r.throughput(&b)
	r.latencies(&b)
	r.compared(&b)
	for i := range r.Cells {
		if o.PerAdapter > 0 {
			r.Cells[i].adapters(&b, o.PerAdapter)
		}
	}
	r.warnings(&b)
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *Result) head(b *strings.Builder) {
	c := &r.Config
	if c.open() {
		fmt.Fprintf(b, "open loop: %g requests/s, Gamma gaps of cv %g", c.Rate, c.CV)
	} else {
		fmt.Fprintf(b, "closed loop: %s x %s", figure.Plural(c.Clients, "client"), figure.Plural(c.Requests, "request"))
	}
	switch {
	case len(c.Pairs) > 0:
		fmt.Fprintf(b, ", %d pairs of lengths", len(c.Pairs))
	case len(c.Texts) > 0:
		fmt.Fprintf(b, ", %d texts, %v tokens out", len(c.Texts), c.Output)
	default:
		fmt.Fprintf(b, ", %v tokens in, %v out", c.Prompt, c.Output)
	}
	fmt.Fprintf(b, "; %s, seed %d\n", figure.Plural(c.Repeat, "round"), c.Seed)
	m := &r.Machine
	fmt.Fprintf(b, "%d cores %s, load %.2f before, %.2f after\n", m.Cores, m.CPU, m.LoadAtStart, m.LoadAtEnd)
	for _, t := range r.Targets {
		fmt.Fprintf(b, "%s: %s %s, %s\n", t.Name, t.Model, t.Version, figure.Plural(len(t.Used), "adapter"))
	}
}

func (r *Result) throughput(b *strings.Builder) {
	t := figure.Table{Left: 2}
	t.Add("target", "lora", "tok/s (min-max)", "decode/s", "in+out/s", "req/s", "good/s", "SLO", "CPU s", "requests", "failed")
	for i := range r.Cells {
		c := &r.Cells[i]
		p, cpu := &c.Pooled, "-"
		if c.CPU != nil {
			cpu = c.CPU.Text("%.2f")
		}
		t.Add(c.Target, string(c.Mode), c.OutputPerSecond.Text("%.1f"), fmt.Sprintf("%.1f", p.DecodePerSecond),
			fmt.Sprintf("%.1f", p.TotalPerSecond), fmt.Sprintf("%.2f", p.RequestsPerSecond), fmt.Sprintf("%.2f", p.Goodput),
			fmt.Sprintf("%.0f%%", 100*p.SLO), cpu, fmt.Sprint(p.Requests), fmt.Sprint(p.Errors+p.Cut))
	}
	b.WriteString("\n")
	t.Write(b)
}

func (r *Result) latencies(b *strings.Builder) {
	t := figure.Table{Left: 3}
	t.Add("target", "lora", "", "mean", "p50", "p90", "p95", "p99", "max")
	for i := range r.Cells {
		c := &r.Cells[i]
		name, mode := c.Target, string(c.Mode)
		for _, d := range []struct {
			name string
			d    Dist
		}{{"TTFT", c.Pooled.TTFT}, {"TPOT", c.Pooled.TPOT}, {"ITL", c.Pooled.ITL}, {"E2E", c.Pooled.E2E}} {
			t.Add(name, mode, d.name, figure.Seconds(d.d.Mean), figure.Seconds(d.d.P50), figure.Seconds(d.d.P90), figure.Seconds(d.d.P95), figure.Seconds(d.d.P99), figure.Seconds(d.d.Max))
			name, mode = "", ""
		}
	}
	b.WriteString("\n")
	t.Write(b)
}

func (r *Result) compared(b *strings.Builder) {
	if len(r.Ratios) == 0 {
		return
	}
	t := figure.Table{Left: 2}
	t.Add("ratio of", "to", "tok/s", "TTFT p95", "TPOT p50", "CPU s", "rounds")
	for _, q := range r.Ratios {
		cpu := "-"
		if q.CPU != nil {
			cpu = q.CPU.Text("%.2f")
		}
		t.Add(q.Target+" "+string(q.Mode), q.OverTarget+" "+string(q.OverMode), q.OutputPerSecond.Text("%.2f"),
			q.TTFT.Text("%.2f"), q.TPOT.Text("%.2f"), cpu, fmt.Sprint(q.Rounds))
	}
	b.WriteString("\n")
	t.Write(b)
}

func (c *Cell) adapters(b *strings.Builder, most int) {
	t := figure.Table{Left: 1}
	t.Add("adapter", "requests", "tokens", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95", "SLO", "failed")
	for i, a := range c.PerAdapter {
		if i == most {
			t.Add(fmt.Sprintf("… %d more", len(c.PerAdapter)-most))
			break
		}
		m, name := &a.Metrics, a.Adapter
		if name == "" {
			name = "(base)"
		}
		t.Add(name, fmt.Sprint(m.Requests), fmt.Sprint(m.OutputTokens), figure.Seconds(m.TTFT.P50), figure.Seconds(m.TTFT.P95),
			figure.Seconds(m.TPOT.P50), figure.Seconds(m.TPOT.P95), fmt.Sprintf("%.0f%%", 100*m.SLO), fmt.Sprint(m.Errors+m.Cut))
	}
	fmt.Fprintf(b, "\n%s %s\n", c.Target, c.Mode)
	t.Write(b)
}

// lateLimit is how late this client may send before a figure is doubtful.
const lateLimit = 0.05

func (r *Result) warnings(b *strings.Builder) {
	var w []string
	if r.Stopped != "" {
		w = append(w, "the measurement ended early: "+r.Stopped)
	}
	for i := range r.Cells {
		c := &r.Cells[i]
		name := c.Target + " " + string(c.Mode)
		if n := c.Pooled.Short; n > 0 {
			w = append(w, fmt.Sprintf("%s: %d answers are shorter than asked for", name, n))
		}
		if c.Pooled.Late > lateLimit && r.Config.MaxInFlight == 0 {
			w = append(w, fmt.Sprintf("%s: this client sent up to %s late (latencies count from the due time)", name, figure.Seconds(c.Pooled.Late)))
		}
		for _, e := range c.Errors {
			w = append(w, name+": "+e)
		}
	}
	if n := len(r.Config.Texts); n > 0 && r.texts() > n {
		w = append(w, fmt.Sprintf("%d texts were sent more than once: a prefix cache may have helped", n))
	}
	if len(w) > 0 {
		b.WriteString("\n")
	}
	for _, s := range w {
		b.WriteString("note: " + s + "\n")
	}
}

// texts counts the requests of all rounds.
func (r *Result) texts() int {
	n := 0
	for i := range r.Cells {
		for _, run := range r.Cells[i].Rounds {
			n += run.Metrics.Requests
		}
	}
	return n
}
