package chart

import (
	"fmt"
	"image/color"
	"math"
	"strconv"
	"unicode/utf8"
)

// Series is one line.
type Series struct {
	Name   string
	Colour color.RGBA
	X, Y   []float64
	// Marks puts a dot on each point, Dots draws nothing else; Dash breaks the
	// line, for what is computed and not measured.
	Marks, Dots, Dash bool
}

// Bar is one thing on a timeline: from X0 to X1 at height Y, in axis units.
type Bar struct {
	X0, X1, Y float64
	Colour    color.RGBA
}

// Chart is one frame with axes.
type Chart struct {
	Title, XLabel, YLabel string
	Series                []Series
	Bars                  []Bar
	// MaxX and MaxY end the axes, which begin at 0; 0 takes what the data need.
	MaxX, MaxY float64
	// LogX and LogY make an axis logarithmic; it begins at or below the least
	// value above 0 then, and what is not above 0 is drawn at its begin.
	LogX, LogY bool
	// XTicks replace the numbers below the x axis.
	XTicks []Tick
	// NoYTicks leaves the numbers of the y axis out.
	NoYTicks bool
	// Percent writes the y axis in percent.
	Percent bool
}

// Tick is a place on an axis and what is written there.
type Tick struct {
	At   float64
	Text string
}

// Palette are the colours of series: blue, orange, green, red, violet, brown,
// pink, olive, cyan, grey; apart also for most of the colour-blind.
var Palette = []color.RGBA{
	{0x00, 0x72, 0xb2, 255},
	{0xe6, 0x9f, 0x00, 255},
	{0x00, 0x9e, 0x73, 255},
	{0xd5, 0x5e, 0x00, 255},
	{0x7b, 0x5c, 0xb8, 255},
	{0x8c, 0x56, 0x4b, 255},
	{0xcc, 0x79, 0xa7, 255},
	{0x8a, 0x8d, 0x1e, 255},
	{0x56, 0xb4, 0xe9, 255},
	{0x70, 0x70, 0x70, 255},
}

// Inks of everything but data.
var (
	Ink  = color.RGBA{0x22, 0x22, 0x22, 255}
	Soft = color.RGBA{0x66, 0x66, 0x66, 255}
	grid = color.RGBA{0xe4, 0xe4, 0xe4, 255}
)

// Margins around the plotted area.
const (
	left, right, top, bottom = 56, 14, 30, 40
)

// Draw draws the chart into the rectangle.
func (c *Chart) Draw(on Canvas, x, y, w, h float64) {
	f := frame{x: x + left, y: y + top, w: w - left - right, h: h - top - bottom}
	f.ax, f.ay = c.axis(true), c.axis(false)
	on.Text(x+left, y+18, c.Title, Style{Size: 13, Bold: true, Colour: Ink})
	c.axes(on, &f)
	for _, b := range c.Bars {
		p, q := f.at(b.X0, b.Y+1), f.at(b.X1, b.Y)
		on.Rect(p.X, p.Y+.5, max(.8, q.X-p.X), max(.8, q.Y-p.Y-1), b.Colour)
	}
	for _, s := range c.Series {
		points := make([]Point, len(s.X))
		for i := range s.X {
			points[i] = f.at(min(s.X[i], f.ax.hi), min(s.Y[i], f.ay.hi))
		}
		s.draw(on, points)
	}
}

func (s *Series) draw(on Canvas, points []Point) {
	if s.Dash {
		for _, piece := range dashes(points) {
			on.Line(piece, 1.4, s.Colour)
		}
		return
	}
	if !s.Dots {
		on.Line(points, 1.8, s.Colour)
	}
	if s.Marks || s.Dots {
		const r = 2.6
		for _, p := range points {
			on.Rect(p.X-r, p.Y-r, 2*r, 2*r, s.Colour)
		}
	}
}

// dashes cuts a line into pieces of 6 with gaps of 4.
func dashes(points []Point) [][]Point {
	const on, off = 6.0, 4.0
	var out [][]Point
	var piece []Point
	left, pen := on, true
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		n := math.Hypot(b.X-a.X, b.Y-a.Y)
		for at := 0.0; at < n; {
			step := min(left, n-at)
			p, q := mix(a, b, at/n), mix(a, b, (at+step)/n)
			if pen {
				if piece == nil {
					piece = []Point{p}
				}
				piece = append(piece, q)
			}
			at, left = at+step, left-step
			if left > 0 {
				continue
			}
			if pen {
				out, piece, left = append(out, piece), nil, off
			} else {
				left = on
			}
			pen = !pen
		}
	}
	if piece != nil {
		out = append(out, piece)
	}
	return out
}

func mix(a, b Point, t float64) Point { return Point{a.X + (b.X-a.X)*t, a.Y + (b.Y-a.Y)*t} }

// axis is one direction's range; lo is 0 unless log.
type axis struct {
	lo, hi float64
	log    bool
}

// share is how far along the axis v is, from 0 to 1.
func (a axis) share(v float64) float64 {
	if !a.log {
		return v / a.hi
	}
	return math.Log(max(v, a.lo)/a.lo) / math.Log(a.hi/a.lo)
}

func (a axis) ticks(n int) []float64 {
	if a.log {
		return logTicks(a.lo, a.hi, n)
	}
	return Ticks(a.hi, n)
}

