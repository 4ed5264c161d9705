package lora

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"chorale/internal/eviction"
	"chorale/worker/nn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk gives Packs their outcome when the test says so. Want starts a Pack in a
// goroutine; the desk makes it wait for its order, and waits in turn until it
// has been delivered.
type desk struct {
	orders   chan packOrder
	arrivals chan Arrival
	live     int // packed and not freed, the device's truth
	hosts    int // added and not released
	freed    map[*nn.Adapter]int
}

type packOrder struct{ fail bool }

var errPack = errors.New("no device memory")

func newDesk() *desk {
	return &desk{orders: make(chan packOrder), arrivals: make(chan Arrival), freed: map[*nn.Adapter]int{}}
}

// host makes an adapter whose Pack waits for an order. Release and Free are
// counted; twice is an error.
func (d *desk) host(t failer, digest string, pinned bool) Host {
	d.hosts++
	released := false
	return Host{
		Digest: digest, Bytes: 100, Pinned: pinned,
		Pack: func() (Packed, error) {
			if o := <-d.orders; o.fail {
				return Packed{}, errPack
			}
			a := &nn.Adapter{}
			return Packed{Adapter: a, Bytes: 10, Free: func() {
				d.live--
				if d.freed[a]++; d.freed[a] > 1 {
					t.Fatalf("device memory of %s is freed twice", digest)
				}
			}}, nil
		},
		Release: func() {
			if released {
				t.Fatalf("host memory of %s is released twice", digest)
			}
			released = true
			d.hosts--
		},
	}
}

// deliver completes one Pack that is under way, whichever it is.
func (d *desk) deliver(s *Store, fail bool) Arrival {
	d.orders <- packOrder{fail}
	a := <-d.arrivals
	if a.Err == nil {
		d.live++
	}
	s.Arrived(a)
	return a
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// adapter is the naive picture of one digest.
type adapter struct {
	pinned, resident, loading, failed bool
	fresh                             bool // not used since it came
	hinted                            bool
	leases, uses                      int
	told                              []*int // drops that wait: each must reach 1
	used                              int
	often                             int // halved with each window of uses
	counts                            Counts
}

type picture struct {
	t        *rapid.T
	s        *Store
	d        *desk
	capacity int
	m        map[string]*adapter
	tick     int
	drops    []*int
	gone     map[string]int
	wantGone map[string]int
	loads    uint64
	evicts   uint64
	reserved int
	// window counts the uses since counts were halved last; lfu tells that they count.
	window int
	lfu    bool
	// cursor is where Counts was asked to go on, seen what it told.
	cursor uint64
	seen   map[string]Counts
}

// hostLimit is what the picture's store may hold: not quite all adapters.
const hostLimit = 480

func (p *picture) digest(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "digest")
}

// settle does in the picture what follows when nobody holds a dropped one.
func (p *picture) settle(digest string) {
	a := p.m[digest]
	if len(a.told) == 0 || a.leases > 0 || a.loading {
		return
	}
	for _, n := range a.told {
		*n += 100 // must have been told by now
	}
	delete(p.m, digest)
	p.wantGone[digest]++
}

