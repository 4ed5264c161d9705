package kernels

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"chorale/bench/chart"
	"chorale/bench/figure"
)

func micros(s float64) string { return fmt.Sprintf("%.1f", s*1e6) }

// WriteTable prints the result for people.
func (r *Result) WriteTable(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %.0f GB/s by %s; times in µs\n", r.Device.Name, r.Device.BytesPerSecond/1e9, r.Device.Probe)
	t := figure.Table{Left: 1}
	t.Add("product", "batch", "time", "floor", "ratio", "TFLOP/s", "and what follows")
	for i := range r.Products {
		p := &r.Products[i]
		t.Add(p.title(), fmt.Sprint(p.Batch), micros(p.Time), micros(p.Floor), fmt.Sprintf("%.2f", p.Ratio),
			fmt.Sprintf("%.3g", p.FLOPS/1e12), micros(p.Followed))
	}
	b.WriteByte('\n')
	t.Write(&b)
	for _, name := range r.names() {
		t := figure.Table{Left: 2}
		t.Add("rank", "rows", "batch", "adapters", "Σ rank", "without", "with", "added", "floor", "ratio")
		for i := range r.Cells {
			if c := &r.Cells[i]; c.Name == name {
				t.Add(c.Ranks.String(), string(c.Mix), fmt.Sprint(c.Batch), fmt.Sprint(c.Adapters), fmt.Sprint(c.SumRank),
					micros(c.Without.Median), micros(c.With.Median), micros(c.Added), micros(c.Floor), fmt.Sprintf("%.2f", c.Ratio))
			}
		}
		if len(t.Rows()) > 1 {
			fmt.Fprintf(&b, "\nLoRA on %s\n", name)
			t.Write(&b)
		}
	}
	if r.Stopped != "" {
		b.WriteString("\nnote: the measurement ended early: " + r.Stopped + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (p *Product) title() string { return fmt.Sprintf("%s %d→%d", p.Name, p.In, p.Out) }

// names are the products in the order of their measuring.
func (r *Result) names() []string {
	var out []string
	for i := range r.Products {
		if n := r.Products[i].Name; !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// Page draws times over the batch beside their floors, and what LoRA adds
// over its floor and over Σ rank.
func (r *Result) Page() *chart.Page {
	p := &chart.Page{Title: "chorale bench kernels", Subtitle: fmt.Sprintf("%s · %.0f GB/s by %s · %s",
		r.Device.Name, r.Device.BytesPerSecond/1e9, r.Device.Probe, r.Started.UTC().Format("2006-01-02 15:04 UTC"))}
	var products []chart.Entry
	colour := map[string]chart.Entry{}
	for i, n := range r.names() {
		e := chart.Entry{Name: n, Colour: chart.Palette[i%len(chart.Palette)]}
		colour[n] = e
		products = append(products, e)
	}
	time := chart.Chart{Title: "A product (dashed: reading its weight)", XLabel: "rows", YLabel: "µs", LogX: true, LogY: true}
	for _, e := range products {
		s, floor := chart.Series{Colour: e.Colour, Marks: true}, chart.Series{Colour: e.Colour, Dash: true}
		for i := range r.Products {
			if q := &r.Products[i]; q.Name == e.Name {
				s.X, s.Y = append(s.X, float64(q.Batch)), append(s.Y, q.Time*1e6)
				floor.X, floor.Y = append(floor.X, float64(q.Batch)), append(floor.Y, q.Floor*1e6)
			}
		}
		time.Series = append(time.Series, floor, s)
	}
	p.Rows = []chart.Row{{Legend: products, Charts: []chart.Chart{time, r.added(products)}, Height: 300}}
	if len(r.Cells) == 0 {
		p.Rows[0].Charts = p.Rows[0].Charts[:1]
		return p
	}
	p.Rows = append(p.Rows, r.byMix())
	return p
}

// added is what LoRA adds over Σ rank at the largest batch.
func (r *Result) added(products []chart.Entry) chart.Chart {
	most := 0
	for i := range r.Cells {
		most = max(most, r.Cells[i].Batch)
	}
	c := chart.Chart{Title: fmt.Sprintf("LoRA at %d rows (dashed: reading A and B)", most), XLabel: "Σ rank of the distinct adapters", YLabel: "µs added", LogX: true, LogY: true}
	for _, e := range products {
		s, floor := chart.Series{Colour: e.Colour, Dots: true}, chart.Series{Colour: e.Colour, Dash: true}
		var cells []*Cell
		for i := range r.Cells {
			if q := &r.Cells[i]; q.Name == e.Name && q.Batch == most {
				cells = append(cells, q)
			}
		}
		slices.SortStableFunc(cells, func(a, b *Cell) int { return a.SumRank - b.SumRank })
		for _, q := range cells {
			floor.X, floor.Y = append(floor.X, float64(q.SumRank)), append(floor.Y, q.Floor*1e6)
			if q.Added > 0 {
				s.X, s.Y = append(s.X, float64(q.SumRank)), append(s.Y, q.Added*1e6)
			}
		}
		c.Series = append(c.Series, floor, s)
	}
	return c
}

// byMix shows all cells, by how their rows share adapters.
func (r *Result) byMix() chart.Row {
	row := chart.Row{Height: 300}
	abs := chart.Chart{Title: "All cells (dashed: the floor)", XLabel: "µs to read the distinct adapters", YLabel: "µs added", LogX: true, LogY: true}
	rel := chart.Chart{Title: "Added time over its floor", XLabel: "µs to read the distinct adapters", YLabel: "ratio", LogX: true, LogY: true}
	lo, hi := 0.0, 0.0
	for i := range r.Cells {
		f := r.Cells[i].Floor * 1e6
		if lo == 0 || f < lo {
			lo = f
		}
		hi = max(hi, f)
	}
	abs.Series = append(abs.Series, chart.Series{X: []float64{lo, hi}, Y: []float64{lo, hi}, Colour: chart.Soft, Dash: true})
	rel.Series = append(rel.Series, chart.Series{X: []float64{lo, hi}, Y: []float64{1, 1}, Colour: chart.Soft, Dash: true})
	for i, m := range Mixes {
		e := chart.Entry{Name: string(m), Colour: chart.Palette[(i+4)%len(chart.Palette)]}
		a, b := chart.Series{Colour: e.Colour, Dots: true}, chart.Series{Colour: e.Colour, Dots: true}
		for j := range r.Cells {
			if c := &r.Cells[j]; c.Mix == m && c.Added > 0 {
				a.X, a.Y = append(a.X, c.Floor*1e6), append(a.Y, c.Added*1e6)
				b.X, b.Y = append(b.X, c.Floor*1e6), append(b.Y, c.Ratio)
			}
		}
		row.Legend = append(row.Legend, e)
		abs.Series, rel.Series = append(abs.Series, a), append(rel.Series, b)
	}
	row.Charts = []chart.Chart{abs, rel}
	return row
}
