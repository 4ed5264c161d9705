package adaptermgr

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// modelAdapter is what the naive model knows of a name.
type modelAdapter struct {
	digest string
	pinned bool
	loaded bool // else evicted
	used   int
}

// model is the naive registry.
type model struct {
	names map[string]modelAdapter
	clock int
	max   int // max_loaded_loras
	pins  int
}

func (m *model) tick() int { m.clock++; return m.clock }

// pinsWith counts pinned digests if name had this one.
func (m *model) pinsWith(name, digest string) int {
	d := map[string]bool{digest: true}
	for n, a := range m.names {
		if n != name && a.pinned {
			d[a.digest] = true
		}
	}
	return len(d)
}

// room evicts until adding names fit. ok is false when they cannot.
func (m *model) room(adding int, keep ...string) (evicted []string, ok bool) {
	var victims []string
	loaded := adding
	for n, a := range m.names {
		if a.loaded && !slices.Contains(keep, n) {
			loaded++
			if !a.pinned {
				victims = append(victims, n)
			}
		} else if a.loaded {
			loaded++
		}
	}
	slices.SortFunc(victims, func(a, b string) int {
		return cmp.Or(cmp.Compare(m.names[a].used, m.names[b].used), cmp.Compare(a, b))
	})
	surplus := max(0, loaded-m.max)
	if surplus > len(victims) {
		return nil, false
	}
	for _, v := range victims[:surplus] {
		a := m.names[v]
		a.loaded = false
		m.names[v] = a
	}
	return victims[:surplus], true
}

// load returns the sentinel that Load must fail with.
func (m *model) load(name, digest string, pin, isNew, replace bool) ([]string, error) {
	old, exists := m.names[name]
	taken := exists && old.loaded
	switch {
	case taken && isNew:
		return nil, ErrExists
	case taken && old.digest == digest:
		old.used = m.tick()
		m.names[name] = old
		return nil, nil
	case taken && !replace:
		return nil, ErrExists
	case pin && m.pinsWith(name, digest) > m.pins:
		return nil, ErrStarvation
	}
	adding := 1
	if taken {
		adding = 0
	}
	evicted, ok := m.room(adding, name)
	if !ok {
		return nil, ErrCapacity
	}
	m.names[name] = modelAdapter{digest: digest, pinned: pin, loaded: true, used: m.tick()}
	return evicted, nil
}

func (m *model) ensure(names []string) ([]string, error) {
	distinct := slices.Compact(slices.Sorted(slices.Values(names)))
	if len(distinct) > m.max {
		return nil, ErrCapacity
	}
	back := 0
	for _, n := range distinct {
		if _, ok := m.names[n]; !ok {
			return nil, ErrNotFound
		}
		if !m.names[n].loaded {
			back++
		}
	}
	used := m.tick()
	for _, n := range distinct {
		a := m.names[n]
		a.used = used
		m.names[n] = a
	}
	if back == 0 {
		return nil, nil
	}
	evicted, ok := m.room(back, distinct...)
	if !ok {
		return nil, ErrCapacity
	}
	for _, n := range distinct {
		a := m.names[n]
		a.loaded = true
		m.names[n] = a
	}
	return evicted, nil
}

// TestAgainstModel runs random operations, outages and restarts and compares
// catalogue and workers with the naive model after each.
func TestAgainstModel(t *testing.T) {
	digests := map[string]string{}
	for src, a := range someArts() {
		digests[src] = a.digest(t)
	}
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) { runModel(t, rt, digests) })
	})
}

