//go:build !gpu

package parity

import (
	"testing"

	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

// In float32 only what is nearly tied may differ.
const (
	greedyPrecision = tensor.F32
	greedyShare     = 0.99
)

func openBackend(t *testing.T, p tensor.Precision) tensor.Backend {
	t.Helper()
	b, err := cpu.New(cpu.Options{Precision: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}
