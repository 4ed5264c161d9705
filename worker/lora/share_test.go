package lora

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"chorale/internal/eviction"
	"chorale/worker/kv"
	"chorale/worker/memory"
)

// still is a Mover whose groups are there at once.
type still struct{ p **memory.Pool }

func (still) Shrink([]int32)    {}
func (m still) Grow(gs []int32) { (*m.p).Grown(gs) }

// sharing is a store on a pool beside a cache that somebody uses.
type sharingWorld struct {
	s     *Store
	p     *memory.Pool
	cache *kv.Pool
	desk  *desk
	tabs  []*kv.Table
	size  map[string]int64
	step  uint64
	// preloads that were asked for, and those whose end was told.
	asked, told int
}

func newSharing(t *rapid.T) *sharingWorld {
	groups := rapid.IntRange(4, 30).Draw(t, "groups")
	w := &sharingWorld{desk: newDesk(), size: map[string]int64{}, cache: kv.NewGrouped(groups, 1)}
	w.p = memory.New(memory.Config{
		Chunks: groups, ChunkBytes: 1, ImageChunks: func(b int64) int { return int(b) }, GroupChunks: 1, GroupPages: 1,
		Floor: rapid.IntRange(1, groups-1).Draw(t, "floor"), Lot: 2, Keep: 2,
	}, still{&w.p})
	w.s = NewStore(rapid.IntRange(0, 3).Draw(t, "capacity"), 0, func(a Arrival) { w.desk.arrivals <- a }, func(string) {})
	w.s.SetPolicy(rapid.SampledFrom([]eviction.Policy{eviction.LRU, eviction.LFU}).Draw(t, "policy"))
	w.s.Share(w.p)
	w.p.Bind(w.cache, w.s)
	w.p.Grown(w.p.Start(groups))
	for _, d := range []string{"a", "b", "c", "d", "e", "f"} {
		w.size[d] = int64(rapid.IntRange(1, groups).Draw(t, "size"))
	}
	return w
}

func (w *sharingWorld) check(t *rapid.T) {
	if err := errors.Join(w.s.Check(), w.p.Check(), w.cache.Check(w.tabs...)); err != nil {
		t.Fatal(err)
	}
	held, idle, free := 0, 0, 0
	for d, e := range w.s.entries {
		if e.packed != nil || e.loading {
			held += int(w.size[d])
		}
		if e.idle(false) {
			idle += e.chunks
		}
		if e.idle(true) {
			free += e.chunks
		}
	}
	if c := w.p.Counts(); c.Adapters != held || w.s.IdleChunks(true) != idle || w.s.IdleChunks(false) != free {
		t.Fatalf("%+v; adapters hold %d, %d of them idle, %d nobody waits for", c, held, idle, free)
	}
	last := ""
	for i, e := range w.s.Idle() {
		if i > 0 && w.s.sooner(w.s.entries[e.Digest], w.s.entries[last]) {
			t.Fatalf("%s stands behind %s", e.Digest, last)
		}
		last = e.Digest
	}
}

// add loads an adapter; what could never run is refused, and refusing keeps the
// promise for all others.
func (w *sharingWorld) add(t *rapid.T) {
	d := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "digest")
	h := w.desk.host(t, d, rapid.IntRange(0, 3).Draw(t, "pin") == 0)
	h.Bytes = w.size[d]
	err := w.s.Add(h)
	if err != nil {
		w.desk.hosts--
		if !errors.Is(err, memory.ErrTooLarge) {
			t.Fatal(err)
		}
	}
	pinned, places, largest := 0, 0, 0
	for _, e := range w.s.entries {
		if e.Pinned {
			pinned, places = pinned+int(e.Device), places+1
		} else {
			largest = max(largest, int(e.Device))
		}
	}
	if pinned+largest > w.p.Limit() || w.s.capacity > 0 && largest > 0 && places >= w.s.capacity {
		t.Fatalf("pinned ones take %d of %d chunks, the largest other one %d; %d of %d places", pinned, w.p.Limit(), largest, places, w.s.capacity)
	}
}

