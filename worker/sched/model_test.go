package sched

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"chorale/worker/kv"
)

// job is a sequence with the length at which it ends.
type job struct {
	*Seq
	end int
}

// flight is a launched step.
type flight []launched

type launched struct {
	Entry
	*job
	draws bool
}

// simulation is a scheduler with its surroundings under random operations.
type simulation struct {
	s    *Scheduler
	dev  *device
	pool *kv.Pool
	jobs []*job
	// At most depth steps are launched at once. One of stops commits ends its
	// sequence as an end token would.
	flights      []flight
	depth        int
	drawn, stops int
}

func newSimulation(t *rapid.T) *simulation {
	pages := rapid.IntRange(4, 24).Draw(t, "pages")
	max := rapid.IntRange(1, 4).Draw(t, "max adapters")
	m := &simulation{
		pool: kv.NewPool(pages), dev: newDevice(rapid.IntRange(max, 5).Draw(t, "places")),
		depth: rapid.IntRange(1, 2).Draw(t, "depth"), stops: rapid.IntRange(5, 100).Draw(t, "stops"),
	}
	m.s = New(Config{
		MaxBatchTokens: rapid.IntRange(1, 48).Draw(t, "tokens"), MaxRunning: rapid.IntRange(1, 6).Draw(t, "running"),
		MaxAdapters: max, StarveSteps: rapid.IntRange(0, 6).Draw(t, "starve"),
	}, m.pool, m.dev)
	return m
}

func (m *simulation) check(t *rapid.T) {
	all := make([]*Seq, len(m.jobs))
	for i, j := range m.jobs {
		all[i] = j.Seq
	}
	checkState(t, m.s, m.dev, m.pool, all)
}

func (m *simulation) submit(t *rapid.T) {
	if len(m.jobs) >= 12 {
		return
	}
	capacity := m.pool.Len() * kv.PageSize
	prompt := rapid.IntRange(1, capacity-1).Draw(t, "prompt")
	q := &Seq{
		Adapter:  rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e", "f"}).Draw(t, "adapter"),
		NoPrefix: rapid.IntRange(0, 9).Draw(t, "noprefix") == 0,
		Tokens:   make([]int32, prompt),
	}
	text := int32(rapid.IntRange(0, 2).Draw(t, "text"))
	for i := range q.Tokens {
		q.Tokens[i] = text
	}
	m.s.Add(q)
	m.jobs = append(m.jobs, &job{q, min(capacity, prompt+rapid.IntRange(0, 40).Draw(t, "answer"))})
}

// step plans a step and computes it; it returns false when nothing happened.
func (m *simulation) step(t failer) bool {
	p := m.s.Next()
	checkPlan(t, m.s, m.dev, p)
	return m.compute(p)
}

// compute launches a plan as the engine does, and lands the oldest step when
// there are as many as may be or nothing to launch.
func (m *simulation) compute(p Plan) bool {
	if len(p.Entries) == 0 && len(m.flights) > 0 {
		m.land()
		return true
	}
	if len(p.Entries) == 0 {
		return len(p.Preempted) > 0
	}
	f := flight{}
	for _, e := range p.Entries {
		i := slices.IndexFunc(m.jobs, func(j *job) bool { return j.Seq == e.Seq })
		n := len(e.Seq.Tokens)
		draws := e.Sample && n < m.jobs[i].end
		m.s.Launch(e, draws && n+1 < m.jobs[i].end)
		f = append(f, launched{e, m.jobs[i], draws})
	}
	m.flights = append(m.flights, f)
	if len(m.flights) == m.depth {
		m.land()
	}
	return true
}

// land commits the oldest step and ends the sequences that are done, some of
// them before anybody could know.
func (m *simulation) land() {
	f := m.flights[0]
	m.flights = m.flights[1:]
	for _, l := range f {
		token := int32(-1)
		if l.draws {
			token = 9
		}
		m.s.Commit(l.Entry, token)
		at := slices.Index(m.jobs, l.job)
		if at < 0 { // it ended while this was under way
			continue
		}
		m.drawn++
		if l.Sample && (l.From+l.N+1 >= l.end || !l.draws) || m.drawn%m.stops == 0 {
			m.s.Remove(l.job.Seq)
			m.jobs = slices.Delete(m.jobs, at, at+1)
		}
	}
}

func (m *simulation) arriveOne() bool {
	for a := range m.dev.loading {
		m.dev.arrive(a)
		return true
	}
	return false
}

// TestModel runs random operations and then lets everything end.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newSimulation(t)
		t.Repeat(map[string]func(*rapid.T){
			"":       m.check,
			"submit": m.submit,
			"step": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "steps") {
					m.step(t)
				}
			},
			"arrive": func(*rapid.T) { m.arriveOne() },
			"remove": func(t *rapid.T) {
				if len(m.jobs) == 0 {
					t.Skip("nothing to remove")
				}
				i := rapid.IntRange(0, len(m.jobs)-1).Draw(t, "which")
				m.s.Remove(m.jobs[i].Seq)
				m.jobs = slices.Delete(m.jobs, i, i+1)
			},
		})
		for range 200_000 {
			if len(m.jobs) == 0 {
				break
			}
			moved := m.step(t)
			if !m.arriveOne() && !moved {
				t.Fatalf("%d sequences are stuck", len(m.jobs))
			}
		}
		for len(m.flights) > 0 {
			m.land()
		}
		m.check(t)
		if len(m.jobs) > 0 {
			t.Fatalf("%d sequences starve", len(m.jobs))
		}
		if m.pool.Held() != 0 {
			t.Fatalf("%d pages are held by nobody", m.pool.Held())
		}
	})
}

// TestNoStarvation keeps a full house of adapters that renew their work for
// ever: a latecomer's sequence must end within a bound all the same.
func TestNoStarvation(t *testing.T) {
	for _, running := range []int{2, 8, 24} {
		pool := kv.NewPool(200)
		dev := newDevice(2)
		s := New(Config{MaxBatchTokens: 32, MaxRunning: running, MaxAdapters: 2, StarveSteps: 10}, pool, dev)
		rng := rand.New(rand.NewPCG(1, uint64(running)))
		end := map[*Seq]int{}
		add := func(adapter string) *Seq {
			q := &Seq{Adapter: adapter, Tokens: make([]int32, 1+rng.IntN(20))}
			end[q] = len(q.Tokens) + 20 + rng.IntN(40)
			s.Add(q)
			return q
		}
		for range 2 * running {
			add("a")
			add("b")
		}
		late := []*Seq{add("c"), add("d"), add("c")}
		for step := 0; ; step++ {
			if step == 2000 {
				t.Fatalf("%d running: latecomers starve", running)
			}
			p := s.Next()
			checkPlan(t, s, dev, p)
			for _, e := range p.Entries {
				token := int32(-1)
				if e.Sample {
					token = 1
				}
				s.Launch(e, token >= 0)
				s.Commit(e, token)
				if len(e.Seq.Tokens) < end[e.Seq] {
					continue
				}
				s.Remove(e.Seq)
				delete(end, e.Seq)
				if i := slices.Index(late, e.Seq); i >= 0 {
					late = slices.Delete(late, i, i+1)
				} else {
					add(e.Seq.Adapter)
				}
			}
			for a := range dev.loading {
				dev.arrive(a)
			}
			if len(late) == 0 {
				break
			}
		}
	}
}
