package router

import (
	"context"
	"errors"
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

// TestWaitsForLoading: a request whose adapter is on its way to the groups, for
// somebody else's request brought it back a moment ago, waits for it. Without a
// group it is refused at once.
func TestWaitsForLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := &churn{}
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{Residency: res}, g)
		set := func(usable bool) {
			h.SetCatalogue(&Catalogue{Revision: 1, Adapters: map[string]*AdapterEntry{
				"a": {Name: "a", Digest: "d-a", Usable: usable, Loading: !usable},
			}})
		}
		set(false)
		res.after = func(int) { set(true) }
		synctest.Wait()
		submit := func() ([]*Handle, error) {
			return h.Submit(context.Background(), []*Request{request("p", func(q *Request) { q.Adapter = "a" })})
		}
		hs, err := submit()
		if err != nil || res.calls != 1 {
			t.Fatalf("asked %d times: %v", res.calls, err)
		}
		hs[0].Close()
		set(false)
		g.lose(errLost)
		synctest.Wait()
		if _, err := submit(); !errors.Is(err, ErrUnavailable) || res.calls != 1 {
			t.Errorf("without a group: asked %d times, %v", res.calls, err)
		}
		h.end()
	})
}
