package model_test

import (
	"math"
	"testing"

	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
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
