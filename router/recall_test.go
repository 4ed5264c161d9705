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

// TestCallBack: an adapter that is pushed out between the dispatch and the
// worker is brought back and the sequence sent again, more often than a worker
// may be lost; one that cannot come back ends the answer with the reason.
func TestCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := &churn{}
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{Residency: res}, g)
		set := func(usable bool) {
			h.SetCatalogue(&Catalogue{Revision: 1, Adapters: map[string]*AdapterEntry{
				"a": {Name: "a", Digest: "d-a", Usable: usable, Evicted: !usable},
			}})
		}
		set(true)
		res.after = func(int) { set(true) }
		synctest.Wait()
		hs, err := h.Submit(context.Background(), []*Request{request("p", func(q *Request) { q.Adapter = "a" })})
		if err != nil {
			t.Fatal(err)
		}
		refuse := func() {
			synctest.Wait()
			if n := len(g.sequences()); n != 1 {
				t.Fatalf("%d sequences on the worker, want 1", n)
			}
			set(false)
			g.say(SequenceOutput{ID: g.sequences()[0].ID, Finish: FinishAbort, ErrorReason: ReasonAdapterNotLoaded, StopToken: -1})
		}
		for range maxRetries + 3 {
			refuse()
		}
		synctest.Wait()
		if res.calls != maxRetries+3 {
			t.Errorf("brought back %d times, want %d", res.calls, maxRetries+3)
		}
		res.err = errLost
		refuse()
		synctest.Wait()
		for {
			ev, err := hs[0].Next(context.Background())
			if err != nil {
				t.Fatalf("the answer ended without its reason: %v", err)
			}
			if ev.Finish != nil {
				if !errors.Is(ev.Finish.Err, ErrAdapterNotReady) || !errors.Is(ev.Finish.Err, errLost) {
					t.Errorf("ended with %v", ev.Finish.Err)
				}
				break
			}
		}
		hs[0].Close()
		synctest.Wait()
		h.end()
	})
}
