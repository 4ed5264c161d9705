package bench

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"slices"

	"chorale/bench/chart"
	"chorale/bench/figure"
)

// CanPlot tells whether WritePlot knows the format of a file name.
func CanPlot(path string) bool { return chart.CanWrite(path) }

// ErrFormat marks a plot's file name that ends neither in .svg nor in .png.
var ErrFormat = chart.ErrFormat

// WritePlot draws the result into a file: the distributions of TTFT and TPOT,
// tokens per second over the last round, and who was served when, a line per
// request.
//
// A result that was read from a file needs its samples (Config.Raw).
func (r *Result) WritePlot(path string) error {
	if err := r.restore(); err != nil {
		return err
	}
	p := r.plan()
	return chart.Write(path, plotWidth, p.height, p.draw)
}

// ErrNoSamples marks a result that was written without its samples.
var ErrNoSamples = errors.New("bench: the result has no samples to draw: measure with --raw, or draw at once with --plot")

// restore takes over the samples that a file had.
func (r *Result) restore() error {
	for i := range r.Cells {
		c := &r.Cells[i]
		if c.all != nil {
			return nil
		}
		for _, run := range c.Rounds {
			if run.Samples == nil && run.Metrics.Requests > 0 {
				return ErrNoSamples
			}
			c.all, c.last = append(c.all, run.Samples), run.Samples
		}
	}
	return nil
}

// The page.
const (
	plotWidth   = 1000
	pageMargin  = 12
	chartHeight = 250
	titleHeight = 62
	maxLines    = 6 // timelines
)

// page is a plot's content and layout.
type page struct {
	title, subtitle string
	cells           []chart.Entry
	ttft, tpot      chart.Chart
	flow            chart.Chart
	times           []timeline
	height          int
}

// timeline is one cell's last round with the colours of its adapters.
type timeline struct {
	chart  chart.Chart
	height int
	legend []chart.Entry
}

func (r *Result) plan() *page {
	p := &page{title: "chorale bench", subtitle: r.subtitle()}
	p.ttft = chart.Chart{Title: "Time to first token", XLabel: "seconds", YLabel: "share of requests", Percent: true, MaxY: 1}
	p.tpot = chart.Chart{Title: "Time per output token", XLabel: "milliseconds", YLabel: "share of requests", Percent: true, MaxY: 1}
	p.flow = chart.Chart{Title: "Output, last round", XLabel: "seconds", YLabel: "tokens/s"}
	longest, colours := 0.0, map[string]color.RGBA{"": chart.Soft}
	for i := range r.Cells {
		for j := range r.Cells[i].last {
			longest = max(longest, r.Cells[i].last[j].Done)
		}
	}
	for i := range r.Cells {
		c := &r.Cells[i]
		e := chart.Entry{
			Name:   fmt.Sprintf("%s, %s: %.1f tok/s", c.Target, c.loraText(), c.OutputPerSecond.Median),
			Colour: chart.Palette[i%len(chart.Palette)],
		}
		p.cells = append(p.cells, e)
		ttft, tpot := c.values()
		p.ttft.Series = append(p.ttft.Series, cdf(e, ttft, 1))
		p.tpot.Series = append(p.tpot.Series, cdf(e, tpot, 1e3))
		p.flow.Series = append(p.flow.Series, flow(e, c.last, longest))
		if len(c.last) > 0 && len(p.times) < maxLines {
			p.times = append(p.times, c.timeline(longest, colours))
		}
	}
	p.height = titleHeight + 18*((len(p.cells)+2)/3) + 2*(chartHeight+pageMargin)
	for _, t := range p.times {
		p.height += t.height + 18*((len(t.legend)+6)/7) + pageMargin
	}
	return p
}

func (c *Cell) loraText() string {
	if c.Mode == ModeNone {
		return "no adapter"
	}
	return "adapters: " + string(c.Mode)
}

func (r *Result) subtitle() string {
	c := &r.Config
	lengths := fmt.Sprintf("%v tokens in, %v out", c.Prompt, c.Output)
	if len(c.Pairs) > 0 {
		lengths = fmt.Sprintf("%d pairs of lengths", len(c.Pairs))
	}
	load := fmt.Sprintf("%s × %s", figure.Plural(c.Clients, "client"), figure.Plural(c.Requests, "request"))
	if c.open() {
		load = fmt.Sprintf("%g requests/s, cv %g", c.Rate, c.CV)
	}
	return fmt.Sprintf("%s, %s, %s, seed %d · %d cores %s · %s", load, lengths, figure.Plural(c.Repeat, "round"), c.Seed,
		r.Machine.Cores, r.Machine.CPU, r.Started.UTC().Format("2006-01-02 15:04 UTC"))
}

// values are TTFT and TPOT of all whole requests, sorted.
func (c *Cell) values() (ttft, tpot []float64) {
	for _, run := range c.all {
		for i := range run {
			if s := &run[i]; s.ok() {
				ttft = append(ttft, s.ttft())
				if len(s.Tokens) > 1 {
					tpot = append(tpot, s.tpot())
				}
			}
		}
	}
	slices.Sort(ttft)
	slices.Sort(tpot)
	return ttft, tpot
}