// frame maps data to the plotted area.
type frame struct {
	x, y, w, h float64
	ax, ay     axis
}

func (f *frame) at(x, y float64) Point {
	return Point{f.x + f.w*f.ax.share(x), f.y + f.h*(1-f.ay.share(y))}
}

// axis finds a direction's range.
func (c *Chart) axis(x bool) axis {
	a, least := axis{hi: c.MaxY, log: c.LogY}, math.Inf(1)
	if x {
		a = axis{hi: c.MaxX, log: c.LogX}
	}
	fit, most := a.hi == 0, 0.0
	see := func(v float64) {
		most = max(most, v)
		if v > 0 {
			least = min(least, v)
		}
	}
	for _, s := range c.Series {
		for i := range s.X {
			if x {
				see(s.X[i])
			} else {
				see(s.Y[i])
			}
		}
	}
	for _, b := range c.Bars {
		if x {
			see(b.X1)
		} else {
			see(b.Y + 1)
		}
	}
	if fit {
		a.hi = most
		if !x && len(c.Series) > 0 {
			a.hi *= 1.05
		}
	}
	if !(a.hi > 0) || math.IsInf(a.hi, 0) {
		a.hi = 1
	}
	if a.log {
		if a.lo = round(min(least, a.hi)); a.lo >= a.hi {
			a.lo = a.hi / 10
		}
	}
	return a
}

// round is the largest of 1, 2, 5 times a power of ten that is no more than v.
func round(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, k := range []float64{5, 2} {
		if k*unit <= v*(1+1e-9) {
			return k * unit
		}
	}
	return unit
}

func (c *Chart) axes(on Canvas, f *frame) {
	small := Style{Size: 11, Colour: Soft}
	ticks := c.XTicks
	if ticks == nil {
		for _, t := range f.ax.ticks(int(f.w / 70)) {
			ticks = append(ticks, Tick{t, number(t)})
		}
	}
	for _, t := range ticks {
		p := Point{f.x + f.w*f.ax.share(t.At), f.y + f.h}
		on.Line([]Point{{p.X, f.y}, p}, .7, grid)
		st := small
		st.Anchor = Middle
		on.Text(p.X, p.Y+15, t.Text, st)
	}
	for _, t := range f.ay.ticks(int(f.h / 34)) {
		if c.NoYTicks {
			break
		}
		p := Point{f.x, f.y + f.h*(1-f.ay.share(t))}
		on.Line([]Point{p, {f.x + f.w, p.Y}}, .7, grid)
		st, text := small, number(t)
		if c.Percent {
			text = number(t*100) + "%"
		}
		st.Anchor = End
		on.Text(p.X-6, p.Y+4, text, st)
	}
	on.Line([]Point{{f.x, f.y}, {f.x, f.y + f.h}, {f.x + f.w, f.y + f.h}}, 1, Soft)
	st := small
	st.Anchor = Middle
	on.Text(f.x+f.w/2, f.y+f.h+32, c.XLabel, st)
	st.Anchor = End
	on.Text(f.x+f.w, f.y-8, c.YLabel, st)
}

// logTicks are 1, 2 and 5 times powers of ten in [lo, hi], or fewer of them.
func logTicks(lo, hi float64, n int) []float64 {
	for _, ks := range [][]float64{{1, 2, 5}, {1, 3}, {1}} {
		var out []float64
		for e := math.Floor(math.Log10(lo)); math.Pow(10, e) <= hi; e++ {
			for _, k := range ks {
				if t := k * math.Pow(10, e); t >= lo*(1-1e-9) && t <= hi*(1+1e-9) {
					out = append(out, t)
				}
			}
		}
		if len(out) <= max(3, n) || len(ks) == 1 {
			return out
		}
	}
	return nil
}

// Ticks are about n round numbers from 0 to limit.
func Ticks(limit float64, n int) []float64 {
	if !(limit > 0) || math.IsInf(limit, 0) {
		return nil
	}
	raw := limit / float64(max(1, n))
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	step := 10 * unit
	for _, k := range []float64{1, 2, 2.5, 5} {
		if k*unit >= raw*(1-1e-9) {
			step = k * unit
			break
		}
	}
	var out []float64
	for i := 0; i <= 1000; i++ {
		t := float64(i) * step
		if t > limit*(1+1e-9) {
			break
		}
		out = append(out, t)
	}
	return out
}

// number writes a tick without noise from binary fractions.
func number(v float64) string {
	r, _ := strconv.ParseFloat(fmt.Sprintf("%.6g", v), 64)
	return strconv.FormatFloat(r, 'f', -1, 64)
}

// Entry is one line of a legend.
type Entry struct {
	Name   string
	Colour color.RGBA
}

// Legend draws entries from left to right, in rows no wider than w, and tells
// the height that it took.
func Legend(on Canvas, x, y, w float64, entries []Entry) float64 {
	const size, row = 12.0, 18.0
	at, line := x, 0
	for _, e := range entries {
		wide := 24 + float64(utf8.RuneCountInString(e.Name))*size*.56
		if at > x && at+wide > x+w {
			at, line = x, line+1
		}
		base := y + float64(line)*row
		on.Rect(at, base-9, 10, 10, e.Colour)
		on.Text(at+14, base, e.Name, Style{Size: size, Colour: Ink})
		at += wide
	}
	if len(entries) == 0 {
		return 0
	}
	return float64(line+1) * row
}
