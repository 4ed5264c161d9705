package memory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"chorale/worker/kv"
)

// adapter is one of the test's store.
type adapter struct {
	digest            string
	chunks            int
	resident, loading bool
	pinned            bool
	uses, leases      int
	used, arrived     uint64
}

// store plays lora.Store.
type store struct {
	p        *Pool
	all      []*adapter
	onEvict  func(a *adapter)
	evicting string // "cache" or "adapter": who wants room
}

func (s *store) Idle() []Idle {
	var out []Idle
	for _, a := range s.all {
		if a.resident && a.uses == 0 && !a.pinned {
			out = append(out, Idle{a.digest, a.chunks, a.used, a.arrived, a.leases > 0, false})
		}
	}
	slices.SortFunc(out, func(a, b Idle) int {
		if a.Awaited != b.Awaited {
			if a.Awaited {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.Used, b.Used), cmp.Compare(a.Digest, b.Digest))
	})
	return out
}

func (s *store) IdleChunks(awaited bool) int {
	n := 0
	for _, i := range s.Idle() {
		if awaited || !i.Awaited {
			n += i.Chunks
		}
	}
	return n
}

func (s *store) Evict(digest string) {
	for _, a := range s.all {
		if a.digest == digest {
			s.onEvict(a)
			a.resident = false
			s.p.Return(a.chunks)
			return
		}
	}
	panic("no adapter " + digest)
}

// world is a pool between a real cache and the test's store, on a device that
// counts chunks.
type world struct {
	*rapid.T
	cfg     Config
	p       *Pool
	cache   *kv.Pool
	store   *store
	step    uint64
	running int
	// there are the device's groups, growing those on their way.
	there   map[int32]bool
	growing [][]int32
	tables  []*kv.Table
	// since is when the cache got a group from the adapters.
	since map[int32]uint64
}

func (w *world) Shrink(groups []int32) {
	for _, g := range groups {
		if !w.there[g] {
			w.Fatalf("group %d is given back, it was not there", g)
		}
		if at, took := w.since[g]; took && w.running > 0 && w.step < at+w.cfg.Keep {
			w.Fatalf("group %d, got in step %d, is taken back in step %d", g, at, w.step)
		}
		delete(w.there, g)
		for _, t := range w.tables {
			for _, pg := range t.Pages {
				if int(pg)/w.cfg.GroupPages == int(g) {
					w.Fatalf("group %d is taken from a running sequence", g)
				}
			}
		}
	}
}

func (w *world) Grow(groups []int32) {
	for _, g := range groups {
		if w.there[g] {
			w.Fatalf("group %d comes twice", g)
		}
		w.there[g] = true
	}
	w.growing = append(w.growing, groups)
}

// check compares the books with the device.
func (w *world) check(*rapid.T) {
	if err := w.p.Check(); err != nil {
		w.Fatal(err)
	}
	if err := w.cache.Check(w.tables...); err != nil {
		w.Fatal(err)
	}
	held := 0
	for _, a := range w.store.all {
		if a.resident || a.loading {
			held += a.chunks
		}
	}
	c := w.p.Counts()
	if c.Adapters != held || c.Cache != len(w.there)*w.cfg.GroupChunks {
		w.Fatalf("%+v; adapters hold %d chunks, the cache %d groups", c, held, len(w.there))
	}
	if len(w.there) < w.cfg.Floor {
		w.Fatalf("the cache has %d groups, its floor is %d", len(w.there), w.cfg.Floor)
	}
}

