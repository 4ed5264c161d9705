package lora

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// placed is a store with places on the device and hosts named in it.
func placed(t *testing.T, places int, digests ...string) (*Store, *desk) {
	d := newDesk()
	s := NewStore(places, 0, func(a Arrival) { d.arrivals <- a }, func(string) {})
	for _, name := range digests {
		if err := s.Add(d.host(t, name, false)); err != nil {
			t.Fatal(err)
		}
	}
	return s, d
}

func deliverAll(s *Store, d *desk) {
	for s.Loading() > 0 {
		d.deliver(s, false)
	}
}

// run is one sequence of an adapter that is on the device.
func run(t *testing.T, s *Store, digest string) {
	if err := s.Lease(digest); err != nil {
		t.Fatal(err)
	}
	s.Use(digest)
	s.Unuse(digest)
	s.Return(digest)
}

func TestPreload(t *testing.T) {
	s, d := placed(t, 3, "a", "b", "c", "x", "y")
	for _, old := range []string{"x", "y"} { // as after a while of traffic
		s.Want(old)
		deliverAll(s, d)
	}
	var told []error
	s.Preload([]string{"a", "b", "c", "b"}, func(err error) { told = append(told, err) })
	for range 10 {
		if len(told) > 0 {
			break
		}
		deliverAll(s, d)
		s.Ahead(nil)
	}
	if len(told) != 1 || told[0] != nil || !slices.Equal(s.Resident(), []string{"a", "b", "c"}) {
		t.Fatalf("told %v, on the device %v", told, s.Resident())
	}
	// From now on they are like any.
	if !s.Want("x") {
		t.Error("a preloaded adapter makes no room")
	}
	deliverAll(s, d)
	s.Preload([]string{"x"}, func(err error) { told = append(told, err) })
	if len(told) != 2 || told[1] != nil {
		t.Errorf("what is there: %v", told)
	}
}

func TestPreloadRefused(t *testing.T) {
	s, d := placed(t, 2, "a", "b", "c")
	refused := func(want string, is error, digests ...string) {
		t.Helper()
		told := 0
		s.Preload(digests, func(err error) {
			if told++; !errors.Is(err, is) || fmt.Sprint(err) != want {
				t.Errorf("%v: %v", digests, err)
			}
		})
		if told != 1 || s.Loading() != 0 {
			t.Errorf("%v: told %d times, %d on their way", digests, told, s.Loading())
		}
	}
	refused("adapters do not fit into device memory together: 3 are preloaded or pinned, and there are 2 places", ErrTogether, "a", "b", "c")
	refused("adapter is not loaded on this worker: z", ErrNotLoaded, "a", "z")
	s.Want("a")
	d.deliver(s, true)
	refused("adapter could not be brought onto the device: a: no device memory", ErrBuild, "a", "b")
}

// TestPreloadFails: an adapter that fails on its way, or that is dropped, ends
// its preload with that, and the others are as before.
func TestPreloadFails(t *testing.T) {
	s, d := placed(t, 2, "a", "b")
	var got error
	s.Preload([]string{"a"}, func(err error) { got = err })
	d.deliver(s, true)
	if !errors.Is(got, ErrBuild) {
		t.Errorf("failed: %v", got)
	}
	s.Want("b")
	deliverAll(s, d)
	s.Lease("b")
	s.Use("b")
	s.capacity = 1
	s.Add(d.host(t, "c", false))
	got = nil
	s.Preload([]string{"c"}, func(err error) { got = err })
	s.Drop("c", func() {})
	if !errors.Is(got, ErrNotLoaded) || s.Has("c") {
		t.Errorf("dropped: %v", got)
	}
}

// TestAhead: what waits is fetched, in its order, without taking a place from
// what runs or from what others wait for.
func TestAhead(t *testing.T) {
	s, d := placed(t, 3, "runs", "waits", "idle", "first", "second")
	for _, a := range []string{"runs", "waits", "idle"} {
		s.Want(a)
		deliverAll(s, d)
		run(t, s, a)
	}
	s.Lease("runs")
	s.Use("runs")
	for _, a := range []string{"waits", "first", "second"} {
		if err := s.Lease(a); err != nil {
			t.Fatal(err)
		}
	}
	s.Ahead([]string{"waits", "first", "second"})
	deliverAll(s, d)
	s.Ahead([]string{"waits", "first", "second"})
	if got := s.Resident(); !slices.Equal(got, []string{"first", "runs", "waits"}) || s.Loading() != 0 {
		t.Fatalf("on the device: %v", got)
	}
	// The place of the one that ends goes to the next.
	s.Unuse("runs")
	s.Return("runs")
	s.Ahead([]string{"waits", "first", "second"})
	deliverAll(s, d)
	if got := s.Resident(); !slices.Equal(got, []string{"first", "second", "waits"}) {
		t.Fatalf("on the device: %v", got)
	}
}

// TestHint: adapters of sequences that are still to come are fetched in their order,
// those of later ones push out none of earlier ones, and whoever has come takes the
// place of any.
func TestHint(t *testing.T) {
	s, d := placed(t, 2, "idle", "a", "b", "c", "now")
	s.Want("idle")
	deliverAll(s, d)
	s.Hint([]string{"a", "b", "c", "not here"})
	for range 5 {
		s.Ahead(nil)
		deliverAll(s, d)
	}
	if got := s.Resident(); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("on the device: %v", got)
	}
	if err := s.Lease("now"); err != nil || !s.Want("now") {
		t.Fatalf("a sequence that has come waits for one that has not: %v", err)
	}
	deliverAll(s, d)
	run(t, s, "now")
	s.Return("now")
	s.Hint([]string{"c"})
	s.Ahead(nil)
	deliverAll(s, d)
	if !s.Ready("c") {
		t.Errorf("on the device: %v", s.Resident())
	}
}
