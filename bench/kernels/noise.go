package kernels

import (
	"math/rand/v2"

	"chorale/worker/tensor"
)

// noise gives matrices of small random values without making each value anew.
type noise struct{ pool []float32 }

func newNoise() *noise {
	n := &noise{pool: make([]float32, 1<<20)}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n.pool {
		n.pool[i] = float32(rng.NormFloat64() * 0.02)
	}
	return n
}

// rows are a matrix's, each from its own place of the pool.
func (n *noise) rows(seed int) tensor.Rows {
	return func(dst []float32, row, rows int) error {
		cols := len(dst) / max(1, rows)
		for r := range rows {
			at := uint(seed*104729+(row+r)*7919) % uint(len(n.pool))
			for out := dst[r*cols : (r+1)*cols]; len(out) > 0; at = 0 {
				out = out[copy(out, n.pool[at:]):]
			}
		}
		return nil
	}
}
