package steps

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"chorale/bench/chart"
	"chorale/bench/figure"
)

func millis(s float64) string { return fmt.Sprintf("%.2f", s*1e3) }

func percent(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%+.1f%%", 100**v)
}

// WriteTable prints the result for people.
func (r *Result) WriteTable(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, r.head())
	t := figure.Table{}
	t.Add("rows", "context", "adapters", "rank", "Σ rank", "step", "p99", "tokens/s", "overhead", "GEMM", "KV", "LoRA", "ratio", "between", "CPU")
	for i := range r.Cells {
		c := &r.Cells[i]
		rank := c.Ranks.String()
		if c.Adapters == 0 {
			rank = "-"
		}
		t.Add(fmt.Sprint(c.Batch), fmt.Sprint(c.Asked), fmt.Sprint(c.Adapters), rank, fmt.Sprint(c.SumRank), millis(c.Step.P50), millis(c.Step.P99),
			fmt.Sprintf("%.0f", c.TokensPerSecond), percent(c.Overhead), millis(c.Floor.GEMM), millis(c.Floor.KV), millis(c.Floor.LoRA),
			fmt.Sprintf("%.2f", c.Ratio), millis(c.Host), millis(c.CPU))
	}
	if len(r.Cells) > 0 {
		b.WriteString("\nsteps, times in ms; GEMM, KV and LoRA are the floor, between is the time with no\nstep under way, CPU what the process used per step\n")
		t.Write(&b)
	}
	if len(r.Prefill) > 0 {
		t := figure.Table{}
		t.Add("prompt", "rank", "TTFT", "p95", "tokens/s", "overhead", "GEMM", "ratio")
		for i := range r.Prefill {
			p := &r.Prefill[i]
			rank := p.Ranks.String()
			if len(p.Ranks) == 0 {
				rank = "-"
			}
			t.Add(fmt.Sprint(p.Tokens), rank, millis(p.TTFT.P50), millis(p.TTFT.P95), fmt.Sprintf("%.0f", p.TokensPerSecond), percent(p.Overhead), millis(p.GEMM), fmt.Sprintf("%.2f", p.Ratio))
		}
		b.WriteString("\nfirst token of one prompt, times in ms\n")
		t.Write(&b)
	}
	if r.Stopped != "" || len(r.Skipped) > 0 {
		b.WriteByte('\n')
	}
	for _, s := range r.Skipped {
		b.WriteString("note: left out " + s + "\n")
	}
	if r.Stopped != "" {
		b.WriteString("note: the measurement ended early: " + r.Stopped + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *Result) head() string {
	return fmt.Sprintf("%s, weights of noise, on %s; %.0f GB/s by %s", r.Config.Model.Name, r.Device.Name, r.Device.BytesPerSecond/1e9, r.Device.Probe)
}

// Page draws, for each context, the step and its ratio to the floor over Σ
// rank.
func (r *Result) Page() *chart.Page {
	p := &chart.Page{Title: "chorale bench engine", Subtitle: r.head() + " · " + r.Started.UTC().Format("2006-01-02 15:04 UTC")}
	for _, length := range r.Config.Contexts {
		row := chart.Row{Height: 300}
		step := chart.Chart{Title: fmt.Sprintf("Step, context %d (dashed: floor)", length), XLabel: "Σ rank of the distinct adapters", YLabel: "ms"}
		over := chart.Chart{Title: "Longer than without adapters", XLabel: "Σ rank of the distinct adapters", YLabel: "overhead", Percent: true}
		ratio := chart.Chart{Title: "Step over floor", XLabel: "Σ rank of the distinct adapters", YLabel: "ratio"}
		for i, b := range r.Config.Batches {
			e := chart.Entry{Name: figure.Plural(b, "row"), Colour: chart.Palette[i%len(chart.Palette)]}
			cells := r.at(b, length)
			if len(cells) == 0 {
				continue
			}
			row.Legend = append(row.Legend, e)
			line := func(y func(c *Cell) float64) chart.Series {
				// Several ranks can make the same sum: no line then.
				s := chart.Series{Colour: e.Colour, Marks: true, Dots: len(r.Config.Ranks) > 1}
				for _, c := range cells {
					s.X, s.Y = append(s.X, float64(c.SumRank)), append(s.Y, y(c))
				}
				return s
			}
			floor := line(func(c *Cell) float64 { return c.Floor.Total * 1e3 })
			floor.Dash, floor.Dots = true, false
			step.Series = append(step.Series, floor, line(func(c *Cell) float64 { return c.Step.P50 * 1e3 }))
			over.Series = append(over.Series, line(func(c *Cell) float64 {
				if c.Overhead == nil {
					return 0
				}
				return max(0, *c.Overhead)
			}))
			ratio.Series = append(ratio.Series, line(func(c *Cell) float64 { return c.Ratio }))
		}
		if len(row.Legend) > 0 {
			row.Charts = []chart.Chart{step, over, ratio}
			p.Rows = append(p.Rows, row)
		}
	}
	if len(r.Prefill) > 0 {
		p.Rows = append(p.Rows, r.prefillRow())
	}
	return p
}

// at are the cells of a batch and context by Σ rank.
func (r *Result) at(b, length int) []*Cell {
	var out []*Cell
	for i := range r.Cells {
		if c := &r.Cells[i]; c.Batch == b && c.Asked == length {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b *Cell) int { return cmp.Compare(a.SumRank, b.SumRank) })
	return out
}

func (r *Result) prefillRow() chart.Row {
	row := chart.Row{Height: 300}
	ttft := chart.Chart{Title: "First token of one prompt (dashed: its products)", XLabel: "prompt tokens", YLabel: "ms"}
	rate := chart.Chart{Title: "Prompt tokens a second", XLabel: "prompt tokens", YLabel: "tokens/s"}
	var names []string
	for i := range r.Prefill {
		if n := r.Prefill[i].Ranks.String(); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for i, n := range names {
		e := chart.Entry{Name: "rank " + n, Colour: chart.Palette[i%len(chart.Palette)]}
		if n == "" {
			e.Name = "no adapter"
		}
		row.Legend = append(row.Legend, e)
		a, b := chart.Series{Colour: e.Colour, Marks: true}, chart.Series{Colour: e.Colour, Marks: true}
		floor := chart.Series{Colour: chart.Soft, Dash: true}
		for j := range r.Prefill {
			if p := &r.Prefill[j]; p.Ranks.String() == n {
				x := float64(p.Tokens)
				a.X, a.Y = append(a.X, x), append(a.Y, p.TTFT.P50*1e3)
				b.X, b.Y = append(b.X, x), append(b.Y, p.TokensPerSecond)
				floor.X, floor.Y = append(floor.X, x), append(floor.Y, p.GEMM*1e3)
			}
		}
		if i == 0 {
			ttft.Series = append(ttft.Series, floor)
		}
		ttft.Series, rate.Series = append(ttft.Series, a), append(rate.Series, b)
	}
	row.Charts = []chart.Chart{ttft, rate}
	return row
}