func runModel(t *testing.T, rt *rapid.T, digests map[string]string) {
	m := &model{names: map[string]modelAdapter{}, max: 3, pins: 2}
	w := &world{t: t, dir: t.TempDir(), shelf: newShelf(t, someArts()), change: func(o *Options) { o.MaxLoaded = m.max }}
	w.workers = []*fakeWorker{newWorker("w0"), newWorker("w1")}
	w.start()
	defer func() { w.stop() }()
	names := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
	sources := rapid.SampledFrom(slices.Sorted(maps.Keys(digests)))
	for range rapid.IntRange(1, 25).Draw(rt, "steps") {
		time.Sleep(time.Second) // distinct times of use
		name := names.Draw(rt, "name")
		var want, got error
		var wantEvicted, evicted []string
		op := rapid.SampledFrom([]string{"load", "load", "load", "unload", "pin", "ensure", "touch", "bounce", "worker", "manager"}).Draw(rt, "op")
		switch op {
		case "load":
			req := LoadRequest{
				Name: name, Source: sources.Draw(rt, "source"), Pinned: rapid.IntRange(0, 3).Draw(rt, "pin") == 0,
				MustBeNew: rapid.IntRange(0, 3).Draw(rt, "new") == 0, Replace: rapid.Bool().Draw(rt, "replace"),
			}
			var r Result
			r, got = w.load(req.Name, req.Source, func(l *LoadRequest) { *l = req })
			evicted = r.Evicted
			wantEvicted, want = m.load(name, digests[req.Source], req.Pinned, req.MustBeNew, req.Replace)
		case "unload":
			got = w.unload(name, rapid.Bool().Draw(rt, "force"))
			if _, ok := m.names[name]; !ok {
				want = ErrNotFound
			}
			delete(m.names, name)
		case "pin":
			pin := rapid.Bool().Draw(rt, "pin")
			_, got = w.m.Update(rt.Context(), name, &pin, nil)
			a, ok := m.names[name]
			switch {
			case !ok:
				want = ErrNotFound
			case pin && m.pinsWith(name, a.digest) > m.pins:
				want = ErrStarvation
			default:
				a.pinned = pin
				m.names[name] = a
			}
		case "ensure":
			list := rapid.SliceOfN(names, 1, 4).Draw(rt, "names")
			var r EnsureResult
			r, got = w.m.Ensure(rt.Context(), list)
			evicted = r.Evicted
			wantEvicted, want = m.ensure(list)
		case "touch":
			w.m.Touch([]string{name})
			if a, ok := m.names[name]; ok {
				a.used = m.tick()
				m.names[name] = a
			}
		case "bounce":
			x := w.workers[rapid.IntRange(0, 1).Draw(rt, "worker")]
			x.setUp(false)
			time.Sleep(5 * time.Second)
			x.setUp(true)
		case "worker":
			w.workers[rapid.IntRange(0, 1).Draw(rt, "worker")].restart()
		case "manager":
			for n := range m.names { // times of use survive only as of the last change
				w.m.Touch([]string{n})
			}
			w.restart()
			m.forgetUse(w)
		}
		if !errors.Is(got, want) || (got == nil) != (want == nil) {
			rt.Fatalf("%s %s: %v, want %v", op, name, got, want)
		}
		slices.Sort(evicted)
		slices.Sort(wantEvicted)
		if !slices.Equal(evicted, wantEvicted) {
			rt.Fatalf("%s %s: evicted %v, want %v", op, name, evicted, wantEvicted)
		}
		time.Sleep(10 * time.Second) // everything settles
		compareModel(rt, w, m)
	}
}

// forgetUse takes over the order of use that a restart left.
func (m *model) forgetUse(w *world) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	order := slices.Sorted(maps.Keys(m.names))
	slices.SortStableFunc(order, func(a, b string) int {
		return w.m.entries[a].lastUsed.Compare(w.m.entries[b].lastUsed)
	})
	for _, n := range order {
		a := m.names[n]
		a.used = m.tick()
		m.names[n] = a
	}
}

func compareModel(rt *rapid.T, w *world, m *model) {
	if err := w.m.Check(); err != nil {
		rt.Fatal(err)
	}
	list, _, _ := w.m.List("", 0)
	if len(list) != len(m.names) {
		rt.Fatalf("%d adapters, want %d", len(list), len(m.names))
	}
	held := map[string]bool{}
	for _, a := range list {
		want, ok := m.names[a.Name]
		state := Ready
		if want.loaded {
			state = Loaded
			held[want.digest] = held[want.digest] || want.pinned
		}
		if !ok || a.Digest != want.digest || a.Pinned != want.pinned || a.State != state {
			rt.Fatalf("%s: %v %s pinned %v, want %+v", a.Name, a.State, a.Digest, a.Pinned, want)
		}
	}
	for _, x := range w.workers {
		if got := x.holds(); !maps.Equal(got, held) {
			rt.Fatal(fmt.Sprintf("%s holds %v, want %v", x.addr, got, held))
		}
	}
}
