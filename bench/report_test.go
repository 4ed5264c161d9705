package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chorale/bench/figure"
)

var update = flag.Bool("update", false, "rewrite golden files")

// result is a small measurement, all of whose figures are fixed.
func result() *Result {
	c := sample()
	c.Targets = []TargetSpec{{Name: "peer"}, {Name: "chorale"}}
	c.Modes = []Mode{ModeNone, ModeEach}
	c.Repeat, c.SLO = 2, SLO{TTFT: 6}
	m := &measurement{config: &c}
	cpu := 1.5
	for _, t := range c.Targets {
		for _, mode := range c.Modes {
			cell := &Cell{Target: t.Name, Mode: mode, all: twoRounds()}
			for i, samples := range cell.all {
				if mode == ModeNone {
					for j := range samples {
						samples[j].Adapter = ""
					}
				}
				if t.Name == "chorale" {
					for j := range samples {
						for k := range samples[j].Tokens {
							samples[j].Tokens[k] = samples[j].Due + (samples[j].Tokens[k]-samples[j].Due)/2
						}
					}
				}
				cell.Rounds = append(cell.Rounds, Run{Round: i, Metrics: measure([][]Sample{samples}, c.SLO)})
				cell.Rounds[i].Metrics.CPU = &cpu
				cell.last = samples
			}
			m.cells = append(m.cells, cell)
		}
	}
	r := &Result{
		Head: figure.Head{Started: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Machine: figure.Machine{Cores: 2, CPU: "Test CPU", LoadAtStart: .5}, Stopped: "the limit of 1m0s"}, Config: c,
		Targets: []TargetInfo{{Name: "peer", Info: Info{Model: "m", Version: "b1"}, Used: []string{"a"}}, {Name: "chorale", Info: Info{Model: "m", Version: "v1"}, Used: []string{"a", "b"}}},
		Cells:   m.summary(),
	}
	r.Ratios = ratios(&c, r.Cells)
	return r
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := result().WriteTable(&b, Report{PerAdapter: 1}); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.txt", b.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Error(d)
	}
}

func TestPlots(t *testing.T) {
	dir := t.TempDir()
	r := result()
	r.Cells[0].Target = "p<&>\"eer\x01" // names are foreign to XML
	svg, pic := filepath.Join(dir, "new", "a.svg"), filepath.Join(dir, "a.PNG")
	for _, p := range []string{svg, pic} {
		if err := r.WritePlot(p); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(svg)
	if err != nil {
		t.Fatal(err)
	}
	texts := texts(t, b)
	for _, want := range []string{"Time to first token", "Time per output token", "Output, last round", "chorale, adapters: each: 1.5 tok/s", `p<&>"eer, no adapter: 0.8 tok/s`, "base"} {
		if !strings.Contains(texts, "\n"+want+"\n") {
			t.Errorf("no text %q in\n%s", want, texts)
		}
	}
	b, err = os.ReadFile(pic)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil || img.Bounds().Dx() != 2*plotWidth {
		t.Errorf("%v, %v", img.Bounds(), err)
	}
	if err := r.WritePlot("x.pdf"); !errors.Is(err, ErrFormat) || CanPlot("x.pdf") || !CanPlot("x.SVG") {
		t.Errorf("error %v", err)
	}
}

// texts reads a document's texts, a line each, and fails if it is no XML.
func texts(t *testing.T, b []byte) string {
	t.Helper()
	var out strings.Builder
	d := xml.NewDecoder(bytes.NewReader(b))
	out.WriteString("\n")
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := tok.(xml.CharData); ok && strings.TrimSpace(string(s)) != "" {
			out.WriteString(string(s) + "\n")
		}
	}
}

// TestPlotOfNothing: a measurement that was cut before anything came.
func TestPlotOfNothing(t *testing.T) {
	r := result()
	for i := range r.Cells {
		r.Cells[i].all, r.Cells[i].last, r.Cells[i].Pooled, r.Cells[i].Rounds = nil, nil, Metrics{}, nil
	}
	for _, name := range []string{"a.svg", "a.png"} {
		if err := r.WritePlot(filepath.Join(t.TempDir(), name)); err != nil {
			t.Error(err)
		}
	}
	if err := r.WriteTable(io.Discard, Report{PerAdapter: 5}); err != nil {
		t.Error(err)
	}
}

// TestPlotOfFile: a result that was read needs its samples.
func TestPlotOfFile(t *testing.T) {
	r := result()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a.svg")
	if err := back.WritePlot(path); !errors.Is(err, ErrNoSamples) {
		t.Errorf("error %v, want ErrNoSamples", err)
	}
	for i := range back.Cells {
		for j := range back.Cells[i].Rounds {
			back.Cells[i].Rounds[j].Samples = r.Cells[i].all[j]
		}
	}
	if err := back.WritePlot(path); err != nil {
		t.Error(err)
	}
}
