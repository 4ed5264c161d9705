package adapters

import (
	"fmt"
	"io"
	"strings"

	"chorale/bench/figure"
)

// WriteTable prints the result for people.
func (r *Result) WriteTable(out io.Writer) error {
	var b strings.Builder
	c := &r.Config
	fmt.Fprintf(&b, "%s; %d adapters of %s; load average %.1f to %.1f on %d cores\n\n",
		c.Shape.Name, c.Registered, size(float64(r.AdapterBytes)), r.Machine.LoadAtStart, r.Machine.LoadAtEnd, r.Machine.Cores)
	t := figure.Table{Left: 1}
	t.Add("", "n", "p50", "p99", "max")
	for _, row := range []struct {
		what string
		d    figure.Dist
	}{
		{"one load, 4 at a time", r.Register},
		{"of them the first tenth", r.RegisterFirst},
		{"the last tenth", r.RegisterLast},
		{"list of all", r.List},
		{"watch: all told", r.Snapshot},
		{"watch: a change told", r.News},
		{"manager's start", r.ManagerStart},
		{"router's start", r.RouterStart},
		{"request alone", r.Alone},
		{fmt.Sprintf("request beside %d loads", c.Loads), r.Beside},
		{"load of " + size(float64(r.LoadBytes)), r.Load},
		{"load and first token", r.FirstToken},
		{"of that the load", r.LoadCall},
		{"first token, resident", r.Step},
	} {
		if row.d.N > 0 {
			t.Add(row.what, fmt.Sprint(row.d.N), figure.Seconds(row.d.P50), figure.Seconds(row.d.P99), figure.Seconds(row.d.Max))
		}
	}
	t.Write(&b)
	if len(r.Rounds) > 0 {
		fmt.Fprintf(&b, "\nbeside loads over alone: p50 %s, p99 %s by rounds, %.2f of all requests\n", r.P50.Text("%.2f"), r.P99.Text("%.2f"), r.Together)
	}
	fmt.Fprintf(&b, "processor time of all roles: a load %s at first, %s at last; a list %s; load and first token %s, first token alone %s\n\n",
		figure.Seconds(r.RegisterCPU[0]), figure.Seconds(r.RegisterCPU[1]), figure.Seconds(r.ListCPU), figure.Seconds(r.FirstTokenCPU), figure.Seconds(r.StepCPU))
	m := figure.Table{Left: 1}
	m.Add("memory", "without", "with", "per adapter", "found at start", "per adapter")
	for _, x := range r.Memory {
		again, per := "-", "-"
		if x.Again > 0 {
			again, per = size(float64(x.Again)), size(x.PerAdapterAgain)
		}
		m.Add(x.Role, size(float64(x.Before)), size(float64(x.After)), size(x.PerAdapter), again, per)
	}
	m.Write(&b)
	if r.Stopped != "" {
		b.WriteString("\nnote: the measurement ended early: " + r.Stopped + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// size shows bytes.
func size(n float64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", n/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", n/(1<<10))
	default:
		return fmt.Sprintf("%.0f B", n)
	}
}
