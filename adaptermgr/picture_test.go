package adaptermgr

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestPicture: what a picture takes over from the one before is always what a look
// at the adapter would show, whatever happens to names that share content, to their
// versions and to workers.
func TestPicture(t *testing.T) {
	arts := map[string]art{}
	for i := range 4 {
		arts[fmt.Sprint(i)] = art{seed: i}
	}
	w := newWorld(t, arts, 2, func(o *Options) { o.MaxLoaded, o.RetryMin, o.PollInterval = 3, time.Millisecond, 5*time.Millisecond })
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		for range w.watch(ctx, 0) {
		}
	})
	for g := range 4 {
		r := rand.New(rand.NewPCG(7, uint64(g)))
		all.Go(func() {
			for ctx.Err() == nil {
				w.disturb(ctx, r)
			}
		})
	}
	looks := 0
	for ; ctx.Err() == nil; looks++ {
		w.m.mu.Lock()
		w.m.seq++ // so that it is made anew
		c := w.m.picture()
		for i, name := range w.m.sortedNames() {
			if now := w.m.view(w.m.entries[name]); !now.equal(c.adapters[i]) {
				t.Errorf("%s is %+v, the picture shows %+v", name, now, c.adapters[i])
				cancel()
			}
		}
		w.m.mu.Unlock()
		time.Sleep(100 * time.Microsecond)
	}
	if looks < 10 {
		t.Errorf("%d looks", looks)
	}
}

// disturb does something to the world. Whether it succeeds depends on the others.
func (w *world) disturb(ctx context.Context, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	name, src := fmt.Sprint("name-", r.IntN(4)), fmt.Sprint(r.IntN(4))
	weight := r.IntN(101)
	worker := w.workers[r.IntN(len(w.workers))]
	digest := w.shelf.arts[src].digest(w.t)

	switch r.IntN(12) {
	case 0, 1, 2:
		_, _ = w.m.Load(ctx, LoadRequest{Name: name, Source: src, Replace: true})
	case 3:
		_, _ = w.m.Load(ctx, LoadRequest{Name: name, Source: src, Weight: &weight})
	case 4:
		_, _ = w.m.Canary(ctx, CanaryRequest{Name: name, Version: uint64(1 + r.IntN(9)), Weight: weight})
	case 5:
		_, _ = w.m.Rollback(ctx, RollbackRequest{Name: name})
	case 6:
		_, _ = w.m.Unload(ctx, UnloadRequest{Name: name, DrainTimeout: time.Duration(r.IntN(20)) * time.Millisecond})
	case 7:
		_, _ = w.m.Ensure(ctx, []string{name})
	case 8:
		worker.lease(digest, 1)
		time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
		worker.lease(digest, -1)
	case 9:
		worker.restart()
	case 10:
		worker.setUp(false)
		time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
		worker.setUp(true)
	default:
		_, _ = w.m.Update(ctx, UpdateRequest{Name: name, Labels: map[string]string{"a": src}})
	}
}
