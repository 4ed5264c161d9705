package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rivo/uniseg"
	"golang.org/x/term"
)

// pane is one voice's answer so far.
type pane struct {
	name   string
	text   strings.Builder
	tokens int
	// finish is empty while the answer runs.
	finish string
	err    error
}

// status is the right side of a pane's head.
func (p *pane) status() string {
	switch {
	case p.err != nil:
		return "failed"
	case p.finish == "length":
		return fmt.Sprintf("%d tokens, cut", p.tokens)
	case p.finish != "":
		return fmt.Sprintf("%d tokens", p.tokens)
	case p.tokens == 0:
		return "waiting …"
	default:
		return fmt.Sprintf("%d …", p.tokens)
	}
}

// body is the answer's text, or why there is none.
func (p *pane) body() string {
	s := printable(p.text.String())
	if p.err != nil {
		s = strings.TrimSpace(s + "\n" + printable(p.err.Error()))
	}
	return s
}

// line is one row of the screen: its text, with colours, and its width in
// cells without them.
type line struct {
	text  string
	width int
}

// The layout of panes.
const (
	paneMin = 34 // narrowest pane
	paneGap = 2
	paneBar = "▌ "
	barCols = 2
	nameMin = 6 // of a name must be seen beside the status
)

// palette are the panes' colours: cyan, yellow, green, magenta, blue, red.
var palette = []int{36, 33, 32, 35, 34, 31}

// painter colours text, or does not.
type painter bool

func (p painter) paint(code int, s string) string {
	if !p || s == "" {
		return s
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, s)
}

// layout draws panes into width columns, in a grid of as many columns as keep
// panes readable. With height > 0 it takes at most that many rows as long as
// each pane keeps one, and shows the ends of longer answers.
func (p painter) layout(panes []*pane, width, height int) []line {
	n := len(panes)
	if n == 0 {
		return nil
	}
	cols := min(n, max(1, (width+paneGap)/(paneMin+paneGap)))
	rows := (n + cols - 1) / cols
	cols = (n + rows - 1) / rows // spread evenly
	colWidth := max(barCols+1, (width-paneGap*(cols-1))/cols)
	blocks := make([][]line, n)
	needs := make([]int, rows) // lines of text in the longest block of a row
	for i, v := range panes {
		blocks[i] = p.block(v, palette[i%len(palette)], colWidth)
		needs[i/cols] = max(needs[i/cols], len(blocks[i])-1)
	}
	if height > 0 {
		limit := share(height-2*rows+1, needs)
		for i, b := range blocks {
			if body := len(b) - 1; body > limit {
				blocks[i] = append(b[:1:1], b[1+body-limit:]...)
			}
		}
	}
	var out []line
	for r := 0; r < n; r += cols {
		if r > 0 {
			out = append(out, line{})
		}
		out = append(out, beside(blocks[r:min(n, r+cols)], colWidth)...)
	}
	return out
}

// share is the largest limit on each need with which their sum fits into
// total, at least 1.
func share(total int, needs []int) int {
	for limit := 1; ; limit++ {
		sum, most := 0, 0
		for _, n := range needs {
			sum += min(n, limit+1)
			most = max(most, n)
		}
		if sum > total || limit >= most {
			return limit
		}
	}
}

// block draws one pane: its head and its text.
func (p painter) block(v *pane, colour, width int) []line {
	inner := width - barCols
	status, name := v.status(), printable(v.name)
	if room := inner - uniseg.StringWidth(status) - 1; room < min(nameMin, uniseg.StringWidth(name)) {
		status = "" // the name matters more
		name = clip(name, inner)
	} else {
		name = clip(name, room)
	}
	space := max(0, inner-uniseg.StringWidth(name)-uniseg.StringWidth(status))
	bar := p.paint(colour, paneBar)
	code := 2 // dim
	if v.err != nil {
		code = 31
	}
	head := bar + p.paint(1, name) + strings.Repeat(" ", space) + p.paint(code, status)
	out := []line{{head, barCols + uniseg.StringWidth(name) + space + uniseg.StringWidth(status)}}
	for _, s := range wrap(v.body(), inner) {
		out = append(out, line{bar + s, barCols + uniseg.StringWidth(s)})
	}
	return out
}

// beside puts blocks next to each other.
func beside(blocks [][]line, colWidth int) []line {
	height := 0
	for _, b := range blocks {
		height = max(height, len(b))
	}
	out := make([]line, height)
	for y := range out {
		var b strings.Builder
		width, owed := 0, 0 // owed blanks are written before the next text only
		for i, blk := range blocks {
			if i > 0 {
				owed += paneGap
			}
			if y >= len(blk) {
				owed += colWidth
				continue
			}
			b.WriteString(strings.Repeat(" ", owed) + blk[y].text)
			width += owed + blk[y].width
			owed = colWidth - blk[y].width
		}
		out[y] = line{b.String(), width}
	}
	return out
}

// clip cuts text to a width, with an ellipsis.
func clip(s string, width int) string {
	if uniseg.StringWidth(s) <= width {
		return s
	}
	var b strings.Builder
	w, state := 0, -1
	for s != "" {
		var c string
		var cw int
		c, s, cw, state = uniseg.FirstGraphemeClusterInString(s, state)
		if w+cw > width-1 {
			break
		}
		b.WriteString(c)
		w += cw
	}
	if width > 0 {
		b.WriteString("…")
	}
	return b.String()
}

