package cpu

import (
	"errors"
	"testing"

	"chorale/worker/collective"
	"chorale/worker/collective/inprocess"
	"chorale/worker/tensor/conformance"
)

// groupOf makes a group over shared memory, or TCP where there is none.
func groupOf(t testing.TB, size int) []collective.Member {
	t.Helper()
	g, err := inprocess.Shared(size, inprocess.Patient)
	if errors.Is(err, collective.ErrUnsupported) {
		g, err = inprocess.TCP(t.Context(), size, inprocess.Patient)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func TestRanks(t *testing.T) {
	for _, p := range precisions {
		kernels := Kernels(p)
		for _, kernel := range []string{kernels[0], "go"} {
			t.Run(p.String()+"/"+kernel, func(t *testing.T) {
				conformance.RunRanks(t, opener(p, kernel), groupOf, tolerance(kernel))
			})
		}
	}
}