func (p *picture) check(t *rapid.T) {
	if err := p.s.Check(); err != nil {
		t.Fatal(err)
	}
	resident, loading := 0, 0
	infos := p.s.List()
	if len(infos) != len(p.m) {
		t.Fatalf("%d adapters listed, want %d", len(infos), len(p.m))
	}
	for i, info := range infos {
		a := p.m[info.Digest]
		if a == nil || i > 0 && infos[i-1].Digest >= info.Digest {
			t.Fatalf("list %+v", infos)
		}
		want := Info{Digest: info.Digest, Resident: a.resident, Pinned: a.pinned, Leases: a.leases, HostBytes: 100, Draining: len(a.told) > 0}
		if a.resident {
			want.DeviceBytes = 10
			resident++
		}
		if a.loading {
			loading++
		}
		if info != want {
			t.Fatalf("adapter is %+v, want %+v", info, want)
		}
		if p.s.Ready(info.Digest) != a.resident || p.s.Has(info.Digest) != (len(a.told) == 0) || p.s.Pinned(info.Digest) != a.pinned {
			t.Fatalf("%s: Ready, Has or Pinned contradict %+v", info.Digest, a)
		}
		if err := p.s.Failed(info.Digest); (err != nil) != a.failed || a.failed && !errors.Is(err, errPack) {
			t.Fatalf("%s: Failed is %v, want %v", info.Digest, err, a.failed)
		}
		if a.resident && p.s.Adapter(info.Digest) == nil {
			t.Fatalf("%s has no adapter", info.Digest)
		}
	}
	if p.d.live != resident || len(p.s.Resident()) != resident || p.s.Loading() != loading || p.d.hosts != len(p.m) {
		t.Fatalf("%d on the device, %d loading, %d in host memory; want %d, %d, %d", p.d.live, p.s.Loading(), p.d.hosts, resident, loading, len(p.m))
	}
	if l, e := p.counts(); l != p.loads || e != p.evicts {
		t.Fatalf("%d loads and %d evictions, want %d and %d", l, e, p.loads, p.evicts)
	}
	if c := p.s.Totals(); c.HostBytes != int64(100*len(p.m)+p.reserved) || c.DeviceBytes != int64(10*resident) || c.HostLimit != hostLimit {
		t.Fatalf("totals %+v, want %d adapters, %d of them on the device, and %d bytes reserved", c, len(p.m), resident, p.reserved)
	}
	var changed []Counts
	changed, p.cursor = p.s.Counts(p.cursor)
	for _, c := range changed {
		p.seen[c.Digest] = c
	}
	for d, a := range p.m {
		got := p.seen[d]
		var loads uint64
		for _, n := range got.LoadTime.Classes {
			loads += n
		}
		if w := a.counts; got.Hits != w.Hits || got.Misses != w.Misses || got.Evictions != w.Evictions || loads != w.LoadTime.Classes[0] {
			t.Fatalf("%s: counts %+v with %d loads, want %+v", d, got, loads, w)
		}
	}
	for _, n := range p.drops {
		if *n != 0 && *n != 101 {
			t.Fatalf("a drop was told %d times", *n%100)
		}
	}
	for d, n := range p.wantGone {
		if p.gone[d] != n {
			t.Fatalf("gone was called %d times for %s, want %d", p.gone[d], d, n)
		}
	}
}

func (p *picture) add(t *rapid.T) {
	d, pinned := p.digest(t), rapid.IntRange(0, 4).Draw(t, "pin") == 0
	a, ok := p.m[d]
	err := p.s.Reserve(100)
	if full := 100*len(p.m)+p.reserved+100 > hostLimit; full != errors.Is(err, ErrHostFull) {
		t.Fatalf("%d adapters and %d bytes reserved: %v", len(p.m), p.reserved, err)
	}
	if err != nil {
		return
	}
	h := p.d.host(t, d, pinned)
	h.Reserved = 100
	p.s.Add(h)
	if !ok {
		p.m[d] = &adapter{pinned: pinned}
		delete(p.seen, d) // it begins anew
		return
	}
	a.pinned, a.failed = pinned, false
	for _, n := range a.told {
		*n += 100
	}
	a.told = nil
}

func (p *picture) lease(t *rapid.T) {
	d := p.digest(t)
	err := p.s.Lease(d)
	a := p.m[d]
	switch {
	case a == nil || len(a.told) > 0:
		if !errors.Is(err, ErrNotLoaded) {
			t.Fatalf("lease of an absent adapter: %v", err)
		}
	case a.failed:
		if !errors.Is(err, ErrBuild) {
			t.Fatalf("lease of an adapter that cannot reach the device: %v", err)
		}
	default:
		if err != nil {
			t.Fatal(err)
		}
		a.leases++
		if a.resident {
			a.counts.Hits++
		} else {
			a.counts.Misses++
		}
	}
}

// choose picks a digest for which ok holds.
func (p *picture) choose(t *rapid.T, ok func(*adapter) bool) (string, *adapter) {
	d := p.digest(t)
	if a := p.m[d]; a != nil && ok(a) {
		return d, a
	}
	t.Skip("not now")
	return "", nil
}

func (p *picture) drop(t *rapid.T) {
	d := p.digest(t)
	n := new(int)
	p.drops = append(p.drops, n)
	p.s.Drop(d, func() { *n++ })
	a := p.m[d]
	if a == nil {
		*n += 100 // at once
		return
	}
	a.told = append(a.told, n)
	p.settle(d)
}

func (p *picture) want(t *rapid.T) {
	d, a := p.choose(t, func(a *adapter) bool { return a.leases > 0 })
	p.bring(t, d, a, p.s.Want, func(o *adapter) bool { return o.uses == 0 && !(o.fresh && o.leases > 0) })
}

// prefetch takes a place from nobody who has a lease.
func (p *picture) prefetch(t *rapid.T) {
	d, a := p.choose(t, func(a *adapter) bool { return a.leases > 0 })
	bring := func(d string) bool {
		loads, _ := p.counts()
		p.s.Prefetch(d)
		after, _ := p.counts()
		return after > loads || a.resident || a.loading || a.failed
	}
	p.bring(t, d, a, bring, func(o *adapter) bool { return o.leases == 0 && !o.hinted })
}

