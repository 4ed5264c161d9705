package cpu

import (
	"errors"
	"math"
	"testing"

	"go.uber.org/goleak"

	"chorale/worker/tensor"
	"chorale/worker/tensor/conformance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// precisions names both precisions for subtests.
var precisions = []tensor.Precision{tensor.BF16, tensor.F32}

// tolerance is what a kernel promises. avx512bf16 and amxbf16 round the inputs of
// Linear to bfloat16, half a unit in the last of 8 bits.
func tolerance(kernel string) conformance.Tolerance {
	t := conformance.Tolerance{Product: 2e-6, Input: 2e-6, LoRA: 4e-6, Rows: 4e-6}
	if kernel == "avx512bf16" || kernel == "amxbf16" {
		t.Input += math.Ldexp(1, -9)
	}
	return t
}

func opener(p tensor.Precision, kernel string) conformance.Open {
	return func(t testing.TB, threads int) tensor.Backend {
		b, err := New(Options{Precision: p, Threads: threads, Kernel: kernel})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func TestConformance(t *testing.T) {
	for _, p := range precisions {
		for _, kernel := range Kernels(p) {
			t.Run(p.String()+"/"+kernel, func(t *testing.T) {
				conformance.Run(t, opener(p, kernel), tolerance(kernel))
			})
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Kernel: "sse9"}, {ChunkBytes: 100}, {ChunkBytes: -4096}, {Threads: -1}, {Threads: maxThreads + 1}, {Precision: 7}, {Precision: tensor.F32, Kernel: "avx512bf16"}} {
		if b, err := New(o); !errors.Is(err, tensor.ErrUnsupported) {
			t.Errorf("New(%+v): %v, %v", o, b, err)
		}
	}
	b, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(b.Name(), b.Threads(), b.Precision())
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Error(err)
	}
}

// TestReadRate: a rate that some memory could have.
func TestReadRate(t *testing.T) {
	rate, err := ReadRate(0)
	if errors.Is(err, tensor.ErrUnsupported) {
		return
	}
	if err != nil || rate < 1e8 || rate > 1e13 {
		t.Errorf("%g bytes a second, %v", rate, err)
	}
}
