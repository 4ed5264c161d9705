package peft

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chorale/internal/safetensors"
)

// goldens is testdata/goldens.json, made by PEFT itself (tools/oracle/peft).
type goldens struct {
	Bases map[string][]struct {
		Name, Kind string
		In, Out    int
		Bias       bool
	}
	Cases map[string]goldenCase
}

type goldenCase struct {
	Base    string
	Config  string
	Modules map[string][3]float64 // rank, alpha, scaling
	Tensors map[string][2]any     // dtype, shape
}

func loadGoldens(t testing.TB) goldens {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "goldens.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g goldens
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Cases) < 50 {
		t.Fatalf("only %d golden cases", len(g.Cases))
	}
	return g
}

func (g goldens) base(name string) []Module {
	kinds := map[string]ModuleKind{"linear": Linear, "embedding": Embedding, "head": Head}
	var out []Module
	for _, m := range g.Bases[name] {
		out = append(out, Module{Name: m.Name, In: m.In, Out: m.Out, Kind: kinds[m.Kind], HasBias: m.Bias})
	}
	return out
}

// tensors builds the tensors that PEFT saved, with zeros for values.
func (c goldenCase) tensors() map[string]safetensors.Tensor {
	dtypes := map[string]safetensors.DType{"float32": safetensors.F32, "bfloat16": safetensors.BF16}
	out := map[string]safetensors.Tensor{}
	for name, t := range c.Tensors {
		d, n := dtypes[t[0].(string)], 1
		shape := []int{}
		for _, s := range t[1].([]any) {
			shape = append(shape, int(s.(float64)))
			n *= int(s.(float64))
		}
		out[name] = safetensors.Tensor{Name: name, DType: d, Shape: shape, Data: make([]byte, n*d.Size())}
	}
	return out
}

func fileOf(t testing.TB, tensors map[string]safetensors.Tensor) *safetensors.File {
	t.Helper()
	var list []safetensors.Tensor
	for _, tensor := range tensors {
		list = append(list, tensor)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, list, nil); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPEFT: the same modules with the same rank, alpha and scaling as PEFT's
// own, for every case, and all the tensors that it saved in their places.
func TestPEFT(t *testing.T) {
	g := loadGoldens(t)
	for name, c := range g.Cases {
		t.Run(name, func(t *testing.T) {
			cfg, err := ParseConfig([]byte(c.Config))
			if err != nil {
				t.Fatal(err)
			}
			a, err := Bind(cfg, fileOf(t, c.tensors()), g.base(c.Base), Limits{MaxRank: 8})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string][3]float64{}
			found := len(a.Biases) + len(a.FullEmbeddings)
			for _, l := range a.LoRAs {
				got[l.Module.Name] = [3]float64{float64(l.R), l.Alpha, l.Scale}
				found += 2
				if cfg.LoRABias {
					found++
				}
			}
			if diff := cmp.Diff(c.Modules, got); diff != "" {
				t.Error(diff)
			}
			if found != len(c.Tensors) {
				t.Errorf("%d of %d tensors bound", found, len(c.Tensors))
			}
			if a.MaxRank() == 0 {
				t.Error("no rank")
			}
		})
	}
}

// TestSavedAdapter reads an adapter as PEFT wrote it.
func TestSavedAdapter(t *testing.T) {
	config, weights, err := Locate(filepath.Join("testdata", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(weights)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g := loadGoldens(t)
	a, err := Bind(cfg, f, g.base("plain"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	v := a.LoRAs[2]
	if v.Module.Name != "model.layers.0.self_attn.v_proj" || v.R != 4 || v.Scale != 3/math.Sqrt(4) {
		t.Errorf("%+v", v.Target)
	}
	if diff := cmp.Diff([]int{4, 16}, v.A.Shape); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{8, 4}, v.B.Shape); diff != "" {
		t.Error(diff)
	}
	if err := v.A.Float32(make([]float32, 64)); err != nil {
		t.Error(err)
	}
	w, err := os.Open(weights)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	d, err := Digest(b, w)
	// Pinned: a change of the form must change digestVersion.
	if want := "sha256:cc4a5714a5dd804097ed35f97425df2b8325dfe8b172989f2427feb2a07ab9b2"; err != nil || d != want {
		t.Errorf("digest %s, %v; want %s", d, err, want)
	}
	all, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	// Of the first version, as registries hold it.
	if err := Verify("sha256:2972842f02319d4fcc40459ad9587570ea03a47e3dfb01fd8111310f38807dd5", b, all); err != nil {
		t.Error(err)
	}
}
