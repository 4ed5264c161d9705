package coldstart

import (
	"fmt"
	"io"
	"strings"

	"chorale/bench/chart"
	"chorale/bench/figure"
)

func millis(s float64) string { return fmt.Sprintf("%.2f", s*1e3) }

// WriteTable prints the result for people.
func (r *Result) WriteTable(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, r.head())
	t := figure.Table{Left: 1}
	t.Add("adapter", "trials", "TTFT", "p95", "max", "over resident", "longest step", "p95", "max", "over resident", "worst over")
	for i := range r.States {
		g := &r.States[i]
		delta, excess, worst := "-", "-", "-"
		if g.State != Resident {
			delta = fmt.Sprintf("%+.2f", g.Delta*1e3)
		}
		if r.Config.Background > 0 {
			worst = fmt.Sprintf("%+.2f", g.Worst*1e3)
			if g.State != Resident {
				excess = fmt.Sprintf("%+.2f", g.Excess*1e3)
			}
		}
		longest := []string{"-", "-", "-"}
		if r.Config.Background > 0 {
			longest = []string{millis(g.Longest.P50), millis(g.Longest.P95), millis(g.Longest.Max)}
		}
		t.Add(string(g.State), fmt.Sprint(len(g.Trials)), millis(g.TTFT.P50), millis(g.TTFT.P95), millis(g.TTFT.Max), delta, longest[0], longest[1], longest[2], excess, worst)
	}
	b.WriteString("\ntimes in ms; the longest step is that of the requests that run meanwhile\n")
	t.Write(&b)
	if r.Stopped != "" {
		b.WriteString("\nnote: the measurement ended early: " + r.Stopped + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *Result) head() string {
	c := &r.Config
	where := c.Subject
	if r.Device != nil && r.Device.Name != "" {
		where += " on " + r.Device.Name
	}
	s := fmt.Sprintf("%s; prompts of %d tokens", where, c.Prompt)
	if c.Background > 0 {
		s += fmt.Sprintf("; %s beside, %.2f ms a step before each trial (p99 %.2f)", figure.Plural(c.Background, "request"), r.Step.P50*1e3, r.Step.P99*1e3)
	}
	return s
}

// Page draws each trial's first token, and the longest step of the others.
func (r *Result) Page() *chart.Page {
	p := &chart.Page{Title: "chorale bench coldstart", Subtitle: r.head() + " · " + r.Started.UTC().Format("2006-01-02 15:04 UTC")}
	ttft := chart.Chart{Title: "First token", XLabel: "trial", YLabel: "ms", LogY: true}
	longest := chart.Chart{Title: "Longest step of others (dashed: before)", XLabel: "trial", YLabel: "ms"}
	row := chart.Row{Height: 320}
	for i := range r.States {
		g := &r.States[i]
		e := chart.Entry{Name: fmt.Sprintf("%s: %s ms", g.State, millis(g.TTFT.P50)), Colour: chart.Palette[i%len(chart.Palette)]}
		row.Legend = append(row.Legend, e)
		a, b := chart.Series{Colour: e.Colour, Marks: true}, chart.Series{Colour: e.Colour, Marks: true}
		before := chart.Series{Colour: chart.Soft, Dash: true}
		for j, t := range g.Trials {
			x := float64(j + 1)
			a.X, a.Y = append(a.X, x), append(a.Y, t.TTFT*1e3)
			b.X, b.Y = append(b.X, x), append(b.Y, t.Longest*1e3)
			before.X, before.Y = append(before.X, x), append(before.Y, t.Step*1e3)
		}
		ttft.Series = append(ttft.Series, a)
		if i == 0 {
			longest.Series = append(longest.Series, before)
		}
		longest.Series = append(longest.Series, b)
	}
	row.Charts = []chart.Chart{ttft}
	if r.Config.Background > 0 {
		row.Charts = append(row.Charts, longest)
	}
	p.Rows = []chart.Row{row}
	return p
}
