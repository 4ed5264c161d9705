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

	"chorale/internal/adapterref"
)

// modelVersion is what the naive model knows of a version.
type modelVersion struct {
	digest string
	loaded bool // else evicted, or not asked for
	weight int
	used   int
}

// modelAdapter is what the naive model knows of a name.
type modelAdapter struct {
	pinned   bool
	versions map[uint64]*modelVersion
	current  uint64
	line     []uint64 // of versions that were current
}

func (a *modelAdapter) weights() (sum int) {
	for _, v := range a.versions {
		sum += v.weight
	}
	return sum
}

// model is the naive registry.
type model struct {
	names map[string]*modelAdapter
	last  map[string]uint64 // largest version number that a name ever had
	clock int
	max   int // max_loaded_loras
	pins  int
	keep  int // versions
}

func (m *model) tick() int { m.clock++; return m.clock }

// pinsWith counts pinned digests if name had this one.
func (m *model) pinsWith(name, digest string) int {
	d := map[string]bool{digest: true}
	for n, a := range m.names {
		if n != name && a.pinned {
			d[a.versions[a.current].digest] = true
		}
	}
	return len(d)
}

// room evicts until what is loaded fits. ok is false when it cannot.
func (m *model) room(keep ...unit) (evicted []string, ok bool) {
	var victims []unit
	loaded := 0
	for n, a := range m.names {
		for i, v := range a.versions {
			if !v.loaded {
				continue
			}
			loaded++
			if u := (unit{n, i}); !slices.Contains(keep, u) && (!a.pinned || i != a.current) {
				victims = append(victims, u)
			}
		}
	}
	slices.SortFunc(victims, func(a, b unit) int {
		return cmp.Or(cmp.Compare(m.names[a.name].versions[a.number].used, m.names[b.name].versions[b.number].used),
			cmp.Compare(a.name, b.name), cmp.Compare(a.number, b.number))
	})
	surplus := max(0, loaded-m.max)
	if surplus > len(victims) {
		return nil, false
	}
	for _, u := range victims[:surplus] {
		a := m.names[u.name]
		a.versions[u.number].loaded = false
		evicted = append(evicted, m.ref(u))
	}
	return evicted, true
}

func (m *model) ref(u unit) string {
	if m.names[u.name].current == u.number {
		return u.name
	}
	return adapterref.Format(u.name, u.number)
}

func (m *model) clone() *model {
	c := *m
	c.names, c.last = map[string]*modelAdapter{}, maps.Clone(m.last)
	for n, a := range m.names {
		b := *a
		b.line, b.versions = slices.Clone(a.line), map[uint64]*modelVersion{}
		for i, v := range a.versions {
			w := *v
			b.versions[i] = &w
		}
		c.names[n] = &b
	}
	return &c
}

// try makes a change that fails as a whole.
func (m *model) try(f func(*model) ([]string, error)) ([]string, error) {
	c := m.clone()
	evicted, err := f(c)
	if err == nil {
		*m = *c
	}
	return evicted, err
}

func (m *model) makeCurrent(a *modelAdapter, number uint64) {
	for i, v := range a.versions {
		if i != number && (i == a.current || v.weight > 0) {
			v.loaded = false
		}
		v.weight = 0
	}
	a.versions[number].loaded = true
	if a.current != number {
		if at := slices.Index(a.line, number); at >= 0 {
			a.line = a.line[:at]
		} else if a.current != 0 {
			a.line = append(a.line, a.current)
		}
		a.current = number
	}
}

func (m *model) add(name, digest string) (*modelAdapter, uint64) {
	a := m.names[name]
	if a == nil {
		a = &modelAdapter{versions: map[uint64]*modelVersion{}}
		m.names[name] = a
	}
	m.last[name]++
	a.versions[m.last[name]] = &modelVersion{digest: digest, used: m.tick()}
	return a, m.last[name]
}

func (m *model) prune(a *modelAdapter) {
	for _, i := range slices.Sorted(maps.Keys(a.versions)) {
		v := a.versions[i]
		if len(a.versions) > m.keep && i != a.current && v.weight == 0 && !v.loaded {
			delete(a.versions, i)
			a.line = slices.DeleteFunc(a.line, func(n uint64) bool { return n == i })
		}
	}
}

