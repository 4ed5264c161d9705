//go:build gpu

package cuda

import (
	"math"
	"os"
	"testing"

	"chorale/worker/tensor"
	"chorale/worker/tensor/conformance"
)

// options of tests: files come from the environment, as in the command.
func options() Options {
	return Options{Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT")}
}

func opener(o Options) conformance.Open {
	return func(t testing.TB, _ int) tensor.Backend {
		b, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// tolerance: sums are float32, v of LoRA keeps 16 bits, exp is the fast one,
// and what goes into Act buffers, and attention's weights, are rounded to 8 bits.
func tolerance() conformance.Tolerance {
	return conformance.Tolerance{Product: 4e-6, Input: 4e-6, LoRA: 1.5e-5, Rows: 1e-5, Act: math.Ldexp(1, -8), Softmax: math.Ldexp(1, -8)}
}

func TestConformance(t *testing.T) {
	t.Run("fast", func(t *testing.T) {
		tol := tolerance()
		tol.Company = 0.15
		conformance.Run(t, opener(options()), tol)
	})
	t.Run("deterministic", func(t *testing.T) {
		o := options()
		o.Deterministic = true
		conformance.Run(t, opener(o), tolerance())
	})
}
