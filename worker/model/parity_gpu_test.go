//go:build gpu

package model_test

import (
	"os"
	"testing"

	"chorale/worker/tensor"
	"chorale/worker/tensor/cuda"
)

// TestGPUBounds: the GPU keeps the same bounds. Chunks of one token run as
// decode steps do, from recorded graphs.
func TestGPUBounds(t *testing.T) {
	for name, deterministic := range map[string]bool{"fast": false, "deterministic": true} {
		t.Run(name, func(t *testing.T) {
			testBF16Bounds(t, func(t *testing.T) tensor.Backend {
				b, err := cuda.New(cuda.Options{
					Deterministic: deterministic,
					Library:       os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT"),
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := b.Close(); err != nil {
						t.Error(err)
					}
				})
				return b
			})
		})
	}
}
