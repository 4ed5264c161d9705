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

// simulation is a scheduler with its surroundings under random operations.
type simulation struct {
	s    *Scheduler
	dev  *device
	pool *kv.Pool
	jobs []*job
}

func newSimulation(t *rapid.T) *simulation {
	pages := rapid.IntRange(4, 24).Draw(t, "pages")
	max := rapid.IntRange(1, 4).Draw(t, "max adapters")
	m := &simulation{pool: kv.NewPool(pages), dev: newDevice(rapid.IntRange(max, 5).Draw(t, "places"))}
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

// step runs a step as the engine does; it returns false when it was empty.
func (m *simulation) step(t failer) bool {
	p := m.s.Next()
	checkPlan(t, m.s, m.dev, p)
	for _, e := range p.Entries {
		before := len(e.Seq.Tokens)
		i := slices.IndexFunc(m.jobs, func(j *job) bool { return j.Seq == e.Seq })
		token := int32(-1)
		if e.Sample && before < m.jobs[i].end {
			token = 9
		}
		m.s.Commit(e, token)
		if e.Sample && len(e.Seq.Tokens) >= m.jobs[i].end {
			m.s.Remove(e.Seq)
			m.jobs = slices.Delete(m.jobs, i, i+1)
		}
	}
	return len(p.Entries)+len(p.Preempted) > 0
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
