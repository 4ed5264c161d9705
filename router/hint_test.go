package router

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// TestHints: adapters of sequences for which there is no room yet are named to the
// group that will probably get them, in the order of their turns, and no more when
// nobody waits.
func TestHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newGroup("one", GroupInfo{MaxRunning: 1}), newGroup("two", GroupInfo{MaxRunning: 1})
		h := start(t, Config{}, one, two)
		cat := &Catalogue{Adapters: map[string]*AdapterEntry{}}
		for _, n := range []string{"a", "b", "c", "d", "e"} {
			cat.Adapters[n] = &AdapterEntry{Name: n, Digest: "digest " + n, Usable: true}
		}
		h.SetCatalogue(cat)
		synctest.Wait()
		told := func() string {
			synctest.Wait()
			var out []string
			for _, g := range []*group{one, two} {
				g.mu.Lock()
				out = append(out, fmt.Sprint(g.addr, ": ", g.hints))
				g.mu.Unlock()
			}
			return fmt.Sprint(out)
		}
		ask := func(adapter string) *Handle {
			hd := h.submit(request(adapter, func(q *Request) { q.Adapter = adapter }))
			synctest.Wait()
			return hd
		}
		ask("a")
		ask("b")
		if got := told(); got != "[one: [] two: []]" {
			t.Errorf("nobody waits: %s", got)
		}
		two.message(StepOutputs{Status: &GroupStatus{Resident: []string{"digest d"}}})
		var waiting []*Handle
		for _, a := range []string{"c", "d", "c", "e"} {
			waiting = append(waiting, ask(a))
		}
		if got := told(); got != "[one: [digest c digest e] two: [digest d]]" {
			t.Errorf("told %s", got)
		}
		for _, hd := range waiting[:2] {
			hd.Close()
		}
		if got := told(); got != "[one: [digest c digest e] two: []]" && got != "[one: [digest e digest c] two: []]" {
			t.Errorf("after some have left: told %s", got)
		}
		for _, hd := range waiting[2:] {
			hd.Close()
		}
		if got := told(); got != "[one: [] two: []]" {
			t.Errorf("after all have left: told %s", got)
		}
		if !slices.Equal(one.hints, nil) {
			t.Errorf("%v", one.hints)
		}
		h.end()
	})
}
