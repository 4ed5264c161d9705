package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"chorale/adaptermgr/blob"
	"chorale/adaptermgr/store"
)

func someArts() map[string]art {
	return map[string]art{
		"s1": {seed: 1}, "s1again": {seed: 1}, "s2": {seed: 2}, "s3": {seed: 3}, "s4": {seed: 4}, "s5": {seed: 5},
	}
}

// TestMaxLoadedBytes: what a worker's memory holds bounds what is loaded, each
// content counted once.
func TestMaxLoadedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		_, weights := art{seed: 1}.files(t)
		w.mustLoad("a", "s1")
		w.m.mu.Lock()
		w.m.base.MaxLoadedBytes = 2 * int64(len(weights))
		w.m.mu.Unlock()
		time.Sleep(time.Second)
		w.mustLoad("b", "s2", pinned)
		time.Sleep(time.Second)
		if r := w.mustLoad("a too", "s1again"); len(r.Evicted) != 0 {
			t.Errorf("the same content again pushes out %v", r.Evicted)
		}
		time.Sleep(time.Second)
		r := w.mustLoad("c", "s3")
		if diff := cmp.Diff([]string{"a", "a too"}, r.Evicted); diff != "" {
			t.Error(diff)
		}
		synctest.Wait()
		if n := len(w.workers[0].holds()); n != 2 {
			t.Errorf("the worker holds %d", n)
		}
		if _, err := w.m.Ensure(t.Context(), []string{"a", "c"}); !errors.Is(err, ErrHostMemory) {
			t.Errorf("more than fits at once: %v", err)
		}
		e, err := w.m.Ensure(t.Context(), []string{"a"})
		if err != nil || !slices.Equal(e.Evicted, []string{"c"}) || w.state("a") != Loaded {
			t.Errorf("%+v, %v", e, err)
		}
		w.check()
	})
}

func TestMaxLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded = 2 })
		ctx := t.Context()
		w.mustLoad("a", "s1")
		time.Sleep(time.Second)
		w.mustLoad("b", "s2")
		time.Sleep(time.Second)
		w.m.Touch([]string{"a", "nobody"})
		r := w.mustLoad("c", "s3")
		if diff := cmp.Diff([]string{"b"}, r.Evicted); diff != "" || w.state("b") != Ready {
			t.Error(diff, w.state("b"))
		}
		synctest.Wait()
		if _, ok := w.workers[0].holds()[art{seed: 2}.digest(t)]; ok {
			t.Error("the worker holds the evicted one")
		}
		w.check()

		// A request touches its loaded names and brings the missing one back.
		time.Sleep(time.Second)
		e, err := w.m.Ensure(ctx, []string{"a", "b", "a"})
		if err != nil || len(e.Adapters) != 3 || e.Adapters[1].State != Loaded || !slices.Equal(e.Evicted, []string{"c"}) {
			t.Errorf("%+v, %v", e, err)
		}
		if _, err := w.m.Ensure(ctx, []string{"a", "b", "c"}); !errors.Is(err, ErrCapacity) {
			t.Errorf("more than fit: %v", err)
		}
		if _, err := w.m.Ensure(ctx, []string{"nobody"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown: %v", err)
		}
		w.check()

		// What is evicted stays so over a restart, and can be loaded anew.
		w.restart()
		if w.state("c") != Ready {
			t.Errorf("state %v", w.state("c"))
		}
		r = w.mustLoad("c", "s3", mustBeNew)
		if len(r.Evicted) != 1 || w.state("c") != Loaded {
			t.Errorf("%+v", r)
		}
		for _, n := range []string{"a", "b", "c"} { // evicted ones can be unloaded, too
			if err := w.unload(n, false); err != nil {
				t.Error(err)
			}
		}
		w.mustLoad("p", "s4", pinned)
		w.mustLoad("q", "s5", pinned)
		if _, err := w.load("a", "s1"); !errors.Is(err, ErrCapacity) {
			t.Errorf("all pinned: %v", err)
		}
		if w.state("a") != StateUnspecified {
			t.Errorf("left %v", w.state("a"))
		}
		w.check()
	})
}

func TestManagerRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		before := w.mustLoad("a", "s1", pinned).Adapter
		w.mustLoad("b", "s2")
		w.stop()
		// What the worker got behind the manager's back goes.
		w.workers[0].set(func() { w.workers[0].held["sha256:other"] = false })
		w.start()
		synctest.Wait()
		after, err := w.m.Get("a")
		if !after.equal(before) || err != nil {
			t.Error(cmp.Diff(before, after), err)
		}
		if n := w.workers[0].pushCount(before.Digest); n != 1 {
			t.Errorf("pushed again although it was there: %d", n)
		}
		if len(w.workers[0].holds()) != 2 {
			t.Errorf("holds %v", w.workers[0].holds())
		}
		w.check()
	})
}

func TestDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.Disabled = true })
		_, err := w.load("a", "s1")
		_, err2 := w.m.Ensure(t.Context(), []string{"a"})
		_, err3 := w.m.Validate(t.Context(), "s1")
		for _, err := range []error{err, err2, err3} {
			if !errors.Is(err, ErrDisabled) || !strings.Contains(err.Error(), "not enabled") {
				t.Errorf("err = %v", err)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.workers[0].set(func() { w.workers[0].info.LoRAEnabled = false })
		w.restart()
		if _, err := w.load("a", "s1"); !errors.Is(err, ErrDisabled) {
			t.Errorf("err = %v", err)
		}
	})
}

func TestClosedManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arts := someArts()
		w := newWorld(t, arts, 1)
		d := w.mustLoad("a", "s1").Adapter.Digest
		w.workers[0].lease(d, 1)
		watch := w.watch(context.Background(), 0)
		<-watch
		done := make(chan error, 1)
		go func() { done <- w.unload("a", false) }()
		synctest.Wait()
		w.stop()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("err = %v", err)
		}
		for range watch { // ends
		}
		// The drain goes on with the next process.
		w.workers[0].lease(d, -1)
		w.start()
		synctest.Wait()
		if w.state("a") != StateUnspecified {
			t.Errorf("state %v", w.state("a"))
		}
		w.check()
	})
}

// failingDisk fails writes while its errors are set.
type failingDisk struct {
	mu              sync.Mutex
	blobs, registry error
}

func (d *failingDisk) set(blobs, registry error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blobs, d.registry = blobs, registry
}

func (d *failingDisk) errs() (blobs, registry error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.blobs, d.registry
}

type failingRegistry struct {
	store.Store
	d *failingDisk
}

func (r failingRegistry) Update(fn func(store.Tx) error) (uint64, error) {
	if _, err := r.d.errs(); err != nil {
		return 0, err
	}
	return r.Store.Update(fn)
}

type failingBlobs struct {
	Blobs
	d *failingDisk
}

func (b failingBlobs) Stage(ctx context.Context, r io.Reader, limit int64) (Staged, error) {
	if err, _ := b.d.errs(); err != nil {
		return nil, err
	}
	return b.Blobs.Stage(ctx, r, limit)
}

func TestFailingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &failingDisk{}
		w := newWorld(t, someArts(), 1, func(o *Options) {
			o.Blobs, o.Registry = failingBlobs{o.Blobs, d}, failingRegistry{o.Registry, d}
		})
		w.mustLoad("kept", "s1")
		for _, tc := range []struct{ blobs, registry, want error }{
			{blobs: fmt.Errorf("write /data/tmp/1: %w", blob.ErrFull), want: ErrDiskFull},
			{blobs: blob.ErrReadOnly, want: ErrReadOnly},
			{registry: store.ErrFull, want: ErrDiskFull},
			{registry: store.ErrReadOnly, want: ErrReadOnly},
		} {
			d.set(tc.blobs, tc.registry)
			if _, err := w.load("a", "s2"); !errors.Is(err, tc.want) {
				t.Errorf("%+v: %v", tc, err)
			}
			if w.state("a") != StateUnspecified || w.state("kept") != Loaded {
				t.Errorf("%+v: a is %v, kept is %v", tc, w.state("a"), w.state("kept"))
			}
		}
		// A drain that the registry cannot note goes on when it can again.
		d.set(nil, nil)
		digest := art{seed: 1}.digest(t)
		w.workers[0].lease(digest, 1)
		done := make(chan error, 1)
		go func() { done <- w.unload("kept", false) }()
		synctest.Wait()
		d.set(nil, store.ErrFull)
		w.workers[0].lease(digest, -1)
		time.Sleep(5 * time.Second)
		if w.state("kept") != Draining {
			t.Errorf("kept is %v", w.state("kept"))
		}
		d.set(nil, nil)
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.mustLoad("a", "s2")
		w.check()
	})
}
