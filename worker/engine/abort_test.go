package engine_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"chorale/worker/engine"
)

// TestAborts: sequences that end in every way while others run, some of them
// computed by steps under way, leave no page and no lease behind.
func TestAborts(t *testing.T) { atDepths(t, aborts) }

func aborts(t *testing.T, f *fixture) {
	rng := rand.New(rand.NewPCG(11, 12))
	o := roomy()
	o.Pages, o.MaxRunning, o.MaxAdapters, o.MaxResident = 24, 12, 2, 3
	e := f.start(t, o)
	ctx := context.Background()
	for range 6 {
		stays, leaves := e.Connect(), e.Connect()
		reqs := randomRequests(rng, f.model.Spec.Vocab, 40, true)
		open := map[uint64]bool{}
		for _, r := range reqs[:20] {
			open[r.ID] = true // 1 to 20
		}
		leaves.Submit(reqs[20:])
		stays.Submit(reqs[:20])
		for n := 0; len(open) > 0; n++ {
			m, err := stays.Recv(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, out := range m.Outputs {
				if out.Err != nil {
					t.Errorf("sequence %d: %v", out.ID, out.Err)
				}
				if !open[out.ID] {
					t.Errorf("sequence %d goes on after its end", out.ID)
				}
				if out.Reason != engine.Running {
					delete(open, out.ID)
				}
			}
			if n == 20 {
				leaves.Close()
			}
			if rng.IntN(4) == 0 {
				stays.Abort([]uint64{1 + rng.Uint64N(20)})
			}
		}
		leaves.Close()
		stays.Close()
	}
	// What is under way ends soon after the last sequence.
	var st engine.Status
	for range 1000 {
		var err error
		if st, err = e.Status(ctx); err != nil {
			t.Fatal(err)
		}
		if st.PagesUsed == 0 && st.Running+st.Waiting == 0 {
			break
		}
	}
	if st.PagesUsed != 0 || st.Running+st.Waiting != 0 {
		t.Errorf("%d pages are held, %d sequences run and %d wait", st.PagesUsed, st.Running, st.Waiting)
	}
	list, err := e.Adapters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.Leases != 0 {
			t.Errorf("adapter %s has %d leases", a.Digest, a.Leases)
		}
	}
}
