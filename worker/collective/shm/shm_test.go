//go:build linux

package shm_test

import (
	"testing"

	"go.uber.org/goleak"

	"chorale/worker/collective"
	"chorale/worker/collective/conformance"
	"chorale/worker/collective/shm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, size int, o collective.Options) []collective.Member {
	t.Helper()
	f, err := shm.Create(size, o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ms := make([]collective.Member, size)
	for rank := range ms {
		if ms[rank], err = shm.Open(f, rank, o); err != nil {
			t.Fatal(err)
		}
	}
	return ms
}

func TestConformance(t *testing.T) { conformance.Run(t, open) }