// maxPoints bounds a line's points; more cannot be seen.
const maxPoints = 800

// cdf is the empirical distribution as steps.
func cdf(e chart.Entry, xs []float64, unit float64) chart.Series {
	s := chart.Series{Name: e.Name, Colour: e.Colour}
	if len(xs) == 0 {
		return s
	}
	every := max(1, len(xs)/maxPoints)
	s.X, s.Y = append(s.X, xs[0]*unit), append(s.Y, 0)
	for i := 0; i < len(xs); i += every {
		j := min(i+every, len(xs)) - 1
		y := float64(j+1) / float64(len(xs))
		s.X, s.Y = append(s.X, xs[j]*unit, xs[j]*unit), append(s.Y, s.Y[len(s.Y)-1], y)
	}
	return s
}

// flow is the rate of tokens in bins over a run.
func flow(e chart.Entry, samples []Sample, longest float64) chart.Series {
	const bins = 100
	s := chart.Series{Name: e.Name, Colour: e.Colour}
	if len(samples) == 0 || longest <= 0 {
		return s
	}
	width, end := max(longest/bins, .05), 0.0
	count := make([]float64, int(longest/width)+2)
	for i := range samples {
		for _, t := range samples[i].Tokens {
			count[min(len(count)-1, max(0, int(t/width)))]++
			end = max(end, t)
		}
	}
	for i, n := range count {
		from := float64(i) * width
		if from > end {
			break
		}
		s.X, s.Y = append(s.X, from, from+width), append(s.Y, n/width, n/width)
	}
	return s
}

// maxLegend bounds the adapters that a timeline's legend names.
const maxLegend = 14

// timeline draws requests in the order of their sending: a pale bar while they
// wait for the first token, a full one while tokens come. An adapter has the
// same colour in all timelines.
func (c *Cell) timeline(longest float64, colours map[string]color.RGBA) timeline {
	order := make([]*Sample, len(c.last))
	for i := range c.last {
		order[i] = &c.last[i]
	}
	slices.SortStableFunc(order, func(a, b *Sample) int {
		// Clients that started together differ by less than a bucket.
		const perSecond = 100
		if d := int(a.Due*perSecond) - int(b.Due*perSecond); d != 0 {
			return d
		}
		return a.Client - b.Client
	})
	t := timeline{chart: chart.Chart{
		Title:  fmt.Sprintf("Requests, last round: %s, %s", c.Target, c.loraText()),
		XLabel: "seconds", YLabel: "pale: waiting; full: tokens come", NoYTicks: true, MaxX: longest, MaxY: float64(max(1, len(order))),
	}}
	t.height = 70 + min(400, max(60, 12*len(order)))
	named := map[string]bool{}
	for i, s := range order {
		full, ok := colours[s.Adapter]
		if !ok {
			full = chart.Palette[(len(colours)-1)%len(chart.Palette)]
			colours[s.Adapter] = full
		}
		if !named[s.Adapter] {
			named[s.Adapter] = true
			t.name(s.Adapter, full)
		}
		y := float64(len(order) - 1 - i)
		begin := s.Done
		if len(s.Tokens) > 0 {
			begin = s.Tokens[0]
			t.chart.Bars = append(t.chart.Bars, chart.Bar{X0: begin, X1: s.last(), Y: y, Colour: full})
		}
		t.chart.Bars = append(t.chart.Bars, chart.Bar{X0: s.Due, X1: math.Max(begin, s.Due), Y: y, Colour: chart.Pale(full)})
	}
	return t
}

func (t *timeline) name(adapter string, c color.RGBA) {
	if adapter == "" {
		adapter = "base"
	}
	switch n := len(t.legend); {
	case n < maxLegend:
		t.legend = append(t.legend, chart.Entry{Name: adapter, Colour: c})
	case n == maxLegend:
		t.legend = append(t.legend, chart.Entry{Name: "and others", Colour: chart.Soft})
	}
}

func (p *page) draw(on chart.Canvas) {
	const left = 20.0
	on.Text(left, 26, p.title, chart.Style{Size: 17, Bold: true, Colour: chart.Ink})
	on.Text(left, 44, p.subtitle, chart.Style{Size: 11, Colour: chart.Soft})
	y := titleHeight + 4.0
	y += chart.Legend(on, left, y, plotWidth-2*left, p.cells)
	half := plotWidth / 2.0
	p.ttft.Draw(on, 0, y, half, chartHeight)
	p.tpot.Draw(on, half, y, half, chartHeight)
	y += chartHeight + pageMargin
	p.flow.Draw(on, 0, y, plotWidth, chartHeight)
	y += chartHeight + pageMargin
	for i := range p.times {
		t := &p.times[i]
		t.chart.Draw(on, 0, y, plotWidth, float64(t.height))
		y += float64(t.height) + 4
		y += chart.Legend(on, 56, y, plotWidth-2*56, t.legend) + pageMargin - 4
	}
}
