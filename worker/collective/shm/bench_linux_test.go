package shm_test

import (
	"fmt"
	"testing"

	"chorale/worker/collective"
	"chorale/worker/collective/conformance"
)

// Ranks are goroutines here, as many as there are cores for; between processes
// see the benchmarks of package assemble.
func BenchmarkAllReduce(b *testing.B) {
	for _, size := range []int{2, 4} {
		for _, rows := range []int{1, 8, 64, 1024} {
			b.Run(fmt.Sprintf("ranks=%d/rows=%d", size, rows), func(b *testing.B) {
				ms := open(b, size, conformance.Patient)
				defer conformance.CloseAll(b, ms)
				b.SetBytes(int64(rows) * 4096 * 4)
				n := b.N
				b.ResetTimer()
				for _, err := range conformance.Each(ms, func(m collective.Member) error {
					x := make([]float32, rows*4096)
					for range n {
						if err := m.AllReduce(x); err != nil {
							return err
						}
					}
					return nil
				}) {
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// TestNoAllocation: operations make no garbage.
func TestNoAllocation(t *testing.T) {
	ms := open(t, 2, conformance.Patient)
	defer conformance.CloseAll(t, ms)
	x, y := make([]float32, 100000), make([]float32, 100000)
	done := make(chan error, 1)
	const runs = 50
	go func() {
		for range runs + 1 {
			if err := ms[1].AllReduce(y); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	if n := testing.AllocsPerRun(runs, func() {
		if err := ms[0].AllReduce(x); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
