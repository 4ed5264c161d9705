package chart

import (
	"errors"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestTicks(t *testing.T) {
	for _, tt := range []struct {
		limit float64
		n     int
		want  []float64
	}{
		{1, 5, []float64{0, .2, .4, .6, .8, 1}},
		{0.59, 6, []float64{0, .1, .2, .3, .4, .5}},
		{7, 3, []float64{0, 2.5, 5}},
		{430, 5, []float64{0, 100, 200, 300, 400}},
		{3, 0, []float64{0}},
		{0, 5, nil},
		{math.NaN(), 5, nil},
		{math.Inf(1), 5, nil},
	} {
		if d := cmp.Diff(tt.want, Ticks(tt.limit, tt.n), cmpopts.EquateApprox(0, 1e-12)); d != "" {
			t.Errorf("%g, %d: %s", tt.limit, tt.n, d)
		}
	}
	for limit := 1e-9; limit < 1e12; limit *= 1.7 {
		if n := len(Ticks(limit, 6)); n < 3 || n > 8 {
			t.Errorf("%g: %d ticks", limit, n)
		}
	}
}

func TestNumber(t *testing.T) {
	tenth := .1
	for v, want := range map[float64]string{0: "0", 3 * tenth: "0.3", 1500: "1500", 2.5: "2.5"} {
		if got := number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

// recorder keeps what is drawn.
type recorder struct {
	lines [][]Point
	rects [][4]float64
	texts []string
}

func (r *recorder) Line(p []Point, _ float64, _ color.RGBA) { r.lines = append(r.lines, p) }
func (r *recorder) Rect(x, y, w, h float64, _ color.RGBA) {
	r.rects = append(r.rects, [4]float64{x, y, w, h})
}
func (r *recorder) Text(_, _ float64, s string, _ Style) { r.texts = append(r.texts, s) }

// TestDrawStaysInside: nothing of the data leaves the frame.
func TestDrawStaysInside(t *testing.T) {
	r := &recorder{}
	c := Chart{
		Series: []Series{{X: []float64{0, 5, 20}, Y: []float64{0, 2, 3}}}, Bars: []Bar{{X0: 1, X1: 2, Y: 0}, {X0: 3, X1: 3, Y: 1}},
		MaxX: 10, MaxY: 2, NoYTicks: true,
	}
	c.Draw(r, 100, 200, 400, 300)
	for _, l := range r.lines {
		for _, p := range l {
			if p.X < 100+left-1 || p.X > 500-right+1 || p.Y < 200+top-1 || p.Y > 500-bottom+1 {
				t.Errorf("point %v is outside", p)
			}
		}
	}
	for _, q := range r.rects {
		if q[2] <= 0 || q[3] <= 0 {
			t.Errorf("rectangle %v", q)
		}
	}
	(&Chart{}).Draw(r, 0, 0, 100, 100) // nothing to show is no fault
}

func TestLegendWraps(t *testing.T) {
	r := &recorder{}
	entries := make([]Entry, 10)
	for i := range entries {
		entries[i].Name = "ten letters"
	}
	if h := Legend(r, 0, 0, 220, entries); h != 5*18 {
		t.Errorf("height %g, want 90", h)
	}
	if h := Legend(r, 0, 0, 220, nil); h != 0 {
		t.Errorf("height %g of nothing", h)
	}
}

func TestRasterPaints(t *testing.T) {
	r := NewRaster(20, 20)
	red := color.RGBA{255, 0, 0, 255}
	r.Rect(5, 5, 10, 10, red)
	r.Line([]Point{{0, 1}, {19, 1}}, 1, red)
	r.Text(1, 19, "x", Style{Size: 4, Colour: red})
	r.Rect(-5, -5, 3, 3, red) // outside
	if got := r.img.RGBAAt(20, 20); got != red {
		t.Errorf("inside %v", got)
	}
	if got := r.img.RGBAAt(36, 20); got != (color.RGBA{255, 255, 255, 255}) {
		t.Errorf("outside %v", got)
	}
	if b, err := r.Bytes(); err != nil || len(b) == 0 {
		t.Error(err)
	}
}

func TestLogTicks(t *testing.T) {
	for _, tt := range []struct {
		lo, hi float64
		n      int
		want   []float64
	}{
		{1, 100, 9, []float64{1, 2, 5, 10, 20, 50, 100}},
		{1, 100, 5, []float64{1, 3, 10, 30, 100}},
		{.02, 2000, 4, []float64{.1, 1, 10, 100, 1000}},
		{5, 40, 9, []float64{5, 10, 20}},
	} {
		if d := cmp.Diff(tt.want, logTicks(tt.lo, tt.hi, tt.n), cmpopts.EquateApprox(1e-9, 0)); d != "" {
			t.Errorf("%g to %g: %s", tt.lo, tt.hi, d)
		}
	}
}

// TestLogAxis: decades are equally far apart, and what is not above 0 stands at
// the begin.
func TestLogAxis(t *testing.T) {
	c := Chart{LogX: true, LogY: true, Series: []Series{{X: []float64{3, 30, 300}, Y: []float64{0, 1, 100}}}}
	x, y := c.axis(true), c.axis(false)
	if x.lo != 2 || x.hi != 300 || y.lo != 1 || y.hi != 105 {
		t.Errorf("x %+v, y %+v", x, y)
	}
	if a, b := x.share(30)-x.share(3), x.share(300)-x.share(30); math.Abs(a-b) > 1e-12 {
		t.Errorf("decades of %g and %g", a, b)
	}
	if s := y.share(0); s != 0 {
		t.Errorf("0 stands at %g", s)
	}
	// Nothing above 0, and a single value.
	for _, ys := range [][]float64{nil, {0}, {5}} {
		a := (&Chart{LogY: true, Series: []Series{{X: ys, Y: ys}}}).axis(false)
		if !(a.lo > 0 && a.hi > a.lo) {
			t.Errorf("%v: %+v", ys, a)
		}
	}
}

func TestDashes(t *testing.T) {
	got := dashes([]Point{{0, 0}, {8, 0}, {8, 7}})
	want := [][]Point{{{0, 0}, {6, 0}}, {{8, 2}, {8, 7}}}
	if d := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-9)); d != "" {
		t.Error(d)
	}
	if got := dashes(nil); got != nil {
		t.Errorf("%v of nothing", got)
	}
}

func TestSeriesForms(t *testing.T) {
	xs := []float64{0, 1, 2}
	for name, tt := range map[string]struct {
		s     Series
		lines int
		rects int
	}{
		"line": {Series{}, 1, 0}, "marks": {Series{Marks: true}, 1, 3}, "dots": {Series{Dots: true}, 0, 3},
	} {
		plain, r := &recorder{}, &recorder{}
		(&Chart{MaxX: 2, MaxY: 2}).Draw(plain, 0, 0, 300, 200)
		tt.s.X, tt.s.Y = xs, xs
		(&Chart{MaxX: 2, MaxY: 2, Series: []Series{tt.s}}).Draw(r, 0, 0, 300, 200)
		if len(r.lines)-len(plain.lines) != tt.lines || len(r.rects) != tt.rects {
			t.Errorf("%s: %d lines, %d rectangles", name, len(r.lines)-len(plain.lines), len(r.rects))
		}
	}
}

func TestPage(t *testing.T) {
	p := Page{Title: "title", Subtitle: "below", Rows: []Row{
		{Legend: []Entry{{Name: "a"}}, Charts: []Chart{{Title: "one", XTicks: []Tick{{1, "first"}}}, {Title: "two"}}}, {Charts: []Chart{{Title: "three"}}, Height: 100},
	}}
	dir := t.TempDir()
	for _, name := range []string{"new/a.svg", "a.png"} {
		if err := p.WriteFile(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "new/a.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"title", "below", "one", "two", "three", "first"} {
		if !strings.Contains(string(b), ">"+want+"<") {
			t.Errorf("no %s", want)
		}
	}
	if err := p.WriteFile(filepath.Join(dir, "a.pdf")); !errors.Is(err, ErrFormat) || CanWrite("a.pdf") || !CanWrite("A.SVG") {
		t.Errorf("error %v", err)
	}
}
