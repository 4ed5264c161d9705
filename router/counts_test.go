package router

import (
	"slices"
	"testing"
	"testing/synctest"
)

// TestCountsReachTheObserver: with the group and its incarnation, which tell where
// counts begin anew.
func TestCountsReachTheObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		g := newGroup("one", GroupInfo{Incarnation: "x"})
		h := start(t, Config{Observer: w}, g)
		synctest.Wait()
		g.message(StepOutputs{Adapters: []AdapterCount{{Digest: "d", Hits: 3}}})
		synctest.Wait()
		want := []string{`counts one "x" [{Digest:d Since:0 Hits:3 Misses:0 Evictions:0 LoadBounds:[] LoadCounts:[] LoadSeconds:0}]`}
		if !slices.Equal(w.lines, want) {
			t.Errorf("told %q, want %q", w.lines, want)
		}
		h.end()
	})
}
