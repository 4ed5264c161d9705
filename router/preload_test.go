package router

import (
	"testing"
	"testing/synctest"
)

// TestReadyAfterPreload: the router is ready when every group has had what is to
// be preloaded, and stays so when that makes room later.
func TestReadyAfterPreload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newGroup("one", GroupInfo{}), newGroup("two", GroupInfo{})
		h := start(t, Config{Preload: []string{"a", "pinned"}}, one, two)
		expect := func(missing string) {
			t.Helper()
			synctest.Wait()
			if got := h.State().Missing; got != missing || h.Ready() != (missing == "") {
				t.Errorf("missing %q, want %q; ready: %v", got, missing, h.Ready())
			}
		}
		resident := func(g *group, digests ...string) { g.message(StepOutputs{Status: &GroupStatus{Resident: digests}}) }
		expect("a")
		h.SetCatalogue(&Catalogue{Adapters: map[string]*AdapterEntry{
			"a": {Name: "a", Digest: "d1", Usable: true}, "b": {Name: "b", Digest: "d2", Usable: true, Pinned: true}, "c": {Name: "c", Digest: "d3", Usable: true},
		}})
		expect("a")
		resident(one, "d1", "d2")
		expect("a")
		resident(two, "d1")
		expect("b")
		resident(two, "d2", "d3")
		expect("")
		resident(one)
		resident(two)
		expect("")
		h.end()
	})
}
