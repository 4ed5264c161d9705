package engine_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"chorale/internal/eviction"
	"chorale/worker/engine"
	"chorale/worker/lora"
	"chorale/worker/model"
	"chorale/worker/sample"
	"chorale/worker/tensor"
)

// resident waits until a router has heard that these adapters are on the device.
func resident(t *testing.T, c *engine.Conn, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		m, err := c.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(m.Status.Resident, want) {
			return
		}
	}
}

// TestPreload: adapters are on the device before the first request, which a router
// hears of without a step, and the first request for one is a hit.
func TestPreload(t *testing.T) {
	f := newFixture(t, tensor.BF16, 1)
	o := roomy()
	o.MaxAdapters, o.MaxResident, o.Eviction = 2, 2, eviction.LFU
	e := f.start(t, o)
	c := e.Connect()
	defer c.Close()
	if err := e.PreloadAdapters(t.Context(), []string{"qv-r16", "attn-r4"}); err != nil {
		t.Fatal(err)
	}
	resident(t, c, "attn-r4", "qv-r16")
	c.Submit([]engine.Request{{ID: 1, Tokens: []int32{1, 2}, Adapter: "qv-r16", MaxTokens: 1}, {ID: 2, Tokens: []int32{1, 2}, Adapter: "embed", MaxTokens: 1}})
	collect(t, c, 2)
	counts, last, err := e.AdapterCounts(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]lora.Counts{}
	for _, a := range counts {
		got[a.Digest] = a
	}
	if a := got["qv-r16"]; a.Hits != 1 || a.Misses != 0 {
		t.Errorf("the preloaded adapter: %+v", a)
	}
	if a := got["embed"]; a.Hits != 0 || a.Misses != 1 {
		t.Errorf("the other one: %+v", a)
	}
	if counts, _, err := e.AdapterCounts(t.Context(), last); err != nil || len(counts) != 0 {
		t.Errorf("what has changed since then: %+v, %v", counts, err)
	}
	if err := e.PreloadAdapters(t.Context(), []string{"qv-r16", "attn-r4", "embed"}); !errors.Is(err, lora.ErrTogether) {
		t.Errorf("three adapters onto two places: %v", err)
	}
	if err := e.PreloadAdapters(t.Context(), []string{"nobody"}); !errors.Is(err, lora.ErrNotLoaded) {
		t.Errorf("an adapter that is not there: %v", err)
	}
}

// TestPrefetch: the adapter of a sequence that waits for its turn is fetched while
// another runs, as soon as that takes a place from nobody.
func TestPrefetch(t *testing.T) {
	f := newFixture(t, tensor.BF16, 1)
	o := roomy()
	o.MaxRunning, o.MaxAdapters, o.MaxResident = 1, 1, 2
	e := f.start(t, o)
	fetched := make(chan engine.Status, 1)
	err := e.PutAdapter(t.Context(), lora.Host{Digest: "third", Device: 1, Pack: func() (lora.Packed, error) {
		st, err := e.Status(context.Background())
		if err != nil {
			return lora.Packed{}, err
		}
		fetched <- st
		return model.Pack(f.model, f.adapters["qv-r16"])
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.PreloadAdapters(t.Context(), []string{"attn-r4", "embed"}); err != nil {
		t.Fatal(err)
	}
	c := e.Connect()
	defer c.Close()
	ask := func(id uint64, adapter string, tokens int) engine.Request {
		return engine.Request{ID: id, Tokens: []int32{1, 2, 3}, Adapter: adapter, MaxTokens: tokens, IgnoreEOS: true, Params: sample.Params{TopP: 1, RepetitionPenalty: 1}}
	}
	// For the third there is no place when it comes, but there is one as soon as the
	// first has ended, long before the second has.
	long := e.Capacity()
	c.Submit([]engine.Request{ask(1, "attn-r4", 2), ask(2, "embed", long), ask(3, "third", 1)})
	collect(t, c, 3)
	if st := <-fetched; st.Running != 1 || st.Waiting != 1 || !slices.Contains(st.Resident, "embed") {
		t.Errorf("the third adapter was fetched with %d running, %d waiting and %v on the device", st.Running, st.Waiting, st.Resident)
	}
}

// TestPrefetchBeforeTheyCome: what a router hints at is on the device before its
// first sequence comes, until the router hints at others or leaves.
func TestPrefetchBeforeTheyCome(t *testing.T) {
	f := newFixture(t, tensor.BF16, 1)
	o := roomy()
	o.MaxAdapters, o.MaxResident = 1, 1
	e := f.start(t, o)
	c, other := e.Connect(), e.Connect()
	defer other.Close()
	c.Prefetch([]string{"embed"})
	resident(t, other, "embed")
	other.Prefetch([]string{"qv-r16"}) // for which there is no place as long as c hints
	c.Prefetch(nil)
	resident(t, other, "qv-r16")
	other.Prefetch(nil)
	c.Prefetch([]string{"embed"})
	resident(t, other, "embed")
	c.Close()
	other.Prefetch([]string{"attn-r4"})
	resident(t, other, "attn-r4")
}