// TestSharing compares the pool's books with the store under random operations.
func TestSharing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSharing(t)
		pick := func(t *rapid.T, ok func(e *entry) bool) *entry {
			for _, d := range rapid.Permutation([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "order") {
				if e := w.s.entries[d]; e != nil && ok(e) {
					return e
				}
			}
			t.Skip("no such adapter")
			return nil
		}
		any := func(*entry) bool { return true }
		t.Repeat(map[string]func(*rapid.T){
			"":         w.check,
			"add":      w.add,
			"want":     func(t *rapid.T) { w.s.Want(pick(t, any).Digest) },
			"prefetch": func(t *rapid.T) { w.s.Prefetch(pick(t, any).Digest) },
			"ahead":    func(*rapid.T) { w.s.Ahead(nil) },
			"hint": func(t *rapid.T) {
				w.s.Hint(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}), 0, 3).Draw(t, "hints"))
			},
			"preload": func(t *rapid.T) {
				both := []string{pick(t, any).Digest, pick(t, any).Digest}
				w.asked++
				w.s.Preload(both, func(error) { w.told++ })
			},
			"arrive": func(t *rapid.T) {
				if w.s.Loading() == 0 {
					t.Skip("nothing on its way")
				}
				w.desk.deliver(w.s, rapid.IntRange(0, 4).Draw(t, "fail") == 0)
			},
			"lease":  func(t *rapid.T) { _ = w.s.Lease(pick(t, func(e *entry) bool { return len(e.drops) == 0 }).Digest) },
			"return": func(t *rapid.T) { w.s.Return(pick(t, func(e *entry) bool { return e.leases > e.uses }).Digest) },
			"use": func(t *rapid.T) {
				w.s.Use(pick(t, func(e *entry) bool { return e.packed != nil && e.leases > e.uses }).Digest)
			},
			"unuse": func(t *rapid.T) { w.s.Unuse(pick(t, func(e *entry) bool { return e.uses > 0 }).Digest) },
			"drop":  func(t *rapid.T) { w.s.Drop(pick(t, any).Digest, func() {}) },
			"adopt": func(t *rapid.T) {
				if _, err := w.s.Adopt(pick(t, any).Digest, rapid.Bool().Draw(t, "pin")); err != nil && !errors.Is(err, memory.ErrTooLarge) {
					t.Fatal(err)
				}
			},
			"pages": func(t *rapid.T) {
				tab, _ := w.cache.NewTable("", nil)
				if tokens := rapid.IntRange(1, 5).Draw(t, "pages") * kv.PageSize; tab.Grow(tokens) || w.p.More(tab.Lacks(tokens)) && tab.Grow(tokens) {
					w.tabs = append(w.tabs, tab)
				}
			},
			"step": func(*rapid.T) {
				w.step++
				w.cache.At(w.step, len(w.tabs))
				w.p.At(w.step, len(w.tabs))
			},
			"end": func(t *rapid.T) {
				if len(w.tabs) == 0 {
					t.Skip("nothing runs")
				}
				w.tabs[0].Release()
				w.tabs = w.tabs[1:]
			},
		})
		w.end(t)
	})
}

// end lets everything come to an end: no preload is left that nobody hears of.
func (w *sharingWorld) end(t *rapid.T) {
	for _, e := range w.s.entries {
		for e.uses > 0 {
			w.s.Unuse(e.Host.Digest)
		}
		for e.leases > 0 {
			w.s.Return(e.Host.Digest)
		}
	}
	for _, tab := range w.tabs {
		tab.Release()
	}
	w.tabs = nil
	w.s.Hint(nil)
	w.cache.At(w.step+1, 0)
	w.p.At(w.step+1, 0)
	for w.s.Ahead(nil); w.s.Loading() > 0; w.s.Ahead(nil) {
		w.desk.deliver(w.s, false)
	}
	early := 0
	for _, e := range w.s.entries {
		early += e.early
	}
	if w.asked != w.told || early != 0 {
		t.Fatalf("%d preloads were asked for, %d have ended; %d adapters are held for them", w.asked, w.told, early)
	}
	w.check(t)
}

// TestTooLarge: what an adapter would take and what there is stands in the error.
func TestTooLarge(t *testing.T) {
	p := memory.New(memory.Config{
		Chunks: 100, ChunkBytes: 1 << 20, ImageChunks: func(b int64) int { return int(b >> 20) }, GroupChunks: 1, GroupPages: 1, Floor: 40, Lot: 1,
	}, nil)
	s := NewStore(0, 0, nil, nil)
	s.Share(p)
	err := s.Add(Host{Digest: "big", Bytes: 61 << 20})
	want := "adapter is larger than the memory that adapters can have: it takes 61.0 MiB of device memory; adapters can have 60.0 of the pool's 100.0 MiB, pinned ones hold 0.0"
	if !errors.Is(err, memory.ErrTooLarge) || fmt.Sprint(err) != want || s.Has("big") {
		t.Errorf("%v\nwant %s", err, want)
	}
}