// load returns the sentinel that Load must fail with.
func (m *model) load(req LoadRequest, digest string) ([]string, error) {
	a := m.names[req.Name]
	taken := a != nil && a.versions[a.current].loaded
	switch {
	case req.Weight != nil && !taken:
		return nil, ErrWeight
	case taken && req.MustBeNew:
		return nil, ErrExists
	case taken && a.versions[a.current].digest == digest:
		a.versions[a.current].used = m.tick()
		if req.Weight != nil {
			return nil, ErrWeight
		}
		return nil, nil
	case taken && !req.Replace && req.Weight == nil:
		return nil, ErrExists
	case req.Weight == nil && req.Pinned && m.pinsWith(req.Name, digest) > m.pins:
		return nil, ErrStarvation
	}
	return m.try(func(m *model) ([]string, error) {
		a := m.names[req.Name]
		var number uint64
		if a != nil && !taken && a.versions[a.current].digest == digest {
			number = a.current
			a.versions[number].used = m.tick()
		} else {
			a, number = m.add(req.Name, digest)
		}
		if req.Weight == nil {
			a.pinned = req.Pinned
		}
		if err := m.share(a, number, req.Weight); err != nil {
			return nil, err
		}
		m.prune(a)
		if a.pinned && m.pinsWith(req.Name, a.versions[a.current].digest) > m.pins {
			return nil, ErrStarvation
		}
		evicted, ok := m.room(unit{req.Name, number})
		if !ok {
			return nil, ErrCapacity
		}
		return evicted, nil
	})
}

func (m *model) share(a *modelAdapter, number uint64, weight *int) error {
	if weight == nil || *weight == 100 {
		m.makeCurrent(a, number)
		return nil
	}
	a.versions[number].weight, a.versions[number].loaded = *weight, true
	if a.weights() > 100 {
		return ErrWeight
	}
	return nil
}

func (m *model) canary(name string, number uint64, weight int) error {
	_, err := m.try(func(m *model) ([]string, error) {
		a := m.names[name]
		if a == nil {
			return nil, ErrNotFound
		}
		v := a.versions[number]
		switch {
		case v == nil:
			return nil, ErrVersionNotFound
		case number == a.current && weight == 100:
			for i, w := range a.versions {
				if i != number && w.weight > 0 {
					w.weight, w.loaded = 0, false
				}
			}
			v.loaded = true
		case number == a.current:
			return nil, ErrWeight
		case weight == 0:
			v.loaded = v.loaded && v.weight == 0
			v.weight = 0
			return nil, nil
		default:
			if err := m.share(a, number, &weight); err != nil {
				return nil, err
			}
		}
		return m.answering(name, number)
	})
	return err
}

// answering checks what a version that answers needs.
func (m *model) answering(name string, number uint64) ([]string, error) {
	a := m.names[name]
	a.versions[number].used = m.tick()
	if a.pinned && m.pinsWith(name, a.versions[a.current].digest) > m.pins {
		return nil, ErrStarvation
	}
	evicted, ok := m.room(unit{name, number})
	if !ok {
		return nil, ErrCapacity
	}
	return evicted, nil
}

func (m *model) rollback(name string, to uint64) error {
	_, err := m.try(func(m *model) ([]string, error) {
		a := m.names[name]
		switch {
		case a == nil:
			return nil, ErrNotFound
		case to == 0 && a.weights() > 0:
			to = a.current
		case to == 0 && len(a.line) == 0:
			return nil, ErrNoEarlier
		case to == 0:
			to = a.line[len(a.line)-1]
		}
		if a.versions[to] == nil {
			return nil, ErrVersionNotFound
		}
		m.makeCurrent(a, to)
		return m.answering(name, to)
	})
	return err
}

// drop removes a name, or a version of it.
func (m *model) drop(name string, number uint64) error {
	a := m.names[name]
	switch {
	case a == nil:
		return ErrNotFound
	case number == 0:
		delete(m.names, name)
	case a.versions[number] == nil:
		return ErrVersionNotFound
	case number == a.current:
		return ErrVersionInUse
	default:
		delete(a.versions, number)
		a.line = slices.DeleteFunc(a.line, func(n uint64) bool { return n == number })
	}
	return nil
}

// find resolves a reference.
func (m *model) find(ref string) (unit, *modelVersion) {
	if a := m.names[ref]; a != nil {
		return unit{ref, a.current}, a.versions[a.current]
	}
	r, _ := adapterref.Split(ref)
	if a := m.names[r.Name]; a != nil {
		return unit{r.Name, r.Number}, a.versions[r.Number]
	}
	return unit{}, nil
}