func newWorld(t *rapid.T) *world {
	w := &world{T: t, there: map[int32]bool{}, since: map[int32]uint64{}}
	c := Config{ChunkBytes: 10, ImageChunks: func(b int64) int { return int(b+9) / 10 }, GroupChunks: rapid.IntRange(1, 3).Draw(t, "group chunks"), GroupPages: rapid.IntRange(1, 3).Draw(t, "group pages")}
	groups := rapid.IntRange(2, 12).Draw(t, "groups")
	c.Chunks = groups*c.GroupChunks + rapid.IntRange(0, c.GroupChunks-1).Draw(t, "rest")
	c.Floor = rapid.IntRange(1, groups).Draw(t, "floor")
	c.Lot, c.Spare, c.Keep = rapid.IntRange(1, 3).Draw(t, "lot"), rapid.IntRange(0, 4).Draw(t, "spare"), uint64(rapid.IntRange(0, 4).Draw(t, "keep"))
	w.cfg = c
	w.p, w.cache = New(c, w), kv.NewGrouped(groups, c.GroupPages)
	w.store = &store{p: w.p}
	for i := range 6 {
		w.store.all = append(w.store.all, &adapter{digest: fmt.Sprint("a", i), chunks: rapid.IntRange(1, 6).Draw(t, "size"), pinned: i == 5})
	}
	w.store.onEvict = w.evicted
	w.p.Bind(w.cache, w.store)
	started := w.p.Start(rapid.IntRange(c.Floor, groups).Draw(t, "start"))
	for _, g := range started {
		w.there[g] = true
	}
	w.p.Grown(started)
	return w
}

func (w *world) evicted(a *adapter) {
	if a.uses > 0 || a.pinned || !a.resident {
		w.Fatalf("%+v is put out", a)
	}
	if w.store.evicting == "ahead" && a.leases > 0 {
		w.Fatalf("%+v, which somebody waits for, is put out for one fetched ahead", a)
	}
	if w.store.evicting == "cache" && w.running > 0 && (w.step < a.arrived+w.cfg.Keep || a.leases > 0) {
		w.Fatalf("the cache takes %+v in step %d", a, w.step)
	}
}

// tick begins a step.
func (w *world) tick() {
	w.step++
	w.running = len(w.tables)
	if w.running == 0 {
		clear(w.since)
	}
	w.cache.At(w.step, w.running)
	w.p.At(w.step, w.running)
}

func (w *world) pick(t *rapid.T, which func(a *adapter) bool) *adapter {
	var fit []*adapter
	for _, a := range w.store.all {
		if which(a) {
			fit = append(fit, a)
		}
	}
	if len(fit) == 0 {
		t.Skip("no such adapter")
	}
	return rapid.SampledFrom(fit).Draw(t, "adapter")
}

// want asks for an adapter and compares the answer with what could be had.
func (w *world) want(t *rapid.T) {
	a := w.pick(t, func(a *adapter) bool { return !a.resident && !a.loading })
	before := w.p.Counts()
	groups := min(w.cache.Givable(), w.present()-w.cfg.Floor)
	can := before.Free + max(0, groups)*w.cfg.GroupChunks
	ahead := rapid.Bool().Draw(t, "ahead")
	w.store.evicting = "adapter"
	if ahead {
		w.store.evicting = "ahead"
	}
	for _, i := range w.store.Idle() {
		if !ahead || !i.Awaited {
			can += i.Chunks
		}
	}
	could := w.p.Could(a.chunks, ahead)
	ok := w.p.Adapter(a.chunks, ahead)
	if could != ok {
		t.Fatalf("Could says %v, Adapter %v", could, ok)
	}
	if ok != (can >= a.chunks) {
		t.Fatalf("%d chunks could be had, %d are wanted: %v", can, a.chunks, ok)
	}
	if !ok {
		if w.p.Counts() != before {
			t.Fatalf("a refusal moved %+v to %+v", before, w.p.Counts())
		}
		return
	}
	a.loading = true
}

func (w *world) present() int {
	n, _ := w.cache.Groups()
	return n
}

func (w *world) arrive(t *rapid.T) {
	a := w.pick(t, func(a *adapter) bool { return a.loading })
	a.loading, a.resident, a.arrived = false, true, w.step
	a.used = w.step
}

