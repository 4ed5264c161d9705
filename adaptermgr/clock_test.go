package adaptermgr

import (
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// jumpingClock is a wall clock that somebody sets: time goes on in between, and
// it tells no monotonic time.
type jumpingClock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *jumpingClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.offset)
}

func (c *jumpingClock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

const years = 365 * 24 * time.Hour

// TestClockJumps: whatever the clock does, uses keep their order, etags grow,
// requests are remembered, and timeouts last as long as they should.
func TestClockJumps(t *testing.T) {
	for name, jumps := range map[string][2]time.Duration{"forth and back": {10 * years, -20 * years}, "back and forth": {-10 * years, 20 * years}} {
		for what, test := range map[string]func(*testing.T, *world, *jumpingClock, [2]time.Duration){
			"use": clockOrdersNoUse, "changes": clockOrdersNoChange, "timeouts": clockTimesNothing,
		} {
			t.Run(what+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := new(jumpingClock)
					w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded, o.Now = 2, c.now })
					test(t, w, c, jumps)
					w.check()
				})
			})
		}
	}
}

// clockOrdersNoUse: the least recently used leaves, also over a restart.
func clockOrdersNoUse(t *testing.T, w *world, c *jumpingClock, jumps [2]time.Duration) {
	w.mustLoad("a", "s1")
	c.jump(jumps[0])
	w.mustLoad("b", "s2")
	c.jump(jumps[1])
	w.m.Touch([]string{"a"})
	if r := w.mustLoad("c", "s3"); !slices.Equal(r.Evicted, []string{"b"}) {
		t.Errorf("evicted %v", r.Evicted)
	}
	c.jump(-jumps[0])
	if r, err := w.m.Ensure(t.Context(), []string{"b"}); err != nil || !slices.Equal(r.Evicted, []string{"a"}) {
		t.Errorf("evicted %v, %v", r.Evicted, err)
	}
	c.jump(-jumps[1])
	w.restart()
	if r := w.mustLoad("d", "s4"); !slices.Equal(r.Evicted, []string{"c"}) {
		t.Errorf("after a restart: evicted %v", r.Evicted)
	}
	for _, n := range []string{"a", "b", "c", "d"} {
		if err := w.unload(n, false); err != nil {
			t.Error(err)
		}
	}
}

func clockOrdersNoChange(t *testing.T, w *world, c *jumpingClock, jumps [2]time.Duration) {
	load := func() (Result, error) {
		return w.load("x", "s1", func(r *LoadRequest) { r.RequestID = "first " + t.Name() })
	}
	first, err := load()
	if err != nil {
		t.Fatal(err)
	}
	etags, at, revision := []uint64{}, first.Adapter.Created, first.Revision
	for i, jump := range []time.Duration{jumps[0], jumps[1], -jumps[0] - jumps[1]} {
		c.jump(jump)
		if again, err := load(); err != nil || again.Adapter.Etag != first.Adapter.Etag || again.Revision != first.Revision {
			t.Errorf("the same request again: %+v, %v", again, err)
		}
		r := w.mustLoad("x", "s"+strconv.Itoa(2+i), replacing, func(r *LoadRequest) {
			if i > 0 {
				r.Etag = strconv.FormatUint(etags[i-1], 10)
			}
		})
		n, err := strconv.ParseUint(r.Adapter.Etag, 10, 64)
		if err != nil || len(etags) > 0 && n <= etags[len(etags)-1] || r.Revision <= revision || !r.Adapter.Created.Equal(at) {
			t.Errorf("etag %s after %v, revision %d after %d, created %v", r.Adapter.Etag, etags, r.Revision, revision, r.Adapter.Created)
		}
		etags, revision = append(etags, n), r.Revision
	}
	if _, err := w.load("x", "s5", replacing, func(r *LoadRequest) { r.Etag = strconv.FormatUint(etags[0], 10) }); !errors.Is(err, ErrStale) {
		t.Errorf("an old etag: %v", err)
	}
	w.restart()
	if again, err := load(); err != nil || again.Adapter.Version != 4 {
		t.Errorf("the first request after a restart: %+v, %v", again.Adapter, err)
	}
	synctest.Wait()
	a, err := w.m.Get("x")
	if err != nil {
		t.Fatal(err)
	}
	var loaded []uint64 // in the order of what happened
	for _, h := range a.History {
		if h.State == Loaded && !slices.Contains(loaded, h.Version) {
			loaded = append(loaded, h.Version)
		}
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4}, loaded); diff != "" {
		t.Error(diff)
	}
	if err := w.unload("x", false); err != nil {
		t.Error(err)
	}
}

// clockTimesNothing: a drain is forced when its time is over, and a push that
// failed is repeated, no sooner and no later.
func clockTimesNothing(t *testing.T, w *world, c *jumpingClock, jumps [2]time.Duration) {
	x := w.workers[0]
	d := art{seed: 1}.digest(t)
	w.mustLoad("y", "s1")
	x.lease(d, 1)
	start := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := w.m.Unload(t.Context(), UnloadRequest{Name: "y", DrainTimeout: 20 * time.Second})
		done <- err
	}()
	time.Sleep(5 * time.Second)
	c.jump(jumps[0])
	w.m.Touch([]string{"y"})
	time.Sleep(5 * time.Second)
	c.jump(jumps[1])
	if err := <-done; err != nil || time.Since(start) != 20*time.Second {
		t.Errorf("drained after %v: %v", time.Since(start), err)
	}
	fail := true
	x.set(func() {
		x.pushErr = func(string) error {
			if fail {
				return errors.New("not now")
			}
			return nil
		}
	})
	go func() { _, err := w.load("z", "s2"); done <- err }()
	time.Sleep(100 * time.Millisecond)
	c.jump(-jumps[0])
	x.set(func() { fail = false })
	start = time.Now()
	if err := <-done; err != nil || time.Since(start) > time.Second {
		t.Errorf("pushed after %v: %v", time.Since(start), err)
	}
	c.jump(-jumps[1])
	if err := w.unload("z", false); err != nil {
		t.Error(err)
	}
}
