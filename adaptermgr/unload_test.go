package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUnloadWaitsForLeases(t *testing.T) {
	for _, force := range []bool{false, true} {
		t.Run(fmt.Sprint("force ", force), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, someArts(), 2)
				d := w.mustLoad("a", "s1").Adapter.Digest
				w.workers[1].lease(d, 2)
				done := make(chan error, 1)
				go func() { done <- w.unload("a", false) }()
				synctest.Wait()
				if s := w.state("a"); s != Draining {
					t.Errorf("state %v", s)
				}
				if _, err := w.m.Ensure(t.Context(), []string{"a"}); !errors.Is(err, ErrNotFound) {
					t.Errorf("a draining adapter is served: %v", err)
				}
				select {
				case err := <-done:
					t.Fatalf("did not wait: %v", err)
				default:
				}
				if force {
					if err := w.unload("a", true); err != nil {
						t.Error(err)
					}
				} else {
					w.workers[1].lease(d, -2)
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				if n := w.workers[1].forced[d]; (n > 0) != force {
					t.Errorf("forced %d times", n)
				}
				if w.state("a") != StateUnspecified {
					t.Error("still there")
				}
				if err := w.unload("a", false); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "never been loaded") {
					t.Errorf("second unload: %v", err)
				}
				w.check()
			})
		})
	}
}

func TestUnloadGoesOnAfterTheCallerLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		d := w.mustLoad("a", "s1").Adapter.Digest
		w.workers[0].lease(d, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.m.Unload(ctx, UnloadRequest{Name: "a", Force: false}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v", err)
		}
		// A new load of the name waits for the old to be gone.
		done := make(chan error, 1)
		go func() { _, err := w.load("a", "s2"); done <- err }()
		synctest.Wait()
		if w.state("a") != Draining {
			t.Errorf("state %v", w.state("a"))
		}
		w.workers[0].lease(d, -1)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if w.state("a") != Loaded {
			t.Errorf("state %v", w.state("a"))
		}
		w.check()
	})
}

func TestUnloadEndsALoadOfTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arts := someArts()
		arts["slow"] = art{seed: 9, block: make(chan struct{})}
		w := newWorld(t, arts, 1)
		done := make(chan error, 1)
		go func() { _, err := w.load("a", "slow"); done <- err }()
		synctest.Wait()
		if w.state("a") != Fetching {
			t.Errorf("state %v", w.state("a"))
		}
		if err := w.unload("a", false); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, ErrUnloaded) {
			t.Errorf("err = %v", err)
		}
		// Also while it is being pushed.
		w.workers[0].set(func() { w.workers[0].pushGate = make(chan struct{}) })
		go func() { _, err := w.load("b", "s1"); done <- err }()
		synctest.Wait()
		if w.state("b") != Loading {
			t.Errorf("state %v", w.state("b"))
		}
		if err := w.unload("b", false); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, ErrUnloaded) {
			t.Errorf("err = %v", err)
		}
		w.check()
	})
}

func TestPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1) // 3 per batch: 2 pins
		yes, no := true, false
		d := w.mustLoad("a", "s1", pinned).Adapter.Digest
		w.mustLoad("a2", "s1", pinned) // the same digest takes one place
		w.mustLoad("b", "s2")
		w.mustLoad("c", "s3")
		if _, err := w.m.Update(t.Context(), UpdateRequest{Name: "b", Pinned: &yes, Labels: map[string]string{"x": "1", "y": "2"}}); err != nil {
			t.Error(err)
		}
		_, err := w.m.Update(t.Context(), UpdateRequest{Name: "c", Pinned: &yes})
		if !errors.Is(err, ErrStarvation) || !strings.Contains(err.Error(), "starvation") {
			t.Errorf("third pin: %v", err)
		}
		if _, err := w.m.Update(t.Context(), UpdateRequest{Name: "a", Pinned: &no}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !w.workers[0].holds()[d] {
			t.Error("a2 pins the digest still")
		}
		if _, err := w.m.Update(t.Context(), UpdateRequest{Name: "a2", Pinned: &no}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if w.workers[0].holds()[d] {
			t.Error("the worker was not told of the unpin")
		}
		r, err := w.m.Update(t.Context(), UpdateRequest{Name: "b", Labels: map[string]string{"x": "", "z": "3"}})
		if diff := cmp.Diff(map[string]string{"y": "2", "z": "3"}, r.Adapter.Labels); diff != "" || err != nil || !r.Adapter.Pinned {
			t.Error(diff, err)
		}
		if _, err := w.m.Update(t.Context(), UpdateRequest{Name: "none", Pinned: &no}); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		w.check()
	})
}

func TestADropThatWaitsIsTakenBack(t *testing.T) {
	for _, bounce := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, someArts(), 1)
			x := w.workers[0]
			d := w.mustLoad("a", "s1").Adapter.Digest
			x.lease(d, 1)
			done := make(chan error, 1)
			go func() { done <- w.unload("a", false) }()
			synctest.Wait()
			if !x.dropping[d] {
				t.Fatal("not being dropped")
			}
			if bounce { // the connection is lost, the worker lives on
				x.setUp(false)
				time.Sleep(5 * time.Second)
				x.setUp(true)
				time.Sleep(10 * time.Second)
			}
			w.mustLoad("b", "s1again")
			if err := <-done; err != nil {
				t.Error(err)
			}
			x.lease(d, -1)
			time.Sleep(time.Minute)
			if _, ok := x.holds()[d]; !ok || x.pushCount(d) != 2 || w.state("b") != Loaded {
				t.Errorf("b is %v, held %v, pushed %d times", w.state("b"), x.holds(), x.pushCount(d))
			}
			w.check()
		})
	}
}

// TestPushedOutWhileLoading: a load whose adapter others push out before a
// worker has it is a load all the same; the adapter is ready for its next use.
func TestPushedOutWhileLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded = 1 })
		gate, done := make(chan struct{}), make(chan error, 2)
		w.workers[0].set(func() { w.workers[0].pushGate = gate })
		go func() { _, err := w.load("a", "s1"); done <- err }()
		synctest.Wait()
		go func() { _, err := w.load("b", "s2"); done <- err }()
		synctest.Wait()
		if w.state("a") != Ready || w.state("b") != Loading {
			t.Errorf("states %v, %v", w.state("a"), w.state("b"))
		}
		close(gate)
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		w.check()
	})
}
