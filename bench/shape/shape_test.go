package shape

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestLlama: the figures that the cost model of docs/performance.md stands on.
func TestLlama(t *testing.T) {
	m, err := Find("llama-3-8b")
	if err != nil {
		t.Fatal(err)
	}
	if m.Parameters != 8030261248 || PerRank(&m.Spec) != 2621440 {
		t.Errorf("%d parameters, %d per rank", m.Parameters, PerRank(&m.Spec))
	}
	want := []string{"qkv 4096→6144", "o 4096→4096", "gate/up 4096→28672", "down 14336→4096"}
	for i, p := range Products(&m.Spec) {
		if p.String() != want[i] {
			t.Errorf("%v, want %s", p, want[i])
		}
	}
}

func TestPresets(t *testing.T) {
	for _, name := range Presets() {
		if _, err := Find(name); err != nil {
			t.Error(err)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(dir); !errors.Is(err, ErrShape) {
		t.Errorf("an empty folder: %v", err)
	}
	text, err := presets.ReadFile("presets/tiny.json")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, file} {
		if m, err := Find(path); err != nil || m.Spec.Hidden != 64 {
			t.Errorf("%s: %+v, %v", path, m, err)
		}
	}
	if err := os.WriteFile(file, []byte(`{"model_type":"bert"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(dir); !errors.Is(err, ErrShape) {
		t.Errorf("bert: %v", err)
	}
	if _, err := Find("no-such-model"); !errors.Is(err, ErrShape) {
		t.Errorf("no file: %v", err)
	}
}
