package adaptermgr

import (
	"context"
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
			l, more, _ := w.m.List(after, 2)
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
		fast, slow := w.m.Watch(ctx), w.m.Watch(ctx)
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
				watch := w.m.Watch(ctx)
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
