package adaptermgr

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestGroupDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		w.workers[1].setUp(false)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		r := w.mustLoad("a", "s1")
		if r.Adapter.State != Loaded || !r.Adapter.Placements[0].Loaded || r.Adapter.Placements[1].Loaded ||
			!strings.Contains(r.Adapter.Placements[1].Error, "refused") {
			t.Errorf("%+v", r.Adapter.Placements)
		}
		w.workers[0].setUp(false)
		time.Sleep(5 * time.Second)
		if a, _ := w.m.Get("a"); a.State != Loading || !strings.Contains(a.Message, "no worker group is connected") {
			t.Errorf("%v %q", a.State, a.Message)
		}
		_, err := w.load("b", "s2")
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "w0") {
			t.Errorf("err = %v", err)
		}
		if w.state("b") != Loading {
			t.Errorf("the registration is gone: %v", w.state("b"))
		}
		w.workers[0].setUp(true)
		w.workers[1].setUp(true)
		time.Sleep(30 * time.Second)
		for _, n := range []string{"a", "b"} {
			if a, _ := w.m.Get(n); a.State != Loaded || !a.Placements[0].Loaded || !a.Placements[1].Loaded {
				t.Errorf("%s: %+v", n, a)
			}
		}
		// Unload does not wait for a group that is gone; the group drops later.
		w.workers[1].setUp(false)
		time.Sleep(5 * time.Second)
		if err := w.unload("a", false); err != nil {
			t.Error(err)
		}
		w.workers[1].setUp(true)
		time.Sleep(30 * time.Second)
		if len(w.workers[1].holds()) != 1 {
			t.Errorf("holds %v", w.workers[1].holds())
		}
		w.check()
	})
}

func TestWorkerRestartIsPushedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		d := w.mustLoad("a", "s1", pinned).Adapter.Digest
		w.workers[0].restart()
		time.Sleep(3 * time.Second)
		if diff := cmp.Diff(map[string]bool{d: true}, w.workers[0].holds()); diff != "" || w.state("a") != Loaded {
			t.Error(diff, w.state("a"))
		}
		if n := w.workers[0].pushCount(d); n != 2 {
			t.Errorf("pushed %d times", n)
		}
	})
}

func TestPushErrorIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		fails := 3
		w.workers[0].set(func() {
			w.workers[0].pushErr = func(string) error {
				if fails--; fails >= 0 {
					return errors.New("out of memory")
				}
				return nil
			}
		})
		if r := w.mustLoad("a", "s1"); r.Adapter.State != Loaded {
			t.Errorf("%+v", r)
		}
	})
}

func TestRejectedByAllGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		for _, x := range w.workers {
			x.set(func() { x.pushErr = func(string) error { return fmt.Errorf("%w: no kernel for it", ErrRejected) } })
		}
		_, err := w.load("a", "s1")
		if !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), "no kernel") {
			t.Errorf("err = %v", err)
		}
		if w.state("a") != StateUnspecified {
			t.Errorf("state %v", w.state("a"))
		}
		w.check()
	})
}

func TestNoWorkerEverSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.stop()
		w.workers[0].setUp(false)
		w.start()
		_, err := w.load("a", "s1")
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "w0") {
			t.Errorf("err = %v", err)
		}
		w.check()
	})
}

func TestCorruptBlobFailsUntilLoadedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.mustLoad("a", "s1")
		w.stop()
		e := w.m.entries["a"]
		f, err := w.m.o.Blobs.OpenVerified(e.current().WeightsBlob)
		if err != nil {
			t.Fatal(err)
		}
		path := f.Name()
		f.Close()
		w.workers[0].restart()
		if err := os.WriteFile(path, []byte("rot"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.start()
		synctest.Wait()
		if a, _ := w.m.Get("a"); a.State != Failed || !strings.Contains(a.Message, "load it again") {
			t.Errorf("%v %q", a.State, a.Message)
		}
		w.workers[0].set(func() { // it was the worker that found out
			if w.workers[0].bad == nil {
				t.Error("the worker has seen nothing wrong")
			}
			w.workers[0].bad = nil
		})
		w.mustLoad("a", "s1")
		w.check()
		w.stop()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.start()
		synctest.Wait()
		if w.state("a") != Failed {
			t.Errorf("missing file: %v", w.state("a"))
		}
		w.mustLoad("a", "s1")
		w.check()
	})
}

// TestLongStep: a worker that computes a long step answers no question until
// its end. What it holds is usable all the same.
func TestLongStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		r := w.mustLoad("a", "s1")
		step := make(chan struct{})
		w.workers[0].set(func() { w.workers[0].step = step })
		for range 10 {
			time.Sleep(10 * time.Second)
			if a, _ := w.m.Get("a"); a.State != Loaded || !a.Placements[0].Loaded {
				t.Fatalf("during the step: %v %q", a.State, a.Message)
			}
		}
		close(step)
		time.Sleep(5 * time.Second)
		if n := w.workers[0].pushCount(r.Adapter.Digest); n != 1 {
			t.Errorf("pushed %d times", n)
		}
		w.check()
	})
}