// hint names those that are to come.
func (p *picture) hint(t *rapid.T) {
	ds := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 0, 3).Draw(t, "hints")
	p.s.Hint(ds)
	for d, a := range p.m {
		a.hinted = slices.Contains(ds, d)
	}
}

func (p *picture) counts() (loads, evictions uint64) {
	c := p.s.Totals()
	return c.Loads, c.Evictions
}

// before tells whether a is put out before b.
func before(n string, a *adapter, m string, b *adapter) bool {
	switch {
	case (a.leases > 0) != (b.leases > 0):
		return a.leases == 0
	case a.leases == 0 && a.hinted != b.hinted:
		return b.hinted
	case a.often != b.often:
		return a.often < b.often
	case a.used != b.used:
		return a.used < b.used
	default:
		return n < m
	}
}

func (p *picture) bring(t *rapid.T, d string, a *adapter, bring func(string) bool, idle func(*adapter) bool) {
	got := bring(d)
	if a.resident || a.loading || a.failed {
		if !got {
			t.Fatal("an adapter that is there or on its way is refused")
		}
		return
	}
	taken, victim := 0, ""
	for n, o := range p.m {
		if o.resident || o.loading {
			taken++
		}
		if o.resident && idle(o) && !o.pinned && (victim == "" || before(n, o, victim, p.m[victim])) {
			victim = n
		}
	}
	if taken >= p.capacity {
		if got != (victim != "") {
			t.Fatalf("Want is %v, the one to go is %q", got, victim)
		}
		if !got {
			return
		}
		p.m[victim].resident = false
		p.m[victim].counts.Evictions++
		p.evicts++
	}
	if !got {
		t.Fatal("refused though there is room")
	}
	a.loading = true
	p.loads++
}

func (p *picture) arrive(t *rapid.T) {
	if p.s.Loading() == 0 {
		t.Skip("nothing on its way")
	}
	fail := rapid.IntRange(0, 3).Draw(t, "fail") == 0
	got := p.d.deliver(p.s, fail)
	a := p.m[got.Digest]
	a.loading = false
	a.resident, a.failed, a.fresh = !fail, fail, true
	if !fail {
		a.counts.LoadTime.Classes[0]++
		p.touch(a)
	}
	p.settle(got.Digest)
}

// use counts as the policy does; halving all at once is what ageing means.
func (p *picture) use(a *adapter) {
	a.uses++
	a.fresh = false
	p.touch(a)
	if !p.lfu {
		return
	}
	a.often += 256
	places := 0
	for _, o := range p.m {
		if o.resident || o.loading {
			places++
		}
	}
	if p.window++; p.window >= eviction.Window(places) {
		p.window = 0
		for _, o := range p.m {
			o.often /= 2
		}
	}
}

func (p *picture) touch(a *adapter) {
	p.tick++
	a.used = p.tick
}

// TestModel compares the store with a naive picture under random operations,
// with Packs that succeed, fail and take their time.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &picture{
			t: t, d: newDesk(), capacity: rapid.IntRange(1, 4).Draw(t, "capacity"), m: map[string]*adapter{},
			gone: map[string]int{}, wantGone: map[string]int{}, seen: map[string]Counts{}, lfu: rapid.Bool().Draw(t, "lfu"),
		}
		p.s = NewStore(p.capacity, hostLimit, func(a Arrival) { p.d.arrivals <- a }, func(d string) { p.gone[d]++ })
		if p.lfu {
			p.s.SetPolicy(eviction.LFU)
		}
		t.Repeat(map[string]func(*rapid.T){
			"":         p.check,
			"add":      p.add,
			"lease":    p.lease,
			"drop":     p.drop,
			"want":     p.want,
			"arrive":   p.arrive,
			"prefetch": p.prefetch,
			"hint":     p.hint,
			"reserve": func(t *rapid.T) {
				n := rapid.IntRange(0, 80).Draw(t, "bytes")
				if p.s.Reserve(int64(n)) == nil {
					p.reserved += n
				}
			},
			"unreserve": func(t *rapid.T) {
				n := rapid.IntRange(0, p.reserved).Draw(t, "bytes")
				p.s.Unreserve(int64(n))
				p.reserved -= n
			},
			"return": func(t *rapid.T) {
				d, a := p.choose(t, func(a *adapter) bool { return a.leases > a.uses })
				p.s.Return(d)
				a.leases--
				p.settle(d)
			},
			"use": func(t *rapid.T) {
				d, a := p.choose(t, func(a *adapter) bool { return a.resident && a.leases > a.uses })
				p.s.Use(d)
				p.use(a)
			},
			"unuse": func(t *rapid.T) {
				d, a := p.choose(t, func(a *adapter) bool { return a.uses > 0 })
				p.s.Unuse(d)
				a.uses--
				p.touch(a)
			},
		})
		p.end(t)
	})
}

