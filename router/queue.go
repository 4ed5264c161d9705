package router

import (
	"cmp"
	"slices"
	"time"
)

// flow is the waiting work of one (tenant, adapter).
type flow struct {
	key     flowKey
	waiting []*choice // first in, first out
	// served is the flow's virtual token counter: tokens that it was given,
	// lifted to the least active counter when it comes back from idleness
	// (VTC, Sheng et al. 2023, arXiv:2401.00588).
	served float64
	// orphaned is since when no group in reach could take its sequences.
	orphaned time.Time
}

type flowKey struct{ tenant, digest string }

// fairQueue orders waiting sequences: the flow that was served least goes
// first. It is pure; the router's goroutine owns it.
type fairQueue struct {
	flows map[flowKey]*flow
	len   int
	// last is the flow that was served last: while nobody waits its counter is
	// where a newcomer starts.
	last *flow
}

func newFairQueue() *fairQueue { return &fairQueue{flows: map[flowKey]*flow{}} }

// flow finds or starts a flow.
func (q *fairQueue) flow(k flowKey) *flow {
	f, ok := q.flows[k]
	if !ok {
		f = &flow{key: k}
		q.flows[k] = f
	}
	return f
}

// push adds a sequence, at the front of its flow when it was under way before.
func (q *fairQueue) push(c *choice, front bool) {
	f := q.flow(c.flow)
	if len(f.waiting) == 0 {
		f.orphaned = time.Time{} // of those who waited before
		f.served = max(f.served, q.least())
	}
	if front {
		f.waiting = append([]*choice{c}, f.waiting...)
	} else {
		f.waiting = append(f.waiting, c)
	}
	q.len++
}

// least is the smallest counter among flows that wait; when none does, that of
// the flow that was served last, lest a newcomer owes nothing to flows that
// have been served for hours and merely do not wait at this moment.
func (q *fairQueue) least() float64 {
	first, v := true, 0.0
	for _, f := range q.flows {
		if len(f.waiting) > 0 && (first || f.served < v) {
			first, v = false, f.served
		}
	}
	if first && q.last != nil {
		return q.last.served
	}
	return v
}

// remove takes a sequence out, if it waits.
func (q *fairQueue) remove(c *choice) bool {
	f, ok := q.flows[c.flow]
	if !ok {
		return false
	}
	i := slices.Index(f.waiting, c)
	switch {
	case i < 0:
		return false
	case i == 0: // the rule: nothing is moved
		f.waiting[0] = nil
		f.waiting = f.waiting[1:]
	default:
		f.waiting = slices.Delete(f.waiting, i, i+1)
	}
	q.len--
	return true
}

// charge adds served tokens to a flow.
func (q *fairQueue) charge(k flowKey, tokens int) { q.flow(k).served += float64(tokens) }

// head gives the first sequence of a flow that does not wait out a back-off,
// nil when all do: a refused sequence keeps its place, but the others need not
// wait for it.
func (f *flow) head(now time.Time) *choice {
	for _, c := range f.waiting {
		if !now.Before(c.notBefore) {
			return c
		}
	}
	return nil
}

// next gives the head of the least served flow for which fits is true, or nil.
// Ties go to the head that arrived first.
func (q *fairQueue) next(now time.Time, fits func(*choice) bool) *choice {
	var best *flow
	var first *choice
	for _, f := range q.flows {
		c := f.head(now)
		if c == nil || !fits(c) {
			continue
		}
		if best == nil || f.served < best.served || f.served == best.served && c.order < first.order {
			best, first = f, c
		}
	}
	if best == nil {
		return nil
	}
	q.remove(first)
	q.last = best
	return first
}

// all gives every waiting sequence, in order of arrival.
func (q *fairQueue) all() []*choice {
	var cs []*choice
	for _, f := range q.flows {
		cs = append(cs, f.waiting...)
	}
	slices.SortFunc(cs, func(a, b *choice) int { return cmp.Compare(a.order, b.order) })
	return cs
}

// trim forgets idle flows once there are many: their counters only matter
// against flows that wait now.
func (q *fairQueue) trim() {
	const many = 4096
	if len(q.flows) <= many {
		return
	}
	for k, f := range q.flows {
		if len(f.waiting) == 0 {
			delete(q.flows, k)
		}
	}
}
