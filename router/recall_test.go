package router

import (
	"context"
	"testing"
	"testing/synctest"
)

// churn is an adapter manager whose room is so short that what it brings back
// is pushed out again before the request has looked, rounds times.
type churn struct {
	residency
	rounds int
	after  func(round int)
}

func (c *churn) Ensure(ctx context.Context, names []string) (uint64, error) {
	rev, err := c.residency.Ensure(ctx, names)
	c.after(c.calls)
	return rev, err
}

// TestRecallUnderChurn: an adapter that others push out again in between is
// brought back again, and the request is answered, not refused.
func TestRecallUnderChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := &churn{rounds: 3}
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{Residency: res}, g)
		set := func(usable bool) {
			h.SetCatalogue(&Catalogue{Revision: 1, Adapters: map[string]*AdapterEntry{
				"a": {Name: "a", Digest: "d-a", Usable: usable, Evicted: !usable},
			}})
		}
		set(false)
		res.after = func(round int) { set(round > res.rounds) }
		synctest.Wait()
		hs, err := h.Submit(context.Background(), []*Request{request("p", func(q *Request) { q.Adapter = "a" })})
		if err != nil {
			t.Fatal(err)
		}
		if res.calls != res.rounds+1 {
			t.Errorf("asked %d times, want %d", res.calls, res.rounds+1)
		}
		hs[0].Close()
		synctest.Wait()
		h.end()
	})
}
