package adaptermgr

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// silent runs a test with two groups, of which the second will say nothing.
func silent(t *testing.T, test func(t *testing.T, w *world, x *fakeWorker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		synctest.Wait()
		test(t, w, w.workers[1])
		w.check()
	})
}

// long loads with more patience than a silent group gets.
func (w *world) long(name, src string, change ...func(*LoadRequest)) (Result, time.Duration, error) {
	req := LoadRequest{Name: name, Source: src}
	for _, c := range change {
		c(&req)
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	r, err := w.m.Load(ctx, req)
	return r, time.Since(begun), err
}

func about(got, want time.Duration) bool { return got >= want && got <= want+want/4 }

// TestSilentGroupIsNotWaitedFor: a load returns, says which group has not
// acknowledged it, and the group is asked again.
func TestSilentGroupIsNotWaitedFor(t *testing.T) {
	for name, test := range map[string]struct {
		mute, speak func(x *fakeWorker, gate chan struct{})
	}{
		"push": {
			func(x *fakeWorker, gate chan struct{}) { x.pushGate = gate },
			func(x *fakeWorker, gate chan struct{}) { x.pushGate = nil; close(gate) },
		},
		"inventory": {
			func(x *fakeWorker, gate chan struct{}) { x.step = gate },
			func(x *fakeWorker, gate chan struct{}) { x.step = nil; close(gate) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			silent(t, func(t *testing.T, w *world, x *fakeWorker) {
				gate := make(chan struct{})
				x.set(func() { test.mute(x, gate) })
				time.Sleep(5 * time.Second) // a question about its inventory is on its way
				r, took, err := w.long("a", "s1")
				if err != nil || !about(took, time.Minute) {
					t.Fatalf("%v after %v", err, took)
				}
				p := r.Adapter.Placements
				if r.Adapter.State != Loaded || !p[0].Loaded || p[1].Loaded || !strings.Contains(p[1].Error, "has not acknowledged the adapter for 1m") {
					t.Errorf("%v: %+v", r.Adapter.State, p)
				}
				if _, err := w.m.Ensure(t.Context(), []string{"a"}); err != nil {
					t.Errorf("a request: %v", err)
				}
				x.set(func() { test.speak(x, gate) })
				time.Sleep(time.Minute)
				if a, _ := w.m.Get("a"); !a.Placements[1].Loaded {
					t.Errorf("not asked again: %+v", a.Placements)
				}
			})
		})
	}
}

// TestSilentGroupKeepsTheOldVersion: other content under a name waits for all
// groups that answer with the old, and comes to nothing when one is silent.
func TestSilentGroupKeepsTheOldVersion(t *testing.T) {
	silent(t, func(t *testing.T, w *world, x *fakeWorker) {
		old := w.mustLoad("a", "s1").Adapter.Digest
		gate := make(chan struct{})
		x.set(func() { x.pushGate = gate })
		_, took, err := w.long("a", "s2", replacing)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "not replaced") || !strings.Contains(err.Error(), "w1: it has not acknowledged") || took > 90*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		if a, _ := w.m.Get("a"); a.Digest != old || a.State != Loaded {
			t.Errorf("%+v", a)
		}
		x.set(func() { x.pushGate = nil; close(gate) })
	})
}

// TestAllGroupsSilent: the load names them; the adapter stays wanted.
func TestAllGroupsSilent(t *testing.T) {
	silent(t, func(t *testing.T, w *world, x *fakeWorker) {
		gate := make(chan struct{})
		for _, x := range w.workers {
			x.set(func() { x.pushGate = gate })
		}
		_, took, err := w.long("a", "s1")
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "w0: it has") || !strings.Contains(err.Error(), "w1: it has") || took > 90*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		for _, x := range w.workers {
			x.set(func() { x.pushGate = nil })
		}
		close(gate)
		time.Sleep(time.Minute)
		if w.state("a") != Loaded {
			t.Errorf("state %v", w.state("a"))
		}
	})
}

// TestSlowGroupIsWaitedFor: one that takes its time and shows that it does.
func TestSlowGroupIsWaitedFor(t *testing.T) {
	silent(t, func(t *testing.T, w *world, x *fakeWorker) {
		x.set(func() { x.pushTakes = 5 * time.Minute })
		r, took, err := w.long("a", "s1")
		if err != nil || took < 5*time.Minute || !r.Adapter.Placements[1].Loaded {
			t.Errorf("%v after %v: %+v", err, took, r.Adapter.Placements)
		}
	})
}

// TestSilentGroupAtTheStart: who never tells what it holds counts as not
// connected, with that as the reason.
func TestSilentGroupAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		w.stop()
		gate, x := make(chan struct{}), w.workers[1]
		x.set(func() { x.step = gate })
		w.start()
		r, took, err := w.long("a", "s1")
		if err != nil || took > 90*time.Second || !strings.Contains(r.Adapter.Placements[1].Error, "does not tell what it holds for 30s") {
			t.Errorf("%v after %v: %+v", err, took, r.Adapter.Placements)
		}
		x.set(func() { x.step = nil })
		close(gate)
		time.Sleep(time.Minute)
		if a, _ := w.m.Get("a"); !a.Placements[1].Loaded {
			t.Errorf("%+v", a.Placements)
		}
		w.check()
	})
}

// TestSilentGroupAndUnload: a forced unload returns and names the group, which
// lets go later; without force the caller's deadline tells who has it still.
func TestSilentGroupAndUnload(t *testing.T) {
	silent(t, func(t *testing.T, w *world, x *fakeWorker) {
		d := w.mustLoad("a", "s1").Adapter.Digest
		w.mustLoad("b", "s2")
		gate := make(chan struct{})
		x.set(func() { x.dropGate = gate })
		begun := time.Now()
		_, err := w.m.Unload(t.Context(), UnloadRequest{Name: "a", Force: true})
		if took := time.Since(begun); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "w1 has not let go") || !about(took, time.Minute) {
			t.Errorf("%v after %v", err, took)
		}
		begun = time.Now()
		_, err = w.m.Unload(t.Context(), UnloadRequest{Name: "b", DrainTimeout: 10 * time.Second})
		if took := time.Since(begun); !errors.Is(err, ErrUnavailable) || !about(took, 70*time.Second) {
			t.Errorf("%v after %v", err, took)
		}
		if w.state("a") != Draining {
			t.Errorf("state %v", w.state("a"))
		}
		if _, err := w.m.Ensure(t.Context(), []string{"a"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("a request: %v", err)
		}
		x.set(func() { x.dropGate = nil })
		close(gate)
		time.Sleep(time.Minute)
		if _, held := x.holds()[d]; held || w.state("a") != StateUnspecified || w.state("b") != StateUnspecified {
			t.Errorf("not asked again: %v, a is %v, b is %v", x.holds(), w.state("a"), w.state("b"))
		}
		c := w.mustLoad("c", "s3").Adapter.Digest
		x.lease(c, 1)
		if err := w.unload("c", false); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "leaves w1 when its sequences have ended") {
			t.Errorf("%v", err)
		}
		x.lease(c, -1)
		synctest.Wait()
		if w.state("c") != StateUnspecified {
			t.Errorf("state %v", w.state("c"))
		}
	})
}
