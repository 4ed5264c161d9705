package chart

import (
	"bytes"
	"fmt"
	"html"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// Point is a place, x to the right and y down.
type Point struct{ X, Y float64 }

// Anchor is which part of a text stands at its point.
type Anchor int

// The anchors.
const (
	Start Anchor = iota
	Middle
	End
)

// Style is how text looks.
type Style struct {
	Size   float64
	Bold   bool
	Colour color.RGBA
	Anchor Anchor
}

// Pale mixes a colour with white, for what matters less. There is no
// transparency: not every renderer of SVG knows it.
func Pale(c color.RGBA) color.RGBA {
	mix := func(v uint8) uint8 { return uint8((int(v)*3 + 255*7) / 10) }
	return color.RGBA{mix(c.R), mix(c.G), mix(c.B), 255}
}

// Canvas is drawn on; colours are opaque.
type Canvas interface {
	// Line is a line through points, width pixels wide.
	Line(points []Point, width float64, c color.RGBA)
	// Rect is a filled rectangle.
	Rect(x, y, w, h float64, c color.RGBA)
	// Text is one line of text, its base line at y.
	Text(x, y float64, s string, st Style)
}

// SVG is a Canvas that writes an SVG document.
type SVG struct {
	w, h int
	b    strings.Builder
}

// NewSVG makes a white canvas of w by h pixels.
func NewSVG(w, h int) *SVG { return &SVG{w: w, h: h} }

func hex(c color.RGBA) string { return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B) }

// Line implements Canvas.
func (s *SVG) Line(points []Point, width float64, c color.RGBA) {
	if len(points) < 2 {
		return
	}
	s.b.WriteString(`<polyline fill="none" stroke-linejoin="round" stroke="`)
	fmt.Fprintf(&s.b, `%s" stroke-width="%.3g" points="`, hex(c), width)
	for i, p := range points {
		if i > 0 {
			s.b.WriteByte(' ')
		}
		fmt.Fprintf(&s.b, "%.1f,%.1f", p.X, p.Y)
	}
	s.b.WriteString("\"/>\n")
}

// Rect implements Canvas.
func (s *SVG) Rect(x, y, w, h float64, c color.RGBA) {
	fmt.Fprintf(&s.b, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" stroke=\"none\" fill=\"%s\"/>\n", x, y, w, h, hex(c))
}

// Text implements Canvas.
func (s *SVG) Text(x, y float64, text string, st Style) {
	anchor := [...]string{"start", "middle", "end"}[st.Anchor]
	weight := ""
	if st.Bold {
		weight = ` font-weight="bold"`
	}
	fmt.Fprintf(&s.b, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%.3g\" text-anchor=\"%s\"%s stroke=\"none\" fill=\"%s\">%s</text>\n",
		x, y, st.Size, anchor, weight, hex(st.Colour), html.EscapeString(clean(text)))
}

// clean drops what XML cannot hold.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0xfffe || r == 0xffff {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
}

// Bytes gives the document.
func (s *SVG) Bytes() []byte {
	return fmt.Appendf(nil, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "+
		"font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n"+
		"<rect width=\"100%%\" height=\"100%%\" stroke=\"none\" fill=\"#ffffff\"/>\n%s</svg>\n", s.w, s.h, s.w, s.h, s.b.String())
}

// Raster is a Canvas that makes a PNG.
type Raster struct {
	img           *image.RGBA
	regular, bold *opentype.Font
	err           error
}

// scale is the PNG's pixels per pixel of the drawing.
const scale = 2

// NewRaster makes a white canvas of w by h pixels.
func NewRaster(w, h int) *Raster {
	r := &Raster{img: image.NewRGBA(image.Rect(0, 0, w*scale, h*scale))}
	draw.Draw(r.img, r.img.Bounds(), image.White, image.Point{}, draw.Src)
	var err error
	if r.regular, err = opentype.Parse(goregular.TTF); err == nil {
		r.bold, err = opentype.Parse(gobold.TTF)
	}
	r.err = err
	return r
}

// fill paints a polygon, of which only its own box is rasterised.
func (r *Raster) fill(c color.RGBA, points ...Point) {
	lo, hi := Point{math.Inf(1), math.Inf(1)}, Point{math.Inf(-1), math.Inf(-1)}
	for _, p := range points {
		lo, hi = Point{min(lo.X, p.X), min(lo.Y, p.Y)}, Point{max(hi.X, p.X), max(hi.Y, p.Y)}
	}
	box := image.Rect(int(math.Floor(lo.X*scale)), int(math.Floor(lo.Y*scale)), int(math.Ceil(hi.X*scale))+1, int(math.Ceil(hi.Y*scale))+1)
	if box = box.Intersect(r.img.Bounds()); box.Empty() {
		return
	}
	z := vector.NewRasterizer(box.Dx(), box.Dy())
	for i, p := range points {
		x, y := float32(p.X*scale-float64(box.Min.X)), float32(p.Y*scale-float64(box.Min.Y))
		if i == 0 {
			z.MoveTo(x, y)
		} else {
			z.LineTo(x, y)
		}
	}
	z.ClosePath()
	z.Draw(r.img, box, image.NewUniform(c), image.Point{})
}

// Line implements Canvas.
func (r *Raster) Line(points []Point, width float64, c color.RGBA) {
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		dx, dy := b.X-a.X, b.Y-a.Y
		n := math.Hypot(dx, dy)
		if n == 0 {
			continue
		}
		// Half a width longer at both ends, so that joints close.
		ux, uy := dx/n*width/2, dy/n*width/2
		a, b = Point{a.X - ux, a.Y - uy}, Point{b.X + ux, b.Y + uy}
		r.fill(c, Point{a.X - uy, a.Y + ux}, Point{b.X - uy, b.Y + ux}, Point{b.X + uy, b.Y - ux}, Point{a.X + uy, a.Y - ux})
	}
}

// Rect implements Canvas.
func (r *Raster) Rect(x, y, w, h float64, c color.RGBA) {
	r.fill(c, Point{x, y}, Point{x + w, y}, Point{x + w, y + h}, Point{x, y + h})
}

// Text implements Canvas.
func (r *Raster) Text(x, y float64, s string, st Style) {
	if r.err != nil {
		return
	}
	f := r.regular
	if st.Bold {
		f = r.bold
	}
	face, err := opentype.NewFace(f, &opentype.FaceOptions{Size: st.Size * scale, DPI: 72, Hinting: font.HintingNone})
	if err != nil {
		r.err = err
		return
	}
	defer face.Close()
	d := font.Drawer{Dst: r.img, Src: image.NewUniform(st.Colour), Face: face}
	s = clean(s)
	at := fixed.Int26_6(x * scale * 64)
	switch w := d.MeasureString(s); st.Anchor {
	case Middle:
		at -= w / 2
	case End:
		at -= w
	}
	d.Dot = fixed.Point26_6{X: at, Y: fixed.Int26_6(y * scale * 64)}
	d.DrawString(s)
}

// Bytes gives the PNG.
func (r *Raster) Bytes() ([]byte, error) {
	if r.err != nil {
		return nil, fmt.Errorf("chart: %w", r.err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, r.img); err != nil {
		return nil, fmt.Errorf("chart: %w", err)
	}
	return b.Bytes(), nil
}
