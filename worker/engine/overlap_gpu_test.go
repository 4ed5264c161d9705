//go:build gpu

package engine_test

import (
	"math/rand/v2"
	"os"
	"reflect"
	"testing"

	"chorale/worker/engine"
	"chorale/worker/tensor/cuda"
)

// TestGPUOverlap: steps that are launched while the one before them runs give
// the answers of steps that wait, bit for bit.
func TestGPUOverlap(t *testing.T) {
	var answers []map[uint64]*answer
	for depth := 1; depth <= 2; depth++ {
		b, err := cuda.New(cuda.Options{
			Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT"), Deterministic: true, Depth: depth,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		f := fixtureOn(t, b)
		o := roomy()
		o.MaxRunning, o.Pages = 24, 128
		e := f.start(t, o)
		all := map[uint64]*answer{}
		for round := range uint64(4) {
			reqs := randomRequests(rand.New(rand.NewPCG(round, 1)), f.model.Spec.Vocab, 60, round%2 == 1)
			for i := range reqs {
				reqs[i].ID += 1000 * round
			}
			c := e.Connect()
			c.Submit(reqs)
			got, _ := collect(t, c, len(reqs))
			for id, a := range got {
				if a.Reason == engine.Abort {
					t.Errorf("depth %d, sequence %d: %s", depth, id, a.Err)
				}
				all[id] = a
			}
			c.Close()
		}
		answers = append(answers, all)
	}
	for id, want := range answers[0] {
		if got := answers[1][id]; !reflect.DeepEqual(got, want) {
			t.Errorf("sequence %d: %+v, want %+v", id, got, want)
		}
	}
}