// start runs a sequence that needs pages; what is missing is asked for.
func (w *world) start(t *rapid.T) {
	pages := rapid.IntRange(1, 6).Draw(t, "pages")
	toks := make([]int32, pages*kv.PageSize)
	toks[0] = int32(rapid.IntRange(0, 9).Draw(t, "text"))
	tab, _ := w.cache.NewTable("", toks)
	if tab.Grow(len(toks)) {
		tab.Publish(toks, len(toks))
		w.tables = append(w.tables, tab)
		return
	}
	tab.Release()
	before, growing := w.p.Counts(), len(w.growing)
	w.store.evicting = "cache"
	coming := w.p.More(pages - w.cache.Available())
	if coming != (w.p.Coming() > 0) {
		t.Fatalf("More says %v, %d groups are coming", coming, w.p.Coming())
	}
	if w.p.Counts().Adapters < before.Adapters {
		for _, gs := range w.growing[growing:] {
			for _, g := range gs {
				w.since[g] = w.step
			}
		}
		return
	}
	if n := min((pages-w.cache.Available()+w.cfg.GroupPages-1)/w.cfg.GroupPages, w.p.absent()); !coming && n > 0 && !w.p.broken && before.Free >= w.cfg.GroupChunks {
		t.Fatalf("nothing comes though %d chunks are free", before.Free)
	}
}

func (w *world) grown(t *rapid.T) {
	if len(w.growing) == 0 {
		t.Skip("nothing is coming")
	}
	w.p.Grown(w.growing[0])
	w.growing = w.growing[1:]
}

// broke lets the device fail; nothing more comes after that.
func (w *world) broke(t *rapid.T) {
	if len(w.growing) == 0 || rapid.IntRange(0, 9).Draw(t, "really") > 0 {
		t.Skip("not now")
	}
	for _, g := range w.growing[0] {
		delete(w.there, g)
		delete(w.since, g)
	}
	w.p.Broke(w.growing[0])
	w.growing = w.growing[1:]
}

func (w *world) end(t *rapid.T) {
	if len(w.tables) == 0 {
		t.Skip("nothing runs")
	}
	i := rapid.IntRange(0, len(w.tables)-1).Draw(t, "which")
	w.tables[i].Release()
	w.tables = slices.Delete(w.tables, i, i+1)
}

// TestModel does random things to both sides; afterwards, with nothing running,
// every adapter that fits can be loaded and the longest sequence can run.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"":       w.check,
			"want":   w.want,
			"start":  w.start,
			"grown":  w.grown,
			"broke":  w.broke,
			"end":    w.end,
			"step":   func(*rapid.T) { w.tick() },
			"tend":   func(*rapid.T) { w.p.Tend() },
			"arrive": w.arrive,
			"lease": func(t *rapid.T) {
				a := w.pick(t, func(*adapter) bool { return true })
				a.leases = 1 - a.leases
			},
			"use": func(t *rapid.T) {
				a := w.pick(t, func(a *adapter) bool { return a.resident })
				a.uses = 1 - a.uses
				a.used = w.step
			},
		})
		w.settle(t)
	})
}

// settle lets everything end and sees that nobody starves.
func (w *world) settle(t *rapid.T) {
	for len(w.growing) > 0 {
		w.grown(t)
	}
	for _, a := range w.store.all {
		a.resident, a.loading = a.resident || a.loading, false
		a.uses = 0
	}
	for _, tab := range w.tables {
		tab.Release()
	}
	w.tables = nil
	w.tick()
	pinned := 0
	for _, a := range w.store.all {
		if a.pinned && a.resident {
			pinned += a.chunks
		}
	}
	for _, a := range w.store.all {
		fits := w.p.Fits(int64(a.chunks)*w.cfg.ChunkBytes, pinned)
		if a.resident || a.pinned {
			continue
		}
		w.store.evicting = "adapter"
		if ok := w.p.Adapter(a.chunks, false); ok != (fits == nil) || fits != nil && !errors.Is(fits, ErrTooLarge) {
			t.Fatalf("an adapter of %d chunks: %v, %v", a.chunks, ok, fits)
		} else if ok {
			a.resident = true
		}
	}
	tab, _ := w.cache.NewTable("x", nil)
	if !tab.Grow(w.cfg.Floor * w.cfg.GroupPages * kv.PageSize) {
		t.Fatalf("the cache has %d of %d pages", w.cache.Available(), w.cfg.Floor*w.cfg.GroupPages)
	}
	tab.Release()
	w.check(t)
}

