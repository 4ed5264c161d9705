package chart

import (
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrFormat marks a file name that ends neither in .svg nor in .png.
var ErrFormat = errors.New("plots are .svg or .png")

// CanWrite tells whether Write knows the format of a file name.
func CanWrite(path string) bool { return slices.Contains([]string{".svg", ".png"}, format(path)) }

func format(path string) string { return strings.ToLower(filepath.Ext(path)) }

// Write makes a drawing of w by h pixels and writes it into a file, whose
// folder is made.
func Write(path string, w, h int, draw func(Canvas)) error {
	var data []byte
	switch format(path) {
	case ".svg":
		on := NewSVG(w, h)
		draw(on)
		data = on.Bytes()
	case ".png":
		on := NewRaster(w, h)
		draw(on)
		var err error
		if data, err = on.Bytes(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: %s", ErrFormat, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	return os.WriteFile(path, data, 0o644)
}

// Page is a title over rows of charts, each row with a legend of its own.
type Page struct {
	Title, Subtitle string
	Rows            []Row
}

// Row is charts side by side; all are as high.
type Row struct {
	Legend []Entry
	Charts []Chart
	Height float64 // 0: 250
}

// The page's measures.
const (
	pageWidth, pageLeft, pageGap = 1000.0, 20.0, 14.0
	pageTitle, rowHeight         = 62.0, 250.0
)

// nowhere measures what a legend needs.
type nowhere struct{ Canvas }

func (nowhere) Rect(_, _, _, _ float64, _ color.RGBA) {}
func (nowhere) Text(_, _ float64, _ string, _ Style)  {}

// WriteFile writes the page as FILE.svg or FILE.png.
func (p *Page) WriteFile(path string) error {
	h := pageTitle
	for i := range p.Rows {
		h += p.Rows[i].height() + pageGap
	}
	return Write(path, pageWidth, int(h), p.draw)
}

func (r *Row) charts() float64 {
	if r.Height > 0 {
		return r.Height
	}
	return rowHeight
}

func (r *Row) height() float64 {
	return Legend(nowhere{}, 0, 0, pageWidth-2*pageLeft, r.Legend) + r.charts()
}

func (p *Page) draw(on Canvas) {
	on.Text(pageLeft, 26, p.Title, Style{Size: 17, Bold: true, Colour: Ink})
	on.Text(pageLeft, 44, p.Subtitle, Style{Size: 11, Colour: Soft})
	y := pageTitle + 4
	for i := range p.Rows {
		r := &p.Rows[i]
		y += Legend(on, pageLeft, y, pageWidth-2*pageLeft, r.Legend)
		w := pageWidth / float64(len(r.Charts))
		for j := range r.Charts {
			r.Charts[j].Draw(on, float64(j)*w, y-8, w, r.charts())
		}
		y += r.charts() + pageGap
	}
}
