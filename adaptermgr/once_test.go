package adaptermgr

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func TestRequestIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		ctx := t.Context()
		first := w.mustLoad("a", "s1", withID("1"))
		w.mustLoad("a", "s2", replacing, withID("2"))
		// Asked again it is not done again, and the answer is the first one's.
		if again := w.mustLoad("a", "s1", withID("1")); cmp.Diff(first, again) != "" {
			t.Error(cmp.Diff(first, again))
		}
		w.want("a", 2, map[uint64]int{1: 0, 2: 100})
		if _, err := w.load("a", "s3", withID("1")); !errors.Is(err, ErrRequestID) {
			t.Errorf("another request: %v", err)
		}
		if _, err := w.m.Update(ctx, UpdateRequest{Name: "a", RequestID: "1"}); !errors.Is(err, ErrRequestID) {
			t.Errorf("another method: %v", err)
		}
		back := RollbackRequest{Name: "a", RequestID: "3"}
		for range 3 {
			if r, err := w.m.Rollback(ctx, back); err != nil || r.Adapter.Version != 1 {
				t.Errorf("%+v, %v", r, err)
			}
		}
		// One that fails may be tried again.
		for range 2 {
			if _, err := w.load("b", "nothing", withID("4")); !errors.Is(err, ErrSourceNotFound) {
				t.Errorf("err = %v", err)
			}
		}
		w.mustLoad("b", "s3", withID("4 again"))
		// One that changes nothing has an id, too.
		w.mustLoad("b", "s3", withID("5"))
		gone := UnloadRequest{Name: "b", RequestID: "6"}
		if _, err := w.m.Unload(ctx, gone); err != nil {
			t.Error(err)
		}
		for range 2 { // also after a restart: then the answer is what is so now
			if r, err := w.m.Unload(ctx, gone); err != nil || r.Adapter.State != Removed {
				t.Errorf("%+v, %v", r, err)
			}
			if r, err := w.m.Rollback(ctx, back); err != nil || r.Adapter.Version != 1 {
				t.Errorf("%+v, %v", r, err)
			}
			if r := w.mustLoad("a", "s1", withID("1")); r.Adapter.State != Loaded {
				t.Errorf("%+v", r)
			}
			for _, id := range []string{"1", "5"} {
				if _, err := w.load("a", "s3", withID(id)); !errors.Is(err, ErrRequestID) {
					t.Errorf("another request: %v", err)
				}
			}
			w.want("a", 1, map[uint64]int{1: 100, 2: 0})
			w.restart()
		}
	})
}

// TestSameRequestAtOnce: a request that comes again while it runs waits for
// itself.
func TestSameRequestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arts := someArts()
		block := make(chan struct{})
		arts["slow"] = art{seed: 9, block: block}
		w := newWorld(t, arts, 1)
		done := make(chan Result, 3)
		for range 3 {
			go func() { done <- w.mustLoad("a", "slow", withID("x"), mustBeNew) }()
		}
		synctest.Wait()
		if _, err := w.load("a", "s1", withID("x")); !errors.Is(err, ErrRequestID) {
			t.Errorf("another request meanwhile: %v", err)
		}
		close(block)
		for range 3 {
			if r := <-done; r.Adapter.Version != 1 {
				t.Errorf("%+v", r)
			}
		}
		w.check()
	})
}

func TestEtags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded = 1 })
		ctx := t.Context()
		old := w.mustLoad("a", "s1").Adapter.Etag
		yes := true
		r, err := w.m.Update(ctx, UpdateRequest{Name: "a", Labels: map[string]string{"k": "v"}, Etag: old})
		if err != nil || r.Adapter.Etag == old {
			t.Errorf("%+v, %v", r, err)
		}
		fresh := r.Adapter.Etag
		w.mustLoad("b", "s2") // pushes it out: no client's change
		for name, f := range map[string]func(etag string) error{
			"update": func(e string) error {
				_, err := w.m.Update(ctx, UpdateRequest{Name: "a", Pinned: &yes, Etag: e})
				return err
			},
			"load":     func(e string) error { _, err := w.load("a", "s3", func(r *LoadRequest) { r.Etag = e }); return err },
			"rollback": func(e string) error { _, err := w.m.Rollback(ctx, RollbackRequest{Name: "a", Etag: e}); return err },
			"canary": func(e string) error {
				_, err := w.m.Canary(ctx, CanaryRequest{Name: "a", Version: 1, Etag: e})
				return err
			},
			"unload": func(e string) error { _, err := w.m.Unload(ctx, UnloadRequest{Name: "a", Etag: e}); return err },
		} {
			if err := f(old); !errors.Is(err, ErrStale) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := w.m.Unload(ctx, UnloadRequest{Name: "a", Etag: fresh}); err != nil {
			t.Error(err)
		}
		if _, err := w.load("a", "s3", func(r *LoadRequest) { r.Etag = fresh }); !errors.Is(err, ErrStale) {
			t.Errorf("a name that is gone: %v", err)
		}
		w.check()
	})
}
