package adaptermgr

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"chorale/internal/eviction"
)

// TestLFU: with lfu a scan of adapters that are used once leaves what is used
// often where it is; pinned ones stay in any case.
func TestLFU(t *testing.T) {
	for p, want := range map[eviction.Policy][]string{eviction.LRU: {"pinned", "s5"}, eviction.LFU: {"pinned", "hot"}} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded, o.Eviction = 3, p })
				w.mustLoad("pinned", "s1", pinned)
				w.mustLoad("hot", "s2")
				for range 5 {
					w.m.Touch([]string{"hot"})
				}
				for i := 3; i <= 5; i++ {
					name := fmt.Sprintf("s%d", i)
					w.mustLoad(name, name)
				}
				for range 3 { // requests for what was pushed out
					for i := 3; i <= 5; i++ {
						name := []string{fmt.Sprintf("s%d", i)}
						if _, err := w.m.Ensure(t.Context(), name); err != nil {
							t.Fatal(err)
						}
						w.m.Touch(name)
					}
				}
				for _, name := range want {
					if w.state(name) != Loaded {
						t.Errorf("%s is %v", name, w.state(name))
					}
				}
				w.check()
			})
		})
	}
}

// TestUseCountsOnce: a use that brings an adapter back is one use, though the router
// tells of it again.
func TestUseCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded, o.Eviction = 1, eviction.LFU })
		w.mustLoad("a", "s1")
		w.mustLoad("b", "s2")
		if _, err := w.m.Ensure(t.Context(), []string{"a"}); err != nil {
			t.Fatal(err)
		}
		w.m.Touch([]string{"a"})
		recent := func(name string) float64 { return w.m.often.Recent(w.m.entries[name].uses(1)) }
		if got := []float64{recent("a"), recent("b")}; !slices.Equal(got, []float64{2, 1}) {
			t.Errorf("uses of a and b: %v; want a load and a use, and a load", got)
		}
		w.check()
	})
}
