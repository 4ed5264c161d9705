package sched

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"chorale/worker/kv"
	"chorale/worker/memory"
)

// shared is a device on which adapters of different sizes share memory with the
// cache: a device without places, and the cache's Mover.
type shared struct {
	*device
	t       *rapid.T
	p       *memory.Pool
	size    map[string]int
	usedAt  map[string]uint64
	fresh   map[string]bool // arrived and not used yet
	arrived map[string]uint64
	awaited func(a string) bool
	step    *uint64
	coming  [][]int32
	there   map[int32]bool
}

var (
	_ Adapters        = (*shared)(nil)
	_ memory.Adapters = (*shared)(nil)
)

func (d *shared) Want(a string) bool {
	if d.resident[a] || d.loading[a] {
		return true
	}
	if !d.p.Adapter(d.size[a], false) {
		return false
	}
	d.loading[a] = true
	return true
}

func (d *shared) arrive(a string) {
	d.device.arrive(a)
	d.fresh[a] = true
	d.usedAt[a], d.arrived[a] = *d.step, *d.step
}

func (d *shared) Use(a string) {
	d.device.Use(a)
	d.usedAt[a], d.fresh[a] = *d.step, false
}

func (d *shared) Unuse(a string) {
	d.device.Unuse(a)
	d.usedAt[a] = *d.step
}

func (d *shared) Idle() []memory.Idle {
	var out []memory.Idle
	for a := range d.resident {
		if d.uses[a] == 0 && !(d.fresh[a] && d.awaited(a)) {
			out = append(out, memory.Idle{Digest: a, Chunks: d.size[a], Used: d.usedAt[a], Arrived: d.arrived[a], Awaited: d.awaited(a)})
		}
	}
	slices.SortFunc(out, func(a, b memory.Idle) int {
		if a.Awaited != b.Awaited {
			if b.Awaited {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Used, b.Used), cmp.Compare(a.Digest, b.Digest))
	})
	return out
}

func (d *shared) IdleChunks(awaited bool) int {
	n := 0
	for _, i := range d.Idle() {
		if awaited || !i.Awaited {
			n += i.Chunks
		}
	}
	return n
}

func (d *shared) Evict(a string) {
	if d.uses[a] > 0 || !d.resident[a] {
		d.t.Fatalf("adapter %s is put out while in use", a)
	}
	delete(d.resident, a)
	d.p.Return(d.size[a])
}

func (d *shared) Grow(groups []int32) { d.coming = append(d.coming, groups) }

func (d *shared) Shrink(groups []int32) {
	for _, g := range groups {
		if !d.there[g] {
			d.t.Fatalf("group %d is given back, it was not there", g)
		}
		delete(d.there, g)
	}
}

func (d *shared) grown() bool {
	if len(d.coming) == 0 {
		return false
	}
	for _, g := range d.coming[0] {
		d.there[g] = true
	}
	d.p.Grown(d.coming[0])
	d.coming = d.coming[1:]
	return true
}

// sharing is a simulation whose memory is shared.
type sharing struct {
	simulation
	d        *shared
	capacity int
}

func newSharing(t *rapid.T) *sharing {
	groups, per := rapid.IntRange(4, 24).Draw(t, "groups"), rapid.IntRange(1, 3).Draw(t, "pages of a group")
	c := memory.Config{
		Chunks: groups, GroupChunks: 1, GroupPages: per, ChunkBytes: 1, Floor: rapid.IntRange(1, groups-2).Draw(t, "floor"),
		Lot: rapid.IntRange(1, 3).Draw(t, "lot"), Spare: rapid.IntRange(0, 3).Draw(t, "spare"), Keep: uint64(rapid.IntRange(0, 8).Draw(t, "keep")),
		ImageChunks: func(b int64) int { return int(b) },
	}
	pool, max := kv.NewGrouped(groups, per), rapid.IntRange(1, 4).Draw(t, "max adapters")
	d := &shared{device: newDevice(99), t: t, size: map[string]int{}, usedAt: map[string]uint64{}, fresh: map[string]bool{}, arrived: map[string]uint64{}, there: map[int32]bool{}}
	m := &sharing{simulation: simulation{
		pool: pool, dev: d.device, depth: rapid.IntRange(1, 2).Draw(t, "depth"), stops: rapid.IntRange(5, 100).Draw(t, "stops"),
	}, d: d, capacity: c.Floor * per * kv.PageSize}
	m.s = New(Config{
		MaxBatchTokens: rapid.IntRange(1, 48).Draw(t, "tokens"), MaxRunning: rapid.IntRange(1, 6).Draw(t, "running"),
		MaxAdapters: max, StarveSteps: rapid.IntRange(0, 6).Draw(t, "starve"),
	}, pool, d)
	d.p = memory.New(c, d)
	d.p.Bind(pool, d)
	m.s.Share(d.p)
	d.step = &m.s.step
	d.awaited = func(a string) bool { return slices.ContainsFunc(m.jobs, func(j *job) bool { return j.Adapter == a }) }
	for _, a := range []string{"a", "b", "c", "d", "e", "f"} {
		d.size[a] = rapid.IntRange(1, d.p.Limit()).Draw(t, "size")
	}
	started := d.p.Start(rapid.IntRange(c.Floor, groups).Draw(t, "start"))
	for _, g := range started {
		d.there[g] = true
	}
	d.p.Grown(started)
	return m
}

