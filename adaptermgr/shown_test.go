package adaptermgr

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
)

// TestSignaturesAreNotShown: what a URL's signature or password lets in is told
// to nobody, not while it loads nor later, and the adapter loads all the same.
func TestSignaturesAreNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const url, shown = "https://ada:pass@host/a%20b?X-Sig=secret", "https://host/a%20b"
		gate := make(chan struct{})
		w := newWorld(t, map[string]art{url: {seed: 1, block: gate}, url + "2": {seed: 2}, "./s/../3": {seed: 3}}, 1)
		changes := w.watch(t.Context(), 0)
		done := make(chan error, 1)
		go func() { _, err := w.load("a", url); done <- err }()
		synctest.Wait()
		if a, _ := w.m.Get("a"); a.Source != shown || a.Loading == nil || a.Loading.Source != shown {
			t.Errorf("while it loads: %+v", a)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.mustLoad("a", url+"2", replacing)
		w.mustLoad("b", "./s/../3")
		synctest.Wait()
		list, _, _ := w.m.List("", 0, Filter{})
		if list[0].Source != shown || list[0].Versions[0].Source != shown || list[1].Source != "./s/../3" {
			t.Errorf("%+v", list)
		}
		seen, _ := json.Marshal([]any{list, <-changes})
		if s := string(seen); strings.Contains(s, "secret") || strings.Contains(s, "pass@") || !strings.Contains(s, shown) {
			t.Errorf("shown: %s", s)
		}
		w.restart()
		if a, _ := w.m.Get("a"); a.Source != shown {
			t.Errorf("after a restart: %s", a.Source)
		}
		w.mustLoad("a", url, replacing) // the first content again
		w.check()
	})
}
