package testkit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"chorale/internal/safetensors"
)

// The files of a PEFT adapter.
const (
	ConfigFile  = "adapter_config.json"
	WeightsFile = "adapter_model.safetensors"
)

// Shape is a linear module's width: y [Out] = W [Out, In] x [In].
type Shape struct {
	Block   string // "self_attn" or "mlp"
	In, Out int
}

// Base describes a Llama-like model as far as adapters need it.
type Base struct {
	Name   string
	Layers int
	Linear map[string]Shape // by module kind, "q_proj"
}

// NewBase computes the widths of a Llama-like model's modules.
func NewBase(name string, layers, hidden, heads, kvHeads, inner int) Base {
	kv := hidden / heads * kvHeads
	return Base{Name: name, Layers: layers, Linear: map[string]Shape{
		"q_proj": {"self_attn", hidden, hidden}, "k_proj": {"self_attn", hidden, kv}, "v_proj": {"self_attn", hidden, kv},
		"o_proj": {"self_attn", hidden, hidden}, "gate_proj": {"mlp", hidden, inner}, "up_proj": {"mlp", hidden, inner}, "down_proj": {"mlp", inner, hidden},
	}}
}

// SmolLM2 is SmolLM2-135M, the model of the tests of the whole.
var SmolLM2 = NewBase("HuggingFaceTB/SmolLM2-135M-Instruct", 30, 576, 9, 3, 1536)

// Adapter is a random LoRA adapter. The same fields give the same files.
type Adapter struct {
	Base    Base // SmolLM2 when empty
	Rank    int
	Modules []string
	// Layers bounds it to the first Layers layers, for size; 0 is all.
	Layers int
	RSLoRA bool
	Seed   uint64
	// Strength is the size of its change relative to the module's input,
	// default 0.5: plain in greedy text.
	Strength float64
}

// Tensors are its weights by PEFT's names, in float32.
func (a Adapter) Tensors() map[string]safetensors.Tensor {
	a.fill()
	out := map[string]safetensors.Tensor{}
	rng := rand.New(rand.NewPCG(a.Seed, 0x5eed))
	for l := range a.layers() {
		for _, m := range a.Modules {
			s := a.Base.Linear[m]
			prefix := fmt.Sprintf("base_model.model.model.layers.%d.%s.%s.", l, s.Block, m)
			// A keeps the input's size per rank; B spreads Strength over the ranks.
			out[prefix+"lora_A.weight"] = random(rng, prefix+"lora_A.weight", 1/math.Sqrt(float64(s.In)), a.Rank, s.In)
			out[prefix+"lora_B.weight"] = random(rng, prefix+"lora_B.weight", a.Strength/math.Sqrt(float64(a.Rank)), s.Out, a.Rank)
		}
	}
	return out
}

func (a *Adapter) fill() {
	if a.Base.Linear == nil {
		a.Base = SmolLM2
	}
	if a.Strength == 0 {
		a.Strength = 0.5
	}
}

func (a *Adapter) layers() int {
	if a.Layers > 0 {
		return a.Layers
	}
	return a.Base.Layers
}

func random(rng *rand.Rand, name string, std float64, rows, cols int) safetensors.Tensor {
	b := make([]byte, 2*rows*cols)
	for i := range rows * cols {
		// bfloat16 by truncation: the values are random anyway.
		binary.LittleEndian.PutUint16(b[2*i:], uint16(math.Float32bits(float32(rng.NormFloat64()*std))>>16))
	}
	return safetensors.Tensor{Name: name, DType: safetensors.BF16, Shape: []int{rows, cols}, Data: b}
}

// Config is its adapter_config.json.
func (a Adapter) Config() map[string]any {
	a.fill()
	c := map[string]any{
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": a.Base.Name, "r": a.Rank, "lora_alpha": a.Rank,
		"target_modules": a.Modules, "bias": "none", "lora_dropout": 0.0, "inference_mode": true, "use_rslora": a.RSLoRA,
	}
	if a.Layers > 0 {
		layers := make([]int, a.Layers)
		for i := range layers {
			layers[i] = i
		}
		c["layers_to_transform"] = layers
	}
	return c
}

// Write writes the adapter into a folder, which is made.
func (a Adapter) Write(t testing.TB, dir string) {
	t.Helper()
	write(t, dir, a.Config(), weights(t, a.Tensors()))
}

// weights encodes tensors.
func weights(t testing.TB, tensors map[string]safetensors.Tensor) []byte {
	t.Helper()
	var list []safetensors.Tensor
	for _, x := range maps.All(tensors) { // Write orders them
		list = append(list, x)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, list, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// write writes an adapter's files; config may be a string, nil leaves a file out.
func write(t testing.TB, dir string, config any, weights []byte) {
	t.Helper()
	var raw []byte
	switch c := config.(type) {
	case nil:
	case string:
		raw = []byte(c)
	default:
		var err error
		if raw, err = json.Marshal(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{ConfigFile: raw, WeightsFile: weights} {
		if b == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