func (m *model) ensure(refs []string) ([]string, error) {
	distinct := slices.Compact(slices.Sorted(slices.Values(refs)))
	if len(distinct) > m.max {
		return nil, ErrCapacity
	}
	var units []unit
	for _, n := range distinct {
		u, v := m.find(n)
		switch {
		case v == nil && m.names[u.name] != nil:
			return nil, ErrVersionNotFound
		case v == nil:
			return nil, ErrNotFound
		}
		units = append(units, u)
	}
	used := m.tick()
	for _, u := range units {
		m.names[u.name].versions[u.number].used = used
	}
	return m.try(func(m *model) ([]string, error) {
		back := false
		for _, u := range units {
			v := m.names[u.name].versions[u.number]
			back = back || !v.loaded
			v.loaded = true
		}
		evicted, ok := m.room(units...)
		if back && !ok {
			return nil, ErrCapacity
		}
		return evicted, nil
	})
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

// modelRun is one run of the test.
type modelRun struct {
	*rapid.T
	m       *model
	w       *world
	digests map[string]string
	ids     int
}

func runModel(t *testing.T, rt *rapid.T, digests map[string]string) {
	m := &model{names: map[string]*modelAdapter{}, last: map[string]uint64{}, max: 4, pins: 2, keep: 4}
	w := &world{t: t, dir: t.TempDir(), shelf: newShelf(t, someArts()), change: func(o *Options) { o.MaxLoaded, o.MaxVersions = m.max, m.keep }}
	w.workers = []*fakeWorker{newWorker("w0"), newWorker("w1")}
	w.start()
	defer func() { w.stop() }()
	r := &modelRun{T: rt, m: m, w: w, digests: digests}
	ops := map[string]func(name string) (got, want error){
		"load": r.load, "load more": r.load, "load again": r.load, "unload": r.unload, "update": r.update, "ensure": r.ensure,
		"canary": r.canary, "rollback": r.rollback, "touch": r.touch, "bounce": r.bounce, "worker": r.restartWorker, "manager": r.restartManager,
	}
	for range rapid.IntRange(1, 25).Draw(rt, "steps") {
		time.Sleep(time.Second) // distinct times of use
		name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "name")
		op := rapid.SampledFrom(slices.Sorted(maps.Keys(ops))).Draw(rt, "op")
		got, want := ops[op](name)
		if !errors.Is(got, want) || (got == nil) != (want == nil) {
			rt.Fatalf("%s %s: %v, want %v", op, name, got, want)
		}
		time.Sleep(10 * time.Second) // everything settles
		compareModel(rt, w, m)
	}
}

// id draws a request id, often none; an etag goes with it, right or wrong.
func (r *modelRun) id() string {
	if rapid.Bool().Draw(r.T, "id") {
		return ""
	}
	r.ids++
	return fmt.Sprint("id", r.ids)
}

// etag draws an etag; stale is true when it must be refused.
func (r *modelRun) etag(name string) (etag string, stale bool) {
	switch a, err := r.w.m.Get(name); rapid.IntRange(0, 5).Draw(r.T, "etag") {
	case 0:
		return "none such", true
	case 1:
		return a.Etag, err != nil && a.Etag != ""
	}
	return "", false
}

// twice makes a change with an id again and must get the same answer.
func (r *modelRun) twice(id string, first Result, err error, again func() (Result, error)) {
	if id == "" || err != nil {
		return
	}
	second, err := again()
	if err != nil || second.Revision != first.Revision || !second.Adapter.equal(first.Adapter) {
		r.Fatalf("again: %+v, %v, first %+v", second, err, first)
	}
}

func (r *modelRun) sameEvicted(got, want []string) {
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.Fatalf("evicted %v, want %v", got, want)
	}
}

func (r *modelRun) load(name string) (got, want error) {
	src := rapid.SampledFrom(slices.Sorted(maps.Keys(r.digests))).Draw(r.T, "source")
	req := LoadRequest{
		Name: name, Source: src, Pinned: rapid.IntRange(0, 3).Draw(r.T, "pin") == 0,
		MustBeNew: rapid.IntRange(0, 3).Draw(r.T, "new") == 0, Replace: rapid.Bool().Draw(r.T, "replace"), RequestID: r.id(),
	}
	if w := rapid.IntRange(-120, 100).Draw(r.T, "weight"); w >= 0 {
		req.Weight = &w
	}
	load := func() (Result, error) { return r.w.load(name, src, func(l *LoadRequest) { *l = req }) }
	res, got := load()
	r.twice(req.RequestID, res, got, load)
	evicted, want := r.m.load(req, r.digests[src])
	r.sameEvicted(res.Evicted, evicted)
	return got, want
}

func (r *modelRun) unload(name string) (got, want error) {
	number := uint64(rapid.IntRange(-3, 6).Draw(r.T, "version"))
	ref := name
	if int64(number) > 0 {
		ref = adapterref.Format(name, number)
	} else {
		number = 0
	}
	_, got = r.w.m.Unload(r.Context(), UnloadRequest{Name: ref, Force: rapid.Bool().Draw(r.T, "force")})
	return got, r.m.drop(name, number)
}

