package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rivo/uniseg"
	"pgregory.net/rapid"
)

var updateGolden = flag.Bool("update", false, "rewrite golden files")

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateGolden {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s: %s", name, d)
	}
}

func samplePanes() []*pane {
	panes := []*pane{
		{name: "base", tokens: 61},
		{name: "json", tokens: 12, finish: "stop"},
		{name: "日本語", tokens: 20, finish: "length"},
		{name: "a-very-long-adapter-name/with/a/path", tokens: 3},
		{name: "broken", err: errors.New("worker lost: connection reset by peer")},
		{name: "slow"},
	}
	panes[0].text.WriteString("A lamp is a device that makes light. The first lamps burnt oil or fat; today most are electric.\n\nThere are:\n- table lamps\n- floor lamps\n\n")
	panes[1].text.WriteString(`{"item": "lamp", "count": 3, "place": "Porto", "incomprehensibilities": "Donaudampfschifffahrtsgesellschaftskapitän"}`)
	panes[2].text.WriteString("ポルトの店はランプを三つ売りました。👩‍👩‍👧 とても嬉しいです。")
	panes[3].text.WriteString("\x1b[31mred\x07\ttab")
	panes[4].text.WriteString("so far")
	return panes
}

// TestLayoutGolden draws at fixed widths; the bar at the right shows the width.
func TestLayoutGolden(t *testing.T) {
	for _, size := range []struct{ w, h int }{{120, 0}, {79, 0}, {40, 0}, {79, 14}, {12, 0}} {
		var b strings.Builder
		for _, l := range painter(false).layout(samplePanes(), size.w, size.h) {
			fmt.Fprintf(&b, "%s%s|\n", l.text, strings.Repeat(" ", size.w-l.width))
		}
		checkGolden(t, fmt.Sprintf("panes_%dx%d.txt", size.w, size.h), b.String())
	}
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// TestColoursAddNothing: without its colours a picture is the plain one.
func TestColoursAddNothing(t *testing.T) {
	plain, coloured := painter(false).layout(samplePanes(), 79, 0), painter(true).layout(samplePanes(), 79, 0)
	for i := range plain {
		if got := escapes.ReplaceAllString(coloured[i].text, ""); got != plain[i].text || coloured[i].width != plain[i].width {
			t.Errorf("line %d: %q, want %q", i, got, plain[i].text)
		}
		if strings.Count(coloured[i].text, "\x1b[0m")*2 != strings.Count(coloured[i].text, "\x1b[") {
			t.Errorf("line %d leaves a colour on: %q", i, coloured[i].text)
		}
	}
}

// TestLayoutFits: whatever the answers, no line is wider than asked for, its
// width is told right, and the height is kept where each pane has a line.
func TestLayoutFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.OneOf(rapid.SampledFrom([]rune(" \n\tabc日👩\u200d\u0301\x1b\u00ad")), rapid.Rune()))
		panes := make([]*pane, rapid.IntRange(1, 9).Draw(t, "panes"))
		for i := range panes {
			panes[i] = &pane{name: text.Draw(t, "name"), tokens: rapid.IntRange(0, 999).Draw(t, "tokens")}
			panes[i].text.WriteString(text.Draw(t, "text"))
		}
		w, h := rapid.IntRange(10, 200).Draw(t, "width"), rapid.IntRange(30, 60).Draw(t, "height")
		lines := painter(false).layout(panes, w, h)
		for _, l := range lines {
			if got := uniseg.StringWidth(l.text); l.width > w || got > l.width {
				t.Fatalf("line of width %d, told %d, limit %d: %q", got, l.width, w, l.text)
			}
		}
		if len(lines) > h {
			t.Fatalf("%d lines, limit %d", len(lines), h)
		}
	})
}

// TestWrapKeeps: breaking into lines loses nothing but blanks.
func TestWrapKeeps(t *testing.T) {
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOf(rapid.SampledFrom([]rune("  \n\tabcdefghij日本é👩"))).Draw(t, "text")
		w := rapid.IntRange(2, 30).Draw(t, "width")
		lines := wrap(s, w)
		if got := squeeze(strings.Join(lines, "\n")); got != squeeze(s) {
			t.Fatalf("%q became %q", s, lines)
		}
		for _, l := range lines {
			if uniseg.StringWidth(l) > w {
				t.Fatalf("%q is wider than %d", l, w)
			}
		}
	})
}