// end gives everything back: nothing may be left on the device or in host
// memory, and every drop must have been told.
func (p *picture) end(t *rapid.T) {
	for p.s.Loading() > 0 {
		a := p.d.deliver(p.s, false)
		p.m[a.Digest].loading, p.m[a.Digest].resident = false, true
		p.m[a.Digest].counts.LoadTime.Classes[0]++
		p.settle(a.Digest)
	}
	for d, a := range p.m {
		for range a.uses {
			p.s.Unuse(d)
		}
		for range a.leases {
			p.s.Return(d)
		}
		a.uses, a.leases = 0, 0
		p.settle(d)
	}
	p.check(t)
	p.s.Close()
	if p.d.live != 0 || p.d.hosts != 0 || len(p.s.List()) != 0 {
		t.Fatalf("%d adapters are left on the device, %d in host memory", p.d.live, p.d.hosts)
	}
	for _, n := range p.drops {
		if *n != 101 {
			t.Fatalf("a drop was told %d times", *n%100)
		}
	}
}

// TestDropAgainWhileTold: who is told that its drop is over may drop again.
func TestDropAgainWhileTold(t *testing.T) {
	d := newDesk()
	s := NewStore(1, 0, func(a Arrival) { d.arrivals <- a }, func(string) {})
	s.Add(d.host(t, "a", false))
	if err := s.Lease("a"); err != nil {
		t.Fatal(err)
	}
	first, second := 0, 0
	s.Drop("a", func() {
		first++
		s.Drop("a", func() { second++ })
	})
	s.Add(d.host(t, "a", false)) // keeps it, tells the first drop, which drops again
	if s.Has("a") {
		t.Error("the second drop was lost")
	}
	s.Return("a")
	if first != 1 || second != 1 {
		t.Errorf("drops were told %d and %d times", first, second)
	}
	if d.hosts != 0 {
		t.Errorf("%d adapters are left in host memory", d.hosts)
	}
}

// TestSlowPackOutlivesItsDrop: what arrives for an adapter that is being
// dropped is freed at once.
func TestSlowPackOutlivesItsDrop(t *testing.T) {
	for _, fail := range []bool{false, true} {
		t.Run(fmt.Sprintf("fail=%v", fail), func(t *testing.T) {
			d := newDesk()
			s := NewStore(1, 0, func(a Arrival) { d.arrivals <- a }, func(string) {})
			s.Add(d.host(t, "a", true))
			if err := s.Lease("a"); err != nil {
				t.Fatal(err)
			}
			if !s.Want("a") {
				t.Fatal("no room on an empty device")
			}
			s.Return("a")
			told := 0
			s.Drop("a", func() { told++ })
			if told != 0 || len(s.List()) != 1 {
				t.Error("the adapter is gone while its Pack runs")
			}
			d.deliver(s, fail)
			if told != 1 || d.live != 0 || d.hosts != 0 {
				t.Errorf("told %d times, %d on the device, %d in host memory", told, d.live, d.hosts)
			}
		})
	}
}

// TestCheck: Check finds what it promises to find.
func TestCheck(t *testing.T) {
	for name, spoil := range map[string]func(s *Store){
		"lease given back twice": func(s *Store) { s.entries["a"].leases = -1 },
		"use without lease":      func(s *Store) { s.entries["a"].uses = 1 },
		"use off the device":     func(s *Store) { s.entries["a"].uses, s.entries["a"].leases = 1, 1 },
		"host memory":            func(s *Store) { s.hosted = 1 },
		"too many": func(s *Store) {
			for _, e := range s.entries {
				e.loading, s.device[e] = true, struct{}{}
			}
		},
		"not counted":  func(s *Store) { s.entries["a"].packed = &Packed{} },
		"counted gone": func(s *Store) { s.device[&entry{}] = struct{}{} },
	} {
		s := NewStore(1, 0, nil, nil)
		s.Add(Host{Digest: "a"})
		s.Add(Host{Digest: "b"})
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		spoil(s)
		if s.Check() == nil {
			t.Errorf("%s: not found", name)
		}
	}
	if err := NewStore(1, 0, nil, nil).Failed("x"); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("failed: %v", err)
	}
}
