package testkit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"chorale/internal/peft"
	"chorale/internal/safetensors"
)

// modules are SmolLM2's as the binder wants them.
func modules() []peft.Module {
	var out []peft.Module
	for l := range SmolLM2.Layers {
		for kind, s := range SmolLM2.Linear {
			out = append(out, peft.Module{Name: fmt.Sprintf("model.layers.%d.%s.%s", l, s.Block, kind), In: s.In, Out: s.Out})
		}
	}
	return out
}

// TestAdapter: an adapter binds to the model, and is the same each time.
func TestAdapter(t *testing.T) {
	a := Adapter{Rank: 2, Modules: []string{"q_proj", "down_proj"}, Layers: 2, RSLoRA: true, Seed: 3}
	var files [2][]byte
	for i := range files {
		dir := filepath.Join(t.TempDir(), "a")
		a.Write(t, dir)
		b, err := os.ReadFile(filepath.Join(dir, WeightsFile))
		if err != nil {
			t.Fatal(err)
		}
		files[i] = b
		if err := bind(dir); err != nil {
			t.Error(err)
		}
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("the same adapter has other bytes the second time")
	}
}

// TestBroken: what the binder sees of the broken adapters it refuses.
func TestBroken(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range BrokenAdapters() {
		if seen[b.Name] || len(b.Says) == 0 {
			t.Errorf("%s: used twice, or says nothing", b.Name)
		}
		seen[b.Name] = true
		dir := filepath.Join(t.TempDir(), b.Name)
		b.Write(t, dir)
		if b.Name == "added-tokens" { // the manager's matter
			continue
		}
		if err := bind(dir); err == nil {
			t.Errorf("%s: binds", b.Name)
		}
	}
}

func bind(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	if err != nil {
		return err
	}
	c, err := peft.ParseConfig(raw)
	if err != nil {
		return err
	}
	f, err := safetensors.Open(filepath.Join(dir, WeightsFile))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = peft.Bind(c, f, modules(), peft.Limits{MaxRank: 512})
	return err
}
