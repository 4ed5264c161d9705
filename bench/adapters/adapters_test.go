package adapters

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chorale/bench/figure"
	"chorale/bench/shape"
)

// script is a program that says what a role would, and ends.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "role")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	return path
}

// TestSays: a message of a role's log is found, and a role that ends is told with
// what it said.
func TestSays(t *testing.T) {
	s := &site{c: &Config{Binary: script(t, `echo 'not JSON' >&2; echo '{"msg":"worker ready","grpc":"x:1"}' >&2`)}, dir: t.TempDir()}
	p, err := s.begin("worker")
	if err != nil {
		t.Fatal(err)
	}
	defer p.end()
	if m, err := p.says(t.Context(), "worker ready"); err != nil || m["grpc"] != "x:1" {
		t.Errorf("%v %v", m, err)
	}
	if _, err := p.says(t.Context(), "something else"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "not JSON") {
		t.Error(err)
	}
}

// TestAdapters: the folders that are written differ, and are of the rank asked for.
func TestAdapters(t *testing.T) {
	m, err := shape.Find("tiny")
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Shape: m, Registered: 2, Rank: 1, Modules: []string{"q_proj"}, Loads: 1, LoadRank: 4}
	s := &site{c: &c, dir: t.TempDir()}
	if err := s.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, errA := os.ReadFile(filepath.Join(s.small(0), "adapter_model.safetensors"))
	b, errB := os.ReadFile(filepath.Join(s.small(1), "adapter_model.safetensors"))
	if errA != nil || errB != nil || string(a) == string(b) {
		t.Errorf("%v %v, the same: %v", errA, errB, string(a) == string(b))
	}
	if small, large := fileSize(s.small(0)), fileSize(s.large(0)); large < 4*small {
		t.Errorf("%d and %d bytes", small, large)
	}
	c.Modules = []string{"none"}
	if err := s.write(t.Context()); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
}

// TestConfig: what makes no sense is refused by name.
func TestConfig(t *testing.T) {
	c := Config{Registered: 1, Rank: 1, LoadRank: 1, Together: 1, Clients: 1, Prompt: 1, Output: 1}
	if err := c.check(); err != nil {
		t.Error(err)
	}
	c.Clients = 0
	if err := c.check(); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "clients") {
		t.Error(err)
	}
}

// TestTable: what was measured is shown, what was not is left out.
func TestTable(t *testing.T) {
	r := Result{
		Config: Config{Shape: shape.Model{Name: "tiny"}, Registered: 7, Loads: 3}, AdapterBytes: 2048,
		List: figure.Summary([]float64{.01, .02}), Rounds: make([]Round, 2), P50: figure.SpreadOf([]float64{1, 1.2}), P99: figure.SpreadOf([]float64{1.1}), Together: 1.3,
		Memory: []Memory{{Role: "manager", Before: 1 << 20, After: 3 << 20, PerAdapter: 300, Again: 2 << 20, PerAdapterAgain: 150}},
	}
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"7 adapters of 2.0 KiB", "list of all  2  15.0 ms", "p50 1.10 (1.00-1.20), p99 1.10 by rounds, 1.30 of all", "manager  1.0 MiB  3.0 MiB        300 B"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "first token, resident") {
		t.Error(b.String())
	}
}