// TestOrder: what was used longest ago goes first, whichever side it is on.
func TestOrder(t *testing.T) {
	var shrunk []int32
	cfg := Config{Chunks: 8, ChunkBytes: 1, GroupChunks: 1, GroupPages: 1, Floor: 1, Lot: 1, Keep: 2}
	m := &mover{shrink: func(g []int32) { shrunk = append(shrunk, g...) }}
	p, cache := New(cfg, m), kv.NewGrouped(8, 1)
	s := &store{p: p}
	var evicted []string
	s.onEvict = func(a *adapter) { evicted = append(evicted, a.digest) }
	p.Bind(cache, s)
	started := p.Start(4)
	p.Grown(started)
	use := func(step uint64, text int32) {
		cache.At(step, 0)
		toks := make([]int32, kv.PageSize)
		toks[0] = text
		tab, _ := cache.NewTable("", toks)
		tab.Grow(len(toks))
		tab.Publish(toks, len(toks))
		tab.Release()
	}
	load := func(digest string, step uint64, awaited int) {
		if !p.Adapter(1, false) {
			t.Fatalf("no room for %s", digest)
		}
		s.all = append(s.all, &adapter{digest: digest, chunks: 1, resident: true, used: step, arrived: step, leases: awaited})
	}
	for i := range 4 {
		use(uint64(10+10*i), int32(i)) // groups used in steps 10, 20, 30, 40
	}
	for i, step := range []uint64{15, 5, 35, 45} {
		load(fmt.Sprint(step), step, i/3) // the last one is awaited
	}
	p.At(50, 1)
	cache.At(50, 0)
	var order []string
	for i := range 7 {
		n, e := len(shrunk), len(evicted)
		if ok := p.Adapter(1, false); !ok {
			t.Fatalf("%d: %v", i, ok)
		}
		if len(shrunk) > n {
			order = append(order, fmt.Sprint("group ", shrunk[n]))
		} else if len(evicted) > e {
			order = append(order, evicted[e])
		}
	}
	want := []string{"5", "group 0", "15", "group 1", "group 2", "35", "45"}
	if !slices.Equal(order, want) {
		t.Errorf("taken were %v, want %v", order, want)
	}
	if p.Adapter(1, false) {
		t.Error("the cache fell below its floor")
	}
}

// mover is a device that only tells.
type mover struct{ shrink, grow func([]int32) }

func (m *mover) Shrink(g []int32) { m.shrink(g) }
func (m *mover) Grow(g []int32)   { m.grow(g) }

func TestFits(t *testing.T) {
	p := New(Config{Chunks: 100, ChunkBytes: 2 << 20, ImageChunks: func(b int64) int { return int((b + 2<<20 - 1) / (2 << 20)) }, GroupChunks: 3, GroupPages: 16, Floor: 10, Lot: 1}, nil)
	for _, c := range []struct {
		bytes  int64
		pinned int
		ok     bool
	}{{140 << 20, 0, true}, {140<<20 + 1, 0, false}, {120 << 20, 10, true}, {121 << 20, 10, false}, {1, 70, false}} {
		err := p.Fits(c.bytes, c.pinned)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes beside %d chunks: %v", c.bytes, c.pinned, err)
		}
	}
	t.Log(p.Fits(1<<30, 5))
}
