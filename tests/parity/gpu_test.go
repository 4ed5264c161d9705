//go:build gpu

package parity

import (
	"os"
	"testing"

	"chorale/worker/tensor"
	"chorale/worker/tensor/cuda"
)

// GPUs compute in bfloat16 alone: once a near tie has gone the other way, the
// rest of that answer differs.
const (
	greedyPrecision = tensor.BF16
	greedyShare     = 0.8
)

func openBackend(t *testing.T, p tensor.Precision) tensor.Backend {
	t.Helper()
	b, err := cuda.New(cuda.Options{Precision: p, Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}
