package sched

import (
	"slices"

	"chorale/worker/kv"
)

// failer is a *testing.T or a *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkPlan verifies what every plan must keep to, before it is committed.
func checkPlan(t failer, s *Scheduler, dev *device, p Plan) {
	t.Helper()
	rows, seen, adapters := 0, map[*Seq]bool{}, map[string]bool{}
	for i, e := range p.Entries {
		q := e.Seq
		if seen[q] {
			t.Fatalf("a sequence stands twice in a plan")
		}
		seen[q] = true
		rows += e.N
		if e.N < 1 || e.N > q.pending() || e.Sample != (e.N == q.pending()) {
			t.Fatalf("entry of %d tokens, %d pending, sample %v", e.N, q.pending(), e.Sample)
		}
		if !q.running || q.Table == nil || len(q.Table.Pages)*kv.PageSize < q.Computed+e.N {
			t.Fatalf("entry up to token %d lacks pages", q.Computed+e.N)
		}
		if i > 0 && p.Entries[i-1].Seq.Adapter > q.Adapter {
			t.Fatalf("entries are not grouped by adapter")
		}
		if q.Adapter != "" {
			adapters[q.Adapter] = true
			if !dev.resident[q.Adapter] {
				t.Fatalf("adapter %s is in the plan but not on the device", q.Adapter)
			}
		}
	}
	if rows > s.cfg.MaxBatchTokens {
		t.Fatalf("%d rows, at most %d", rows, s.cfg.MaxBatchTokens)
	}
	if len(adapters) > s.cfg.MaxAdapters || len(adapters) != len(p.Adapters) {
		t.Fatalf("%d adapters, at most %d; told %v", len(adapters), s.cfg.MaxAdapters, p.Adapters)
	}
	for _, a := range p.Adapters {
		if !adapters[a] {
			t.Fatalf("plan tells of adapter %s, which has no rows", a)
		}
	}
	for _, q := range p.Preempted {
		if q.running || q.Computed != 0 || q.Table != nil || seen[q] {
			t.Fatalf("a preempted sequence kept something")
		}
	}
	checkProgress(t, s, dev, p)
}

// checkProgress: an empty plan needs a reason, or the engine would sleep with
// work at hand.
func checkProgress(t failer, s *Scheduler, dev *device, p Plan) {
	t.Helper()
	if len(p.Entries) > 0 || len(p.Preempted) > 0 || s.flying > 0 {
		return
	}
	if len(s.running) > 0 {
		t.Fatalf("nothing planned though %d sequences run", len(s.running))
	}
	for _, q := range s.waiting {
		if q.Adapter == "" || dev.resident[q.Adapter] {
			t.Fatalf("nothing planned though a sequence of %q could start", q.Adapter)
		}
		if !dev.loading[q.Adapter] && dev.idle() != "" {
			t.Fatalf("nothing planned and adapter %s not asked for though there is room", q.Adapter)
		}
	}
}

// checkState verifies the books after any operation; all are the sequences
// that were added and not removed.
func checkState(t failer, s *Scheduler, dev *device, pool *kv.Pool, all []*Seq) {
	t.Helper()
	if s.Running()+s.Waiting() != len(all) || s.Running() > s.cfg.MaxRunning {
		t.Fatalf("%d run (at most %d) and %d wait, of %d", s.Running(), s.cfg.MaxRunning, s.Waiting(), len(all))
	}
	uses := map[string]int{}
	var tables []*kv.Table
	flying := 0
	for _, q := range s.leaving {
		if q.flying < 1 || !q.gone || slices.Contains(all, q) {
			t.Fatalf("a sequence stays though nothing computes it")
		}
		flying += q.flying
		tables = append(tables, q.Table)
		if q.Adapter != "" {
			uses[q.Adapter]++
		}
	}
	for _, q := range all {
		flying += q.flying
		if q.running != slices.Contains(s.running, q) || q.running == slices.Contains(s.waiting, q) {
			t.Fatalf("a sequence is not in the one list where it belongs")
		}
		if !q.running {
			if q.Table != nil {
				t.Fatalf("a waiting sequence holds pages")
			}
			continue
		}
		tables = append(tables, q.Table)
		if q.Adapter != "" {
			uses[q.Adapter]++
		}
	}
	if flying != s.flying {
		t.Fatalf("%d entries are launched, the sequences know of %d", s.flying, flying)
	}
	for a, n := range dev.uses {
		if uses[a] != n {
			t.Fatalf("adapter %s is used %d times, by %d running sequences", a, n, uses[a])
		}
	}
	for _, qs := range [][]*Seq{s.running, s.waiting} {
		if !slices.IsSortedFunc(qs, func(a, b *Seq) int { return int(a.order) - int(b.order) }) {
			t.Fatalf("sequences are out of order")
		}
	}
	if err := pool.Check(tables...); err != nil {
		t.Fatalf("%v", err)
	}
}
