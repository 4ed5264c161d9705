package adaptermgr

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func weight(w int) func(*LoadRequest) { return func(r *LoadRequest) { r.Weight = &w } }

func withID(id string) func(*LoadRequest) { return func(r *LoadRequest) { r.RequestID = id } }

// shares tells the weights of a name's versions by number.
func (w *world) shares(name string) map[uint64]int {
	a, err := w.m.Get(name)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[uint64]int{}
	for _, v := range a.Versions {
		out[v.Number] = v.Weight
	}
	return out
}

func (w *world) want(name string, version uint64, shares map[uint64]int) {
	w.t.Helper()
	a, err := w.m.Get(name)
	if err != nil {
		w.t.Fatal(err)
	}
	if d := cmp.Diff(shares, w.shares(name)); a.Version != version || d != "" {
		w.t.Errorf("version %d answers, want %d; shares %s", a.Version, version, d)
	}
	w.check()
}

func TestVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2, func(o *Options) { o.MaxVersions = 3 })
		ctx := t.Context()
		for i, src := range []string{"s1", "s2", "s3"} {
			if r := w.mustLoad("a", src, replacing); r.Adapter.Version != uint64(i+1) {
				t.Errorf("%s is version %d", src, r.Adapter.Version)
			}
		}
		w.want("a", 3, map[uint64]int{1: 0, 2: 0, 3: 100})
		// Content of an earlier version is a version of its own, stored once.
		w.mustLoad("a", "s1", replacing)
		w.want("a", 4, map[uint64]int{2: 0, 3: 0, 4: 100}) // the oldest went
		r, err := w.m.Rollback(ctx, RollbackRequest{Name: "a"})
		if err != nil || r.Adapter.Version != 3 || r.Adapter.Digest != (art{seed: 3}).digest(t) || r.Adapter.State != Loaded {
			t.Errorf("%+v, %v", r, err)
		}
		r, err = w.m.Rollback(ctx, RollbackRequest{Name: "a"})
		if err != nil || r.Adapter.Version != 2 {
			t.Errorf("%+v, %v", r, err)
		}
		_, err = w.m.Rollback(ctx, RollbackRequest{Name: "a"})
		if !errors.Is(err, ErrNoEarlier) {
			t.Errorf("to version 1, which is gone: %v", err)
		}
		if _, err = w.m.Rollback(ctx, RollbackRequest{Name: "a", Version: 9}); !errors.Is(err, ErrVersionNotFound) || !strings.Contains(err.Error(), "stored are 2, 3, 4") {
			t.Errorf("to version 9: %v", err)
		}
		if _, err = w.m.Rollback(ctx, RollbackRequest{Name: "b"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("of nobody: %v", err)
		}
		if r, err = w.m.Rollback(ctx, RollbackRequest{Name: "a", Version: 4}); err != nil || r.Adapter.Version != 4 {
			t.Errorf("%+v, %v", r, err)
		}
		synctest.Wait()
		for _, x := range w.workers {
			if d := cmp.Diff(map[string]bool{art{seed: 1}.digest(t): false}, x.holds()); d != "" {
				t.Error(x.addr, d)
			}
		}
		// Numbers never come again, also after the name is gone, and a restart.
		if err := w.unload("a", false); err != nil {
			t.Error(err)
		}
		w.restart()
		if r := w.mustLoad("a", "s1"); r.Adapter.Version != 5 {
			t.Errorf("version %d", r.Adapter.Version)
		}
		w.restart()
		w.want("a", 5, map[uint64]int{5: 100})
	})
}

func TestCanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		ctx := t.Context()
		if _, err := w.load("a", "s1", weight(10)); !errors.Is(err, ErrWeight) {
			t.Errorf("beside nothing: %v", err)
		}
		w.mustLoad("a", "s1", pinned)
		r := w.mustLoad("a", "s2", weight(10))
		if r.Adapter.Version != 1 || !r.Adapter.Pinned || len(r.Adapter.Versions) != 2 || r.Adapter.Versions[1].State != Loaded {
			t.Errorf("%+v", r.Adapter)
		}
		w.want("a", 1, map[uint64]int{1: 90, 2: 10})
		d1, d2 := art{seed: 1}.digest(t), art{seed: 2}.digest(t)
		if d := cmp.Diff(map[string]bool{d1: true, d2: false}, w.workers[0].holds()); d != "" {
			t.Error(d)
		}
		w.mustLoad("a", "s3", weight(0))
		canary := func(version uint64, weight int) error {
			_, err := w.m.Canary(ctx, CanaryRequest{Name: "a", Version: version, Weight: weight})
			return err
		}
		for _, tc := range []struct {
			version uint64
			weight  int
			want    error
		}{
			{3, 91, ErrWeight},
			{3, 101, ErrWeight},
			{3, -1, ErrWeight},
			{1, 50, ErrWeight},
			{4, 10, ErrVersionNotFound},
			{3, 90, nil},
			{3, 20, nil},
			{2, 0, nil},
			{2, 0, nil},
		} {
			if err := canary(tc.version, tc.weight); !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Errorf("%+v: %v", tc, err)
			}
		}
		w.want("a", 1, map[uint64]int{1: 80, 2: 0, 3: 20})
		w.restart()
		w.want("a", 1, map[uint64]int{1: 80, 2: 0, 3: 20})
		// A roll-back ends canaries first.
		if _, err := w.m.Rollback(ctx, RollbackRequest{Name: "a"}); err != nil {
			t.Error(err)
		}
		w.want("a", 1, map[uint64]int{1: 100, 2: 0, 3: 0})
		if err := canary(2, 30); err != nil {
			t.Error(err)
		}
		if err := canary(3, 100); err != nil {
			t.Error(err)
		}
		w.want("a", 3, map[uint64]int{1: 0, 2: 0, 3: 100})
		synctest.Wait()
		if d := cmp.Diff(map[string]bool{art{seed: 3}.digest(t): true}, w.workers[0].holds()); d != "" {
			t.Error(d)
		}
		// The last load wins.
		if err := canary(1, 30); err != nil {
			t.Error(err)
		}
		w.mustLoad("a", "s4", replacing)
		w.want("a", 4, map[uint64]int{1: 0, 2: 0, 3: 0, 4: 100})
		if _, err := w.load("a", "s4", weight(5)); !errors.Is(err, ErrWeight) {
			t.Errorf("the content that answers: %v", err)
		}
	})
}

// TestCanaryNeedsAllGroups: a canary that a group cannot take changes nothing.
func TestCanaryNeedsAllGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		w.mustLoad("a", "s1")
		w.workers[1].set(func() { w.workers[1].pushErr = func(string) error { return errors.New("out of memory") } })
		if _, err := w.load("a", "s2", weight(10)); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "out of memory") {
			t.Errorf("err = %v", err)
		}
		w.want("a", 1, map[uint64]int{1: 100})
		if d := cmp.Diff(map[string]bool{art{seed: 1}.digest(t): false}, w.workers[0].holds()); d != "" {
			t.Error(d)
		}
	})
}

// TestReferences: a version can be brought to the workers by naming it.
func TestReferences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded = 2 })
		ctx := t.Context()
		w.mustLoad("a", "s1")
		w.mustLoad("a", "s2", replacing)
		d1, d2 := art{seed: 1}.digest(t), art{seed: 2}.digest(t)
		for _, ref := range []string{"a@1", "a@" + d1, "a@" + d1[:len("sha256:")+12]} {
			if _, err := w.m.Ensure(ctx, []string{"a", ref}); err != nil {
				t.Fatalf("%s: %v", ref, err)
			}
			if d := cmp.Diff(map[string]bool{d1: false, d2: false}, w.workers[0].holds()); d != "" {
				t.Error(ref, d)
			}
		}
		w.want("a", 2, map[uint64]int{1: 0, 2: 100})
		time.Sleep(time.Second)
		w.m.Touch([]string{"a"})
		// What is used least leaves: version 1, under its reference.
		r := w.mustLoad("b", "s3")
		if !slices.Equal(r.Evicted, []string{"a@1"}) {
			t.Errorf("evicted %v", r.Evicted)
		}
		if _, err := w.m.Ensure(ctx, []string{"a@7"}); !errors.Is(err, ErrVersionNotFound) {
			t.Errorf("no such version: %v", err)
		}
		if _, err := w.m.Ensure(ctx, []string{"nobody@1"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("no such name: %v", err)
		}
		w.check()
	})
}

func TestUnloadVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.mustLoad("a", "s1")
		w.mustLoad("a", "s2", weight(10))
		d2 := art{seed: 2}.digest(t)
		if err := w.unload("a@1", false); !errors.Is(err, ErrVersionInUse) {
			t.Errorf("the version that answers: %v", err)
		}
		if err := w.unload("a@3", false); !errors.Is(err, ErrVersionNotFound) {
			t.Errorf("no such version: %v", err)
		}
		w.workers[0].lease(d2, 1)
		done := make(chan error, 1)
		go func() {
			_, err := w.m.Unload(context.Background(), UnloadRequest{Name: "a@2", DrainTimeout: time.Minute})
			done <- err
		}()
		synctest.Wait()
		w.want("a", 1, map[uint64]int{1: 100})
		time.Sleep(59 * time.Second)
		if len(w.workers[0].holds()) != 2 {
			t.Error("dropped under a sequence")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := w.workers[0].forcedCount(d2); n == 0 || len(w.workers[0].holds()) != 1 {
			t.Errorf("forced %d times, held %v", n, w.workers[0].holds())
		}
		w.check()
	})
}

func TestDrainTimeout(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, someArts(), 1)
			d := w.mustLoad("a", "s1").Adapter.Digest
			w.workers[0].lease(d, 1)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := w.m.Unload(ctx, UnloadRequest{Name: "a", DrainTimeout: time.Minute})
			if !errors.Is(err, context.DeadlineExceeded) || w.state("a") != Draining || w.workers[0].forcedCount(d) != 0 {
				t.Errorf("%v, %v", err, w.state("a"))
			}
			if restart { // the time begins anew
				w.restart()
				time.Sleep(50 * time.Second)
				if w.state("a") != Draining {
					t.Errorf("%v", w.state("a"))
				}
			}
			time.Sleep(31 * time.Second)
			if w.state("a") != StateUnspecified || w.workers[0].forcedCount(d) == 0 {
				t.Errorf("%v, forced %d times", w.state("a"), w.workers[0].forcedCount(d))
			}
			if _, err := w.m.Unload(t.Context(), UnloadRequest{Name: "a", AllowMissing: true}); err != nil {
				t.Error(err)
			}
			w.check()
		})
	}
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.mustLoad("a", "s1")
		w.mustLoad("a", "s2", replacing)
		synctest.Wait()
		x := w.workers[0]
		x.setUp(false)
		time.Sleep(time.Minute)
		x.setUp(true)
		time.Sleep(time.Minute)
		a, err := w.m.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, h := range a.History {
			if h.Reason == "" || h.At.IsZero() {
				t.Errorf("%+v", h)
			}
			got = append(got, h.State.String()+" "+string('0'+rune(h.Version)))
		}
		want := []string{
			"FETCHING 0", "VALIDATING 0", "LOADING 1", "LOADED 1", "LOADED 2", "DRAINING 1", "READY 1", "LOADING 2", "LOADED 2",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		for range 50 { // bounded
			w.mustLoad("a", "s1", replacing)
			w.mustLoad("a", "s2", replacing)
		}
		if a, _ = w.m.Get("a"); len(a.History) != maxHistory || len(a.Versions) != 8 {
			t.Errorf("%d transitions, %d versions", len(a.History), len(a.Versions))
		}
		w.check()
	})
}