// tabStop is the width that a tab fills up to.
const tabStop = 4

// wrap breaks text into lines of at most width cells, at blanks where it can.
// A cluster wider than the line has one of its own. Blank lines at the end are
// dropped.
func wrap(text string, width int) []string {
	text = strings.TrimRight(strings.ReplaceAll(text, "\r", ""), " \n\t")
	if text == "" {
		return nil
	}
	var out []string
	for para := range strings.SplitSeq(text, "\n") {
		out = append(out, wrapLine(para, max(1, width))...)
	}
	return out
}

func wrapLine(s string, width int) []string {
	var out []string
	var cur strings.Builder
	w, state := 0, -1
	brk, brkWidth := -1, 0 // behind the last blank of cur: bytes and cells
	for s != "" {
		var c string
		var cw int
		c, s, cw, state = uniseg.FirstGraphemeClusterInString(s, state)
		if c == "\t" {
			cw = tabStop - w%tabStop
			c = strings.Repeat(" ", cw)
		}
		blank := strings.TrimSpace(c) == ""
		if blank && w+cw > width {
			out = append(out, cur.String()) // the blank is the break
			cur.Reset()
			w, brk = 0, -1
			continue
		}
		for w+cw > width && w > 0 {
			full, rest := cur.String(), ""
			// Not behind the blanks that a line begins with.
			if brk > 0 && strings.TrimSpace(full[:brk]) != "" {
				full, rest = strings.TrimRight(full[:brk], " "), full[brk:]
				w -= brkWidth
			} else {
				w = 0
			}
			out = append(out, full)
			cur.Reset()
			cur.WriteString(rest)
			brk = -1
		}
		cur.WriteString(c)
		w += cw
		if blank {
			brk, brkWidth = cur.Len(), w
		}
	}
	return append(out, cur.String())
}

// screen redraws a block of lines in place.
type screen struct {
	out   io.Writer
	drawn []line
}

// draw replaces what was drawn before. Width is the terminal's now: a terminal
// that became narrower has broken the old lines into more.
func (s *screen) draw(lines []line, width int) error {
	var b strings.Builder
	up := 0
	for _, l := range s.drawn {
		up += max(1, (l.width+width-1)/max(1, width))
	}
	b.WriteString("\r")
	if up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	for _, l := range lines {
		b.WriteString(l.text + "\x1b[K\n")
	}
	b.WriteString("\x1b[J") // what is left of a longer picture
	s.drawn = lines
	_, err := io.WriteString(s.out, b.String())
	return err
}

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
)

// terminalView shows all panes live.
type terminalView struct {
	f      *os.File
	screen screen
	painter
}

func (v *terminalView) size() (w, h int) {
	w, h, err := term.GetSize(int(v.f.Fd()))
	if err != nil || w < 1 || h < 1 {
		return 80, 24
	}
	return w, h
}

func (v *terminalView) begin(prompt string) error {
	w, _ := v.size()
	for _, l := range wrap(printable(prompt), w-3) {
		if _, err := fmt.Fprintln(v.f, v.paint(2, "> ")+l); err != nil {
			return err
		}
	}
	_, err := io.WriteString(v.f, "\n"+hideCursor)
	return err
}

// update draws at most a screen; one column is left free, for terminals that
// break a full line at once.
func (v *terminalView) update(panes []*pane) error {
	w, h := v.size()
	lines := v.layout(panes, w-1, h-1)
	return v.screen.draw(lines[:min(len(lines), max(1, h-1))], w) // more cannot be redrawn
}

// end leaves the whole answers on the screen, and the last line below.
func (v *terminalView) end(panes []*pane, last string) error {
	w, _ := v.size()
	err := v.screen.draw(v.layout(panes, w-1, 0), w)
	if last != "" {
		last = "\n" + v.paint(1, last) + "\n"
	}
	if _, e := io.WriteString(v.f, showCursor+last); err == nil {
		err = e
	}
	return err
}

// plainView prints each answer once it and all before it have ended.
type plainView struct {
	out   io.Writer
	shown int
}

func (v *plainView) begin(string) error { return nil }

func (v *plainView) update(panes []*pane) error { return v.print(panes, false) }

func (v *plainView) end(panes []*pane, last string) error {
	if err := v.print(panes, true); err != nil || last == "" {
		return err
	}
	_, err := fmt.Fprintln(v.out, last)
	return err
}

func (v *plainView) print(panes []*pane, all bool) error {
	wide := 0
	for _, p := range panes {
		wide = max(wide, uniseg.StringWidth(p.name))
	}
	for ; v.shown < len(panes); v.shown++ {
		p := panes[v.shown]
		if p.finish == "" && p.err == nil && !all {
			return nil
		}
		var b strings.Builder
		prefix := p.name + strings.Repeat(" ", wide-uniseg.StringWidth(p.name)) + " | "
		for l := range strings.SplitSeq(strings.TrimRight(p.body(), " \n"), "\n") {
			b.WriteString(strings.TrimRight(prefix+l, " ") + "\n")
		}
		if _, err := io.WriteString(v.out, b.String()); err != nil {
			return err
		}
	}
	return nil
}