func (m *sharing) submit(t *rapid.T) {
	if len(m.jobs) >= 12 {
		return
	}
	prompt := rapid.IntRange(1, m.capacity-1).Draw(t, "prompt")
	q := &Seq{Adapter: rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e", "f"}).Draw(t, "adapter"), Tokens: make([]int32, prompt)}
	q.Tokens[0] = int32(rapid.IntRange(0, 2).Draw(t, "text"))
	m.s.Add(q)
	m.jobs = append(m.jobs, &job{q, min(m.capacity, prompt+rapid.IntRange(0, 40).Draw(t, "answer"))})
}

// step runs a step. An empty one needs a reason: something is on its way.
func (m *sharing) step(t *rapid.T) bool {
	p := m.s.Next()
	for _, e := range p.Entries {
		q := e.Seq
		if !q.running || len(q.Table.Pages)*kv.PageSize < q.Computed+e.N || q.Adapter != "" && !m.d.resident[q.Adapter] {
			t.Fatalf("an entry lacks pages or its adapter %q", q.Adapter)
		}
		for _, pg := range q.Table.Pages {
			if !m.d.there[pg/int32(m.pool.GroupPages())] {
				t.Fatalf("page %d of an entry is not there", pg)
			}
		}
	}
	moved := m.compute(p)
	if !moved && len(m.jobs) > 0 && len(m.d.coming) == 0 && len(m.d.loading) == 0 {
		t.Fatalf("nothing is planned and nothing on its way; %d sequences, %+v", len(m.jobs), m.d.p.Counts())
	}
	return moved
}

func (m *sharing) check(t *rapid.T) {
	var tables []*kv.Table
	for _, j := range m.jobs {
		if j.running {
			tables = append(tables, j.Table)
		}
	}
	for _, q := range m.s.leaving {
		tables = append(tables, q.Table)
	}
	if err := m.pool.Check(tables...); err != nil {
		t.Fatal(err)
	}
	if err := m.d.p.Check(); err != nil {
		t.Fatal(err)
	}
}

func (m *sharing) arriveOne() bool {
	for a := range m.d.loading {
		m.d.arrive(a)
		return true
	}
	return false
}

// TestSharing runs random operations on shared memory and then lets everything
// end: nobody starves, whatever the adapters' sizes.
func TestSharing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newSharing(t)
		t.Repeat(map[string]func(*rapid.T){
			"":       m.check,
			"submit": m.submit,
			"step": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "steps") {
					m.step(t)
				}
			},
			"arrive": func(*rapid.T) { m.arriveOne() },
			"grown":  func(*rapid.T) { m.d.grown() },
			"remove": func(t *rapid.T) {
				if len(m.jobs) == 0 {
					t.Skip("nothing to remove")
				}
				i := rapid.IntRange(0, len(m.jobs)-1).Draw(t, "which")
				m.s.Remove(m.jobs[i].Seq)
				m.jobs = slices.Delete(m.jobs, i, i+1)
			},
		})
		for range 100_000 {
			if len(m.jobs) == 0 {
				break
			}
			m.step(t)
			m.d.grown()
			m.arriveOne()
		}
		for len(m.flights) > 0 {
			m.land()
		}
		m.check(t)
		if len(m.jobs) > 0 {
			t.Fatalf("%d sequences starve; %+v", len(m.jobs), m.d.p.Counts())
		}
		if m.pool.Held() != 0 {
			t.Fatalf("%d pages are held by nobody", m.pool.Held())
		}
	})
}
