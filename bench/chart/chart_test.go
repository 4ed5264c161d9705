package chart

import (
	"image/color"
	"math"
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
