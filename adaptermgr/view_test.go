package adaptermgr

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func TestListPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		for _, n := range []string{"c", "a", "b"} {
			w.mustLoad(n, "s1")
		}
		var names []string
		after, pages := "", 0
		for {
			l, more, _ := w.m.List(after, 2, Filter{})
			pages++
			for _, a := range l {
				names = append(names, a.Name)
				after = a.Name
			}
			if !more {
				break
			}
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" || pages != 2 {
			t.Error(diff, pages)
		}
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.mustLoad("a", "s1")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		fast, slow := w.watch(ctx, 0), w.watch(ctx, 0)
		first := <-fast
		if !first.Snapshot || len(first.Adapters) != 1 || first.Adapters[0].State != Loaded {
			t.Errorf("%+v", first)
		}
		var states []State
		var removed []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for c := range fast {
				if c.Snapshot {
					t.Error("a second snapshot")
				}
				for _, a := range c.Adapters {
					if a.Name == "b" {
						states = append(states, a.State)
					}
				}
				removed = append(removed, c.Removed...)
			}
		}()
		w.mustLoad("b", "s2")
		if err := w.unload("a", false); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		// The slow one gets the state of now, in one message.
		c := <-slow
		if !c.Snapshot || len(c.Adapters) != 1 || c.Adapters[0].Name != "b" || c.Adapters[0].State != Loaded {
			t.Errorf("%+v", c)
		}
		w.mustLoad("c", "s3")
		if err := w.unload("b", false); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		c = <-slow
		if c.Snapshot || len(c.Adapters) != 1 || c.Adapters[0].Name != "c" || !slices.Equal(c.Removed, []string{"b"}) {
			t.Errorf("%+v", c)
		}
		cancel()
		<-done
		if !slices.Contains(states, Loaded) || !slices.Equal(removed, []string{"a", "b"}) {
			t.Errorf("states %v, removed %v", states, removed)
		}
		if _, ok := <-slow; ok {
			t.Error("not closed")
		}
	})
}

// TestRevisionsCanBeWaitedFor is what routers do: they act on an answer when
// their watch has reached its revision.
func TestRevisionsCanBeWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded = 1 })
		var last uint64
		for range 2 {
			w.mustLoad("a", "s1")
			w.mustLoad("b", "s2")
			for _, name := range []string{"a", "a", "b"} {
				ctx, cancel := context.WithCancel(t.Context())
				watch := w.watch(ctx, 0)
				now := map[string]Adapter{}
				revision := uint64(0)
				take := func() {
					c := <-watch
					if c.Revision <= revision {
						t.Errorf("revision %d after %d", c.Revision, revision)
					}
					revision = c.Revision
					for _, a := range c.Adapters {
						now[a.Name] = a
					}
				}
				take()
				r, err := w.m.Ensure(ctx, []string{name})
				if err != nil || r.Revision < last {
					t.Fatalf("%+v, %v", r, err)
				}
				for revision < r.Revision {
					take()
				}
				if now[name].State != Loaded || !now[name].Placements[0].Loaded {
					t.Errorf("at its revision %s is %v", name, now[name].State)
				}
				last = r.Revision
				cancel()
			}
			w.restart() // revisions grow over a restart, too
		}
	})
}

// TestWatchGoesOn: a watch that was lost goes on where it was.
func TestWatchGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.mustLoad("a", "s1")
		w.mustLoad("b", "s2")
		w.mustLoad("c", "s3")
		synctest.Wait()
		_, _, from := w.m.List("", 0, Filter{})
		ctx, cancel := context.WithCancel(t.Context())
		quiet := w.watch(ctx, from)
		synctest.Wait()
		select {
		case c := <-quiet:
			t.Errorf("nothing has changed: %+v", c)
		default:
		}
		w.mustLoad("a", "s4", replacing)
		w.mustLoad("d", "s5")
		for _, n := range []string{"b", "c"} {
			if err := w.unload(n, false); err != nil {
				t.Error(err)
			}
		}
		w.mustLoad("c", "s3")
		synctest.Wait()
		c := <-w.watch(ctx, from)
		var names []string
		for _, a := range c.Adapters {
			names = append(names, a.Name)
		}
		if diff := cmp.Diff([]string{"a", "c", "d"}, names); diff != "" || c.Snapshot || !slices.Equal(c.Removed, []string{"b"}) || c.Revision <= from {
			t.Errorf("%s %+v", diff, c)
		}
		// From an answer's revision, too.
		r := w.mustLoad("e", "s1")
		later := w.watch(ctx, r.Revision)
		if err := w.unload("d", false); err != nil {
			t.Error(err)
		}
		for gone := false; !gone; {
			c := <-later
			gone = slices.Contains(c.Removed, "d")
		}
		cancel()
		w.restart() // after which changes before are not known
		var compacted *CompactedError
		for _, bad := range []uint64{from, 1 << 62} {
			if _, err := w.m.Watch(t.Context(), bad); !errors.Is(err, ErrCompacted) || !errors.As(err, &compacted) || compacted.List == 0 {
				t.Errorf("from %d: %v", bad, err)
			}
		}
		if _, err := w.m.Watch(t.Context(), compacted.List); err != nil {
			t.Error(err)
		}
	})
}

// TestWatchForgetsRemovals: a watch cannot go on from before the removals that
// are kept.
func TestWatchForgetsRemovals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.mustLoad("a", "s1")
		from := w.m.Revision()
		for range maxGone + 1 {
			w.mustLoad("b", "s1")
			if err := w.unload("b", false); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.m.Watch(t.Context(), from); !errors.Is(err, ErrCompacted) {
			t.Errorf("err = %v", err)
		}
	})
}

func TestFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		label := func(v string) func(*LoadRequest) {
			return func(r *LoadRequest) { r.Labels = map[string]string{"k": v} }
		}
		owner := func(o string) func(*LoadRequest) { return func(r *LoadRequest) { r.Owner = o } }
		w.mustLoad("a", "s1", owner("x"), label("1"))
		w.mustLoad("b", "s1", owner("y"), label("1"))
		w.mustLoad("c", "s1", owner("x"))
		w.mustLoad("d", "s1", owner("x"), label("1"))
		l, more, _ := w.m.List("", 1, Filter{Owner: "x", Labels: map[string]string{"k": "1"}})
		if len(l) != 1 || !more || l[0].Name != "a" {
			t.Errorf("%v, %v", l, more)
		}
		l, more, _ = w.m.List("a", 1, Filter{Owner: "x", Labels: map[string]string{"k": "1"}})
		if len(l) != 1 || more || l[0].Name != "d" {
			t.Errorf("%v, %v", l, more)
		}
	})
}
