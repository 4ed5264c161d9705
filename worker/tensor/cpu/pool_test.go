package cpu

import (
	"slices"
	"sync"
	"testing"
	"time"

	"chorale/worker/tensor"
)

// TestPools runs several backends at once, some of whose threads go to sleep
// between operations, and checks that all compute the same.
func TestPools(t *testing.T) {
	const rows, in, out, rounds = 5, 64, 3000, 40
	var wg sync.WaitGroup
	results := make([][]float32, 6)
	for i := range results {
		wg.Go(func() {
			b := must(New(Options{Threads: 1 + i%3}))
			defer b.Close()
			w := must(b.NewMatrix(out, in, ramp))
			defer w.Free()
			x, y := must(b.NewBuffer(tensor.Act, rows, in)), must(b.NewBuffer(tensor.Act, rows, out))
			defer x.Free()
			defer y.Free()
			s := must(b.NewStream(rows, nil))
			for round := range rounds {
				s.Begin(&tensor.Batch{IDs: []int32{1, 2, 3, 4, int32(round)}, Pos: make([]int32, rows)})
				s.Embed(x, w, nil)
				s.Linear(y, x, w, nil, nil)
				if round%8 == i {
					time.Sleep(time.Millisecond) // beyond the spinning of idle threads
				}
			}
			results[i] = slices.Clone(s.Host(y))
			if err := s.Finish(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, r := range results {
		if !slices.Equal(r, results[0]) {
			t.Errorf("backend %d disagrees with backend 0", i)
		}
	}
}

// ramp is a matrix of small steps.
func ramp(dst []float32, _, _ int) error {
	for i := range dst {
		dst[i] = float32(i%17)/8 - 1
	}
	return nil
}
