package inprocess_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"chorale/worker/collective"
	"chorale/worker/collective/inprocess"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func groups(t *testing.T, size int) map[string]inprocess.Group {
	t.Helper()
	out := map[string]inprocess.Group{}
	g, err := inprocess.TCP(t.Context(), size, inprocess.Patient)
	if err != nil {
		t.Fatal(err)
	}
	out["tcp"] = g
	if g, err = inprocess.Shared(size, inprocess.Patient); err == nil {
		out["shared"] = g
	} else if !errors.Is(err, collective.ErrUnsupported) {
		t.Fatal(err)
	}
	return out
}

func TestGroups(t *testing.T) {
	for name, g := range groups(t, 3) {
		err := g.Each(func(m collective.Member) error {
			x := []float32{float32(m.Rank())}
			if err := m.AllReduce(x); err != nil {
				return err
			}
			if x[0] != 3 {
				t.Errorf("%s: rank %d has %v", name, m.Rank(), x)
			}
			return nil
		})
		if err := errors.Join(err, g.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFailed: the others do not wait for a rank that fails.
func TestFailed(t *testing.T) {
	broken := errors.New("broken")
	for name, g := range groups(t, 2) {
		err := g.Each(func(m collective.Member) error {
			if m.Rank() == 1 {
				return broken
			}
			return m.Barrier()
		})
		if !errors.Is(err, broken) || !errors.Is(err, collective.ErrAborted) {
			t.Errorf("%s: %v", name, err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}
