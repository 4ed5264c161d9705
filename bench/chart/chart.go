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
	// NoYTicks leaves the numbers of the y axis out.
	NoYTicks bool
	// Percent writes the y axis in percent.
	Percent bool
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
	f := frame{x: x + left, y: y + top, w: w - left - right, h: h - top - bottom, maxX: c.MaxX, maxY: c.MaxY}
	c.fit(&f)
	on.Text(x+left, y+18, c.Title, Style{Size: 13, Bold: true, Colour: Ink})
	c.axes(on, &f)
	for _, b := range c.Bars {
		p, q := f.at(b.X0, b.Y+1), f.at(b.X1, b.Y)
		on.Rect(p.X, p.Y+.5, max(.8, q.X-p.X), max(.8, q.Y-p.Y-1), b.Colour)
	}
	for _, s := range c.Series {
		points := make([]Point, len(s.X))
		for i := range s.X {
			points[i] = f.at(min(s.X[i], f.maxX), min(s.Y[i], f.maxY))
		}
		on.Line(points, 1.8, s.Colour)
	}
}

// frame maps data to the plotted area.
type frame struct {
	x, y, w, h, maxX, maxY float64
}

func (f *frame) at(x, y float64) Point {
	return Point{f.x + f.w*x/f.maxX, f.y + f.h*(1-y/f.maxY)}
}

func (c *Chart) fit(f *frame) {
	for _, s := range c.Series {
		for i := range s.X {
			if c.MaxX == 0 {
				f.maxX = max(f.maxX, s.X[i])
			}
			if c.MaxY == 0 {
				f.maxY = max(f.maxY, s.Y[i]*1.05)
			}
		}
	}
	for _, b := range c.Bars {
		if c.MaxX == 0 {
			f.maxX = max(f.maxX, b.X1)
		}
		if c.MaxY == 0 {
			f.maxY = max(f.maxY, b.Y+1)
		}
	}
	if !(f.maxX > 0) || math.IsInf(f.maxX, 0) {
		f.maxX = 1
	}
	if !(f.maxY > 0) || math.IsInf(f.maxY, 0) {
		f.maxY = 1
	}
}

func (c *Chart) axes(on Canvas, f *frame) {
	small := Style{Size: 11, Colour: Soft}
	for _, t := range Ticks(f.maxX, int(f.w/70)) {
		p := f.at(t, 0)
		on.Line([]Point{{p.X, f.y}, p}, .7, grid)
		st := small
		st.Anchor = Middle
		on.Text(p.X, p.Y+15, number(t), st)
	}
	for _, t := range Ticks(f.maxY, int(f.h/34)) {
		if c.NoYTicks {
			break
		}
		p := f.at(0, t)
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