func TestWrap(t *testing.T) {
	for _, tt := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 10, nil},
		{"\n\n", 10, nil},
		{"one two three", 7, []string{"one two", "three"}},
		{"one two three", 8, []string{"one two", "three"}},
		{"abcdefghij", 4, []string{"abcd", "efgh", "ij"}},
		{"to abcdefgh", 4, []string{"to", "abcd", "efgh"}},
		{"日本語", 4, []string{"日本", "語"}},
		{"日本語", 3, []string{"日", "本", "語"}},
		{"a\n\nb", 5, []string{"a", "", "b"}},
		{"a\tb", 9, []string{"a   b"}},
		{"  x", 9, []string{"  x"}},
		{" aa日日A日", 8, []string{" aa日日A", "日"}},
		{"a bbbbbbb日", 8, []string{"a", "bbbbbbb", "日"}},
		{"e\u0301e\u0301e\u0301", 2, []string{"e\u0301e\u0301", "e\u0301"}},
	} {
		if d := cmp.Diff(tt.want, wrap(tt.text, tt.width)); d != "" {
			t.Errorf("%q, %d: %s", tt.text, tt.width, d)
		}
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		s     string
		width int
		want  string
	}{{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"}, {"abc", 1, "…"}, {"abc", 0, ""}} {
		if got := clip(tt.s, tt.width); got != tt.want {
			t.Errorf("clip(%q, %d) = %q, want %q", tt.s, tt.width, got, tt.want)
		}
	}
}

func TestShare(t *testing.T) {
	for _, tt := range []struct {
		total int
		needs []int
		want  int
	}{{10, []int{3, 4}, 4}, {10, []int{20, 2}, 8}, {10, []int{20, 20}, 5}, {0, []int{5, 5}, 1}, {9, []int{0, 0}, 1}, {5, []int{9}, 5}} {
		if got := share(tt.total, tt.needs); got != tt.want {
			t.Errorf("share(%d, %v) = %d, want %d", tt.total, tt.needs, got, tt.want)
		}
	}
}

// terminal understands what screen writes.
type terminal struct {
	rows []string
	y    int
}

func (m *terminal) write(t *testing.T, s string) {
	t.Helper()
	for s != "" {
		switch loc := escapes.FindStringIndex(s); {
		case loc != nil && loc[0] == 0:
			seq := s[:loc[1]]
			s = s[loc[1]:]
			var n int
			switch {
			case seq == "\x1b[K": // rows are replaced as a whole
			case seq == "\x1b[J":
				m.rows = m.rows[:min(len(m.rows), m.y)]
			default:
				if _, err := fmt.Sscanf(seq, "\x1b[%dA", &n); err != nil {
					t.Fatalf("unknown sequence %q", seq)
				}
				if m.y -= n; m.y < 0 {
					t.Fatal("above the first row")
				}
			}
		case s[0] == '\r':
			s = s[1:]
		default:
			row, rest, ok := strings.Cut(s, "\n")
			if !ok {
				t.Fatalf("row without an end: %q", s)
			}
			row = escapes.ReplaceAllString(row, "")
			if m.y < len(m.rows) {
				m.rows[m.y] = row
			} else {
				m.rows = append(m.rows, row)
			}
			m.y++
			s = rest
		}
	}
}

// TestScreen redraws pictures of different heights in place.
func TestScreen(t *testing.T) {
	var b strings.Builder
	s, m := screen{out: &b}, &terminal{}
	for _, picture := range [][]string{{"a"}, {"a", "bb", "ccc"}, {"x"}, {}, {"1", "", "3"}} {
		var lines []line
		for _, p := range picture {
			lines = append(lines, line{p, len(p)})
		}
		b.Reset()
		if err := s.draw(lines, 20); err != nil {
			t.Fatal(err)
		}
		m.write(t, b.String())
		if d := cmp.Diff(append([]string{}, picture...), append([]string{}, m.rows...)); d != "" {
			t.Error(d)
		}
	}
	// A terminal of 2 columns has broken "333" into two rows.
	s.drawn = []line{{"1", 1}, {"", 0}, {"333", 3}}
	b.Reset()
	if err := s.draw(nil, 2); err != nil || !strings.Contains(b.String(), "\x1b[4A") {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestPlainView(t *testing.T) {
	var b strings.Builder
	v := &plainView{out: &b}
	panes := []*pane{{name: "base"}, {name: "日本"}, {name: "c"}}
	step := func(want string) {
		t.Helper()
		if err := v.update(panes); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
	}
	panes[1].text.WriteString("x\n\n y \n")
	panes[1].finish = "stop"
	step("") // waits for the first
	panes[0].text.WriteString("first\x1b[1m")
	panes[0].finish = "length"
	step("base | first␛[1m\n日本 | x\n日本 |\n日本 |  y\n")
	b.Reset()
	panes[2].text.WriteString("cut off")
	if err := v.end(panes, "last line"); err != nil || b.String() != "c    | cut off\nlast line\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// full fails like a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestViewsReportFailedWrites(t *testing.T) {
	panes := []*pane{{name: "a", finish: "stop"}}
	if err := (&plainView{out: full{}}).update(panes); !errors.Is(err, io.ErrShortWrite) {
		t.Error(err)
	}
	if err := (&screen{out: full{}}).draw(nil, 10); !errors.Is(err, io.ErrShortWrite) {
		t.Error(err)
	}
}
