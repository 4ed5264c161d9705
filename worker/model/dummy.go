package model

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"chorale/internal/bf16"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
)

// dummy is a checkpoint of noise.
type dummy struct {
	shapes map[string][]int
	pool   []float32
	pool16 []uint16 // the same, rounded
}

// Dummy gives weights of noise for a spec: for measuring speed at any shape.
// The same names and shapes have the same values in every process.
func Dummy(s *decoder.Spec) decoder.Weights {
	d := &dummy{shapes: map[string][]int{"model.norm.weight": {s.Hidden}}, pool: make([]float32, 1<<20)}
	for _, m := range s.Modules() {
		switch m.Kind {
		case decoder.EmbeddingModule:
			d.shapes[m.Name+".weight"] = []int{m.In, m.Out}
		case decoder.HeadModule:
			if !s.Tied {
				d.shapes[m.Name+".weight"] = []int{m.Out, m.In}
			}
		default:
			d.shapes[m.Name+".weight"] = []int{m.Out, m.In}
			if m.HasBias {
				d.shapes[m.Name+".bias"] = []int{m.Out}
			}
		}
	}
	for l := range s.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		d.shapes[p+"input_layernorm.weight"] = []int{s.Hidden}
		d.shapes[p+"post_attention_layernorm.weight"] = []int{s.Hidden}
		if s.QKNorm {
			d.shapes[p+"self_attn.q_norm.weight"] = []int{s.HeadDim}
			d.shapes[p+"self_attn.k_norm.weight"] = []int{s.HeadDim}
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range d.pool {
		d.pool[i] = float32(rng.NormFloat64() * 0.02)
	}
	d.pool16 = make([]uint16, len(d.pool))
	bf16.Round(d.pool16, d.pool)
	return d
}

func (d *dummy) Names() []string { return slices.Sorted(maps.Keys(d.shapes)) }

// Tensor gives ones for norms and slices of the pool, each row from another
// place, for the rest.
func (d *dummy) Tensor(name string) ([]int, tensor.Rows, bool) {
	shape, ok := d.shapes[name]
	if !ok {
		return nil, nil, false
	}
	cols := shape[len(shape)-1]
	if strings.HasSuffix(name, "norm.weight") {
		return shape, func(dst []float32, _, _ int) error {
			for i := range dst {
				dst[i] = 1
			}
			return nil
		}, true
	}
	return shape, pieces(d.pool, seed(name), 0, cols), true
}

// Tensor16 gives the same rows, rounded; norms are no matrices.
func (d *dummy) Tensor16(name string) (tensor.Rows16, bool) {
	shape, ok := d.shapes[name]
	if !ok || len(shape) != 2 {
		return nil, false
	}
	return pieces(d.pool16, seed(name), 0, shape[1]), true
}

// TensorColumns gives the same rows' columns.
func (d *dummy) TensorColumns(name string, from, n int) (tensor.Rows, tensor.Rows16, bool) {
	return pieces(d.pool, seed(name), from, n), pieces(d.pool16, seed(name), from, n), true
}

func seed(name string) int {
	h := fnv.New32a()
	h.Write([]byte(name))
	return int(h.Sum32())
}

// pieces reads cols values, from a column on, of rows which are each from another
// place of the pool.
func pieces[V any](pool []V, seed, from, cols int) func(dst []V, row, n int) error {
	return func(dst []V, row, n int) error {
		for r := range n {
			at := (seed + (row+r)*7919 + from) % len(pool)
			for out := dst[r*cols : (r+1)*cols]; len(out) > 0; at = 0 {
				out = out[copy(out, pool[at:]):]
			}
		}
		return nil
	}
}
