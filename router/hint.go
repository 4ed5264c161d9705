package router

import (
	"cmp"
	"slices"
)

// hint tells each group which adapters the sequences need that wait here and will
// probably be given to it, in the order of their turns: they are on its device when
// they come.
func (r *Router) hint() {
	hints := map[*link][]string{}
	cat := r.Catalogue()
	most := 0 // flows that are looked at
	for _, l := range r.links {
		most += 2 * l.info.MaxLoRAsPerBatch
	}
	next := r.nextFlows()
	for _, f := range next[:min(len(next), most)] {
		l := r.likely(f, cat)
		d := f.key.digest
		if l != nil && len(hints[l]) < l.info.MaxLoRAsPerBatch && !slices.Contains(hints[l], d) {
			hints[l] = append(hints[l], d)
		}
	}
	for _, l := range r.links {
		if l.connected && !slices.Equal(l.hints, hints[l]) {
			l.prefetch(hints[l])
		}
	}
}

// nextFlows are the flows of adapters that wait, in the order of their turns.
func (r *Router) nextFlows() []*flow {
	if r.queue.len == 0 {
		return nil
	}
	var fs []*flow
	for k, f := range r.queue.flows {
		if k.digest != "" && len(f.waiting) > 0 {
			fs = append(fs, f)
		}
	}
	slices.SortFunc(fs, func(a, b *flow) int {
		return cmp.Or(cmp.Compare(a.served, b.served), cmp.Compare(a.waiting[0].order, b.waiting[0].order))
	})
	return fs
}

// likely is the group that a flow's next sequence will probably go to: one that has
// its adapter at work, else one on whose device it is, else the one with the least to
// do.
func (r *Router) likely(f *flow, cat *Catalogue) *link {
	var best *link
	bestScore := 0
	for _, l := range r.links {
		if !l.usable() || !r.carries(l, f.waiting[0], cat) {
			continue
		}
		score := -l.inflight
		switch {
		case l.adapters[f.key.digest] > 0:
			score += 1 << 30
		case slices.Contains(l.status.Resident, f.key.digest):
			score += 1 << 20
		}
		if best == nil || score > bestScore {
			best, bestScore = l, score
		}
	}
	return best
}

// prefetch tells the group which adapters are next.
func (l *link) prefetch(digests []string) {
	l.hints = digests
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		_ = conn.Prefetch(digests) // a dead connection shows in Recv
	}
}
