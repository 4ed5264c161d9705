package model

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/model/decoder"
)

// DummyLoRA describes an adapter of noise.
type DummyLoRA struct {
	Base string // base_model_name_or_path
	Rank int
	// Modules are kinds of modules, "q_proj"; none are all linear ones.
	Modules []string
	// Seed tells adapters apart: the same fields give the same bytes.
	Seed uint64
}

// DummyAdapter makes a PEFT adapter of noise for a model of any shape, in
// bfloat16: its adapter_config.json and its tensors. Its change is about half
// as large as what it is added to, so that answers show which adapter spoke.
func DummyAdapter(s *decoder.Spec, d DummyLoRA) (config []byte, tensors []safetensors.Tensor, err error) {
	if d.Rank < 1 {
		return nil, nil, fmt.Errorf("rank %d: must be at least 1", d.Rank)
	}
	targets := map[string]bool{}
	for _, m := range Modules(s) {
		kind := m.Name[strings.LastIndexByte(m.Name, '.')+1:]
		if m.Kind != peft.Linear || len(d.Modules) > 0 && !slices.Contains(d.Modules, kind) {
			continue
		}
		targets[kind] = true
		name := "base_model.model." + m.Name
		n := newNoise(d.Seed, name)
		tensors = append(tensors,
			n.tensor(name+".lora_A.weight", 1/math.Sqrt(float64(m.In)), d.Rank, m.In),
			n.tensor(name+".lora_B.weight", 0.5/math.Sqrt(float64(d.Rank)), m.Out, d.Rank))
	}
	for _, want := range d.Modules {
		if !targets[want] {
			return nil, nil, fmt.Errorf("the model has no linear module %q", want)
		}
	}
	kinds := make([]string, 0, len(targets))
	for k := range targets {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	config, err = json.MarshalIndent(map[string]any{
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": d.Base, "r": d.Rank, "lora_alpha": d.Rank,
		"target_modules": kinds, "bias": "none", "lora_dropout": 0.0, "inference_mode": true,
	}, "", "  ")
	return config, tensors, err
}

// normals is shared by all adapters: drawing each value anew would take seconds
// for a model of 8 billion parameters.
var normals = func() []float64 {
	rng := rand.New(rand.NewPCG(7, 0x10ca))
	v := make([]float64, 1<<16)
	for i := range v {
		v[i] = rng.NormFloat64()
	}
	return v
}()

// noise takes runs of normals from random places.
type noise struct{ rng *rand.Rand }

func newNoise(seed uint64, name string) noise {
	h := uint64(14695981039346656037)
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return noise{rand.New(rand.NewPCG(seed, h))}
}

// tensor draws a [rows, cols] matrix of deviation std in bfloat16.
func (n noise) tensor(name string, std float64, rows, cols int) safetensors.Tensor {
	const run = 256 // values from one place
	pool := make([]byte, 2*len(normals))
	for i, v := range normals {
		// By truncation: the values are random anyway.
		binary.LittleEndian.PutUint16(pool[2*i:], uint16(math.Float32bits(float32(v*std))>>16))
	}
	data := make([]byte, 2*rows*cols)
	for dst := data; len(dst) > 0; {
		at := 2 * n.rng.IntN(len(normals)-run)
		dst = dst[copy(dst, pool[at:at+2*run]):]
	}
	return safetensors.Tensor{Name: name, DType: safetensors.BF16, Shape: []int{rows, cols}, Data: data}
}
