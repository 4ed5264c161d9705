package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorale/bench"
	"chorale/bench/coldstart"
	"chorale/bench/figure"
	"chorale/bench/kernels"
	"chorale/bench/steps"
)

// TestBenchWords: bench alone explains itself, and its flags of old are those
// of serve.
func TestBenchWords(t *testing.T) {
	for in, want := range map[string]string{
		"bench":                   "bench --help",
		"bench --help":            "bench --help",
		"bench -h":                "bench -h",
		"bench --clients 3":       "bench serve --clients 3",
		"bench serve --clients 3": "bench serve --clients 3",
		"bench kernels":           "bench kernels",
	} {
		got, ignored, err := compatible(strings.Fields(in))
		if err != nil || ignored != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v, %v", in, got, ignored, err)
		}
	}
}

// read decodes a result.
func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// TestBenchKernels measures a tiny layer, and draws what was written.
func TestBenchKernels(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "k.json")
	c, err := parseClient(t, "bench", "kernels", "--shape", "tiny", "--device", "cpu", "--threads", "1", "--batch", "1,4", "--rank", "4,2+8",
		"--rotate", "0", "--time", "100us", "--repeat", "2", "--bandwidth", "10", "--quiet", "--json", out)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Bench.Kernels.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var res kernels.Result
	read(t, out, &res)
	if res.Kind != figure.KindKernels || len(res.Products) != 8 || len(res.Cells) != 4*2*(1+4) || res.Device.BytesPerSecond != 10e9 || len(res.Command) == 0 || res.Version == "" {
		t.Errorf("%d products, %d cells, %+v", len(res.Products), len(res.Cells), res.Head)
	}
	plots(t, out, "<svg")
}

// plots draws a result beside it and looks for a word.
func plots(t *testing.T, path, want string) {
	t.Helper()
	if err := (&benchPlotCmd{Files: []string{path}, Format: "svg"}).Run(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(strings.TrimSuffix(path, ".json") + ".svg")
	if err != nil || !strings.Contains(string(b), want) {
		t.Errorf("%v: no %q in the drawing", err, want)
	}
}

// TestBenchEngine measures a tiny engine, and draws what was written.
func TestBenchEngine(t *testing.T) {
	out := filepath.Join(t.TempDir(), "e.json")
	c, err := parseClient(t, "bench", "engine", "--shape", "tiny", "--device", "cpu", "--threads", "1", "--batch", "1,3", "--adapters", "0,1,3", "--rank", "2+4",
		"--context", "32", "--prefill", "40", "--steps", "4", "--warmup", "1", "--repeat", "1", "--time", "100us", "--chunk", "64", "--bandwidth", "10", "--quiet", "--json", out)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Bench.Engine.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var res steps.Result
	read(t, out, &res)
	if res.Kind != figure.KindEngine || len(res.Cells) != 2+3 || len(res.Prefill) != 2 || res.Config.Model.Name != "tiny" {
		t.Errorf("%d cells, %d prefills, %+v", len(res.Cells), len(res.Prefill), res.Head)
	}
	plots(t, out, "Step, context 32")
	for _, args := range [][]string{{"--rank", "x"}, {"--shape", "no-such"}, {"--plot", "x.pdf"}} {
		c, err := parseClient(t, append([]string{"bench", "engine"}, args...)...)
		if err == nil {
			_, err = c.Bench.Engine.config()
		}
		if err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

// TestBenchColdstart measures a tiny engine, and draws what was written.
func TestBenchColdstart(t *testing.T) {
	out := filepath.Join(t.TempDir(), "c.json")
	c, err := parseClient(t, "bench", "coldstart", "--shape", "tiny", "--rank", "4", "--device", "cpu", "--threads", "1", "--trials", "2", "--warmup", "0",
		"--background", "2", "--settle", "10ms", "--quiet", "--json", out)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Bench.Coldstart.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var res coldstart.Result
	read(t, out, &res)
	if res.Kind != figure.KindColdstart || len(res.States) != 3 || len(res.States[2].Trials) != 2 || res.Device == nil {
		t.Errorf("%+v", res)
	}
	plots(t, out, "Longest step of others")
	for _, args := range [][]string{{"--adapter", "x"}, {"--plot", "x.pdf"}, {"--state", "x"}} {
		c, err := parseClient(t, append([]string{"bench", "coldstart"}, args...)...)
		if err == nil {
			_, err = c.Bench.Coldstart.config()
		}
		if err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestBenchKernelsConfig(t *testing.T) {
	c, err := parseClient(t, "bench", "kernels", "--product", "64:32+16", "--product", "8:8", "--no-lora")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := c.Bench.Kernels.config()
	if err != nil || len(cfg.Products) != 2 || cfg.Products[0].Out() != 48 || !slices.Equal(cfg.Products[1].Parts, []int{8}) || cfg.Ranks != nil || cfg.Bandwidth != 0 {
		t.Errorf("%+v, %v", cfg, err)
	}
	for _, args := range [][]string{
		{"--product", "x"},
		{"--product", "8"},
		{"--product", "8:"},
		{"--product", "8:0"},
		{"--rank", "0"},
		{"--shape", "no-such"},
		{"--plot", "x.pdf"},
		{"--mix", "x"},
	} {
		c, err := parseClient(t, append([]string{"bench", "kernels"}, args...)...)
		if err == nil {
			_, err = c.Bench.Kernels.config()
		}
		if err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestBenchPlotRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"strange": `{"kind":"x"}`, "broken": `{`, "without samples": `{"cells":[{"rounds":[{"metrics":{"requests":1}}]}]}`} {
		path := filepath.Join(dir, name+".json")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := (&benchPlotCmd{Files: []string{path}, Format: "svg"}).Run()
		if err == nil || name == "without samples" && !errors.Is(err, bench.ErrNoSamples) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