func (r *modelRun) update(name string) (got, want error) {
	pin := rapid.Bool().Draw(r.T, "pin")
	tag, stale := r.etag(name)
	req := UpdateRequest{Name: name, Pinned: &pin, Etag: tag, RequestID: r.id()}
	update := func() (Result, error) { return r.w.m.Update(r.Context(), req) }
	res, got := update()
	r.twice(req.RequestID, res, got, update)
	a := r.m.names[name]
	switch {
	case a == nil:
		want = ErrNotFound
	case stale:
		want = ErrStale
	case pin && r.m.pinsWith(name, a.versions[a.current].digest) > r.m.pins:
		want = ErrStarvation
	default:
		a.pinned = pin
	}
	return got, want
}

func (r *modelRun) canary(name string) (got, want error) {
	req := CanaryRequest{
		Name: name, Version: uint64(rapid.IntRange(1, 8).Draw(r.T, "version")),
		Weight: rapid.SampledFrom([]int{0, 10, 50, 95, 100}).Draw(r.T, "weight"), RequestID: r.id(),
	}
	canary := func() (Result, error) { return r.w.m.Canary(r.Context(), req) }
	res, got := canary()
	r.twice(req.RequestID, res, got, canary)
	return got, r.m.canary(name, req.Version, req.Weight)
}

func (r *modelRun) rollback(name string) (got, want error) {
	tag, stale := r.etag(name)
	req := RollbackRequest{
		Name: name, Version: uint64(max(0, rapid.IntRange(-6, 6).Draw(r.T, "version"))), Etag: tag, RequestID: r.id(),
	}
	rollback := func() (Result, error) { return r.w.m.Rollback(r.Context(), req) }
	res, got := rollback()
	r.twice(req.RequestID, res, got, rollback)
	if stale && r.m.names[name] != nil {
		return got, ErrStale
	}
	return got, r.m.rollback(name, req.Version)
}

func (r *modelRun) ensure(string) (got, want error) {
	refs := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "a@1", "a@2", "b@1", "c@2", "d@3"}), 1, 4).Draw(r.T, "names")
	res, got := r.w.m.Ensure(r.Context(), refs)
	evicted, want := r.m.ensure(refs)
	r.sameEvicted(res.Evicted, evicted)
	return got, want
}

func (r *modelRun) touch(name string) (got, want error) {
	r.w.m.Touch([]string{name})
	if _, v := r.m.find(name); v != nil {
		v.used = r.m.tick()
	}
	return nil, nil
}

func (r *modelRun) bounce(string) (got, want error) {
	x := r.w.workers[rapid.IntRange(0, 1).Draw(r.T, "worker")]
	x.setUp(false)
	time.Sleep(5 * time.Second)
	x.setUp(true)
	return nil, nil
}

func (r *modelRun) restartWorker(string) (got, want error) {
	r.w.workers[rapid.IntRange(0, 1).Draw(r.T, "worker")].restart()
	return nil, nil
}

func (r *modelRun) restartManager(string) (got, want error) {
	r.w.restart()
	r.m.forgetUse(r.w)
	return nil, nil
}

// forgetUse takes over the order of use that a restart left.
func (m *model) forgetUse(w *world) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	var order []unit
	for n, a := range m.names {
		for i := range a.versions {
			order = append(order, unit{n, i})
		}
	}
	slices.SortFunc(order, w.m.byUse)
	var last time.Time
	for i, u := range order {
		if at := w.m.entries[u.name].lastUsed(u.number); i == 0 || !at.Equal(last) {
			last = at
			m.tick()
		}
		m.names[u.name].versions[u.number].used = m.clock
	}
}

func compareModel(rt *rapid.T, w *world, m *model) {
	if err := w.m.Check(); err != nil {
		rt.Fatal(err)
	}
	list, _, _ := w.m.List("", 0, Filter{})
	if len(list) != len(m.names) {
		rt.Fatalf("%d adapters, want %d", len(list), len(m.names))
	}
	held := map[string]bool{}
	for _, a := range list {
		want := m.names[a.Name]
		if want == nil || a.Version != want.current || a.Pinned != want.pinned || len(a.Versions) != len(want.versions) {
			rt.Fatalf("%+v, want %+v", a, want)
		}
		for _, v := range a.Versions {
			x := want.versions[v.Number]
			if x == nil {
				rt.Fatalf("%s has version %d", a.Name, v.Number)
			}
			share := x.weight
			if v.Number == want.current {
				share = 100 - want.weights()
			}
			if x.loaded {
				held[x.digest] = held[x.digest] || want.pinned && v.Number == want.current
			}
			if v.Digest != x.digest || v.Weight != share || (v.State == Loaded) != x.loaded || (v.State == Ready) == x.loaded {
				rt.Fatalf("%s: %+v, want %+v", a.Name, v, *x)
			}
		}
	}
	for _, x := range w.workers {
		if got := x.holds(); !maps.Equal(got, held) {
			rt.Fatal(fmt.Sprintf("%s holds %v, want %v", x.addr, got, held))
		}
	}
}
