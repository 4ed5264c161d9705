package model_test

import (
	"bytes"
	"math"
	"testing"

	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

// TestDummy: weights of noise bind without a missing or unused tensor, and the
// model computes finite logits.
func TestDummy(t *testing.T) {
	spec := decoder.Spec{
		Vocab: 50, Hidden: 32, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, FFN: 48, Context: 64, Eps: 1e-5,
		QKVBias: true, QKNorm: true, Windows: []int{0, 0}, Rope: tensor.RopeSpec{InvFreq: []float32{1, .1, .01, .001}, Scale: 1},
	}
	b := newBackend(t, tensor.BF16)
	for _, tied := range []bool{false, true} {
		spec.Tied = tied
		m, err := decoder.Load(b, spec, model.Dummy(&spec))
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range logits(t, b, m, nil, []int32{1, 2, 3, 49}, 3) {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("logit %d is %v", i, v)
			}
		}
		m.Free()
	}
}

// TestDummyRanks: ranks read the parts of the same noise.
func TestDummyRanks(t *testing.T) {
	spec := decoder.Spec{
		Vocab: 50, Hidden: 32, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, FFN: 48, Context: 64, Eps: 1e-5,
		QKVBias: true, MLPBias: true, Windows: []int{0, 0}, Rope: tensor.RopeSpec{InvFreq: []float32{1, .1, .01, .001}, Scale: 1},
	}
	all := func(size int) []float32 {
		tm := newTeam(t, gather(t, size, false), cpu.Options{Precision: tensor.F32, Threads: 1}, func(b tensor.Backend) (*decoder.Model, error) {
			return decoder.Load(b, spec, model.Dummy(&spec))
		})
		l, _ := tm.logits(t, nil, []int32{1, 2, 3, 49}, 3)
		return l
	}
	if d := maxDiff(all(4), all(1)); d > 1e-4 {
		t.Errorf("max |Δlogit| %.2g", d)
	}
}

// TestDummyAdapter: an adapter of noise is a valid one, the same each time and
// another for another seed.
func TestDummyAdapter(t *testing.T) {
	spec := decoder.Spec{
		Vocab: 50, Hidden: 32, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, FFN: 48, Context: 64, Eps: 1e-5,
		Windows: []int{0, 0}, Rope: tensor.RopeSpec{InvFreq: []float32{1, .1, .01, .001}, Scale: 1},
	}
	digest := func(d model.DummyLoRA) string {
		t.Helper()
		config, tensors, err := model.DummyAdapter(&spec, d)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := safetensors.Write(&b, tensors, nil); err != nil {
			t.Fatal(err)
		}
		cfg, err := peft.ParseConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Parse(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := peft.Bind(cfg, f, model.Modules(&spec), peft.Limits{}); err != nil {
			t.Fatal(err)
		}
		sum, err := peft.Digest(config, &b)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	a := digest(model.DummyLoRA{Rank: 4, Seed: 1})
	if a != digest(model.DummyLoRA{Rank: 4, Seed: 1}) {
		t.Error("the same fields gave another adapter")
	}
	if a == digest(model.DummyLoRA{Rank: 4, Seed: 2}) || a == digest(model.DummyLoRA{Rank: 4, Seed: 1, Modules: []string{"q_proj", "v_proj"}}) {
		t.Error("another seed or other modules gave the same adapter")
	}
}
