package kv

import (
	"container/list"
	"slices"
)

// group is a run of pages that comes and goes as a whole.
type group struct {
	present bool
	loose   bool  // counted as such
	first   int32 // free page
	free    int
	held    int // pages that somebody refers to
	// keep is the step before which Give spares the group.
	keep uint64
}

// GroupPages is the number of pages in a group.
func (p *Pool) GroupPages() int { return p.per }

// Groups counts the groups that are there, and those that could be.
func (p *Pool) Groups() (present, most int) { return p.present, len(p.groups) }

// Absent appends the first n groups that are not there, or all when there are
// fewer, except those that skip names.
func (p *Pool) Absent(n int, skip func(g int32) bool) []int32 {
	var out []int32
	for g := range p.groups {
		if len(out) == n {
			break
		}
		if !p.groups[g].present && !skip(int32(g)) {
			out = append(out, int32(g))
		}
	}
	return out
}

// Gain adds a group's pages, all free. Until the step keep, Give spares it.
func (p *Pool) Gain(g int32, keep uint64) {
	e := &p.groups[g]
	*e = group{present: true, first: none, keep: keep}
	p.present++
	for pg := (int(g)+1)*p.per - 1; pg >= int(g)*p.per; pg-- {
		p.putFree(int32(pg))
	}
	if keep > p.now {
		p.kept = append(p.kept, g)
	}
	p.settle(g)
}

// Unkeep lets Give give what Gain asked to spare.
func (p *Pool) Unkeep() {
	for _, g := range p.kept {
		p.groups[g].keep = 0
	}
	p.kept = p.kept[:0]
}

// hold counts a page that somebody began (+1) or ceased (-1) to refer to, or
// nothing but that the group's pages changed.
func (p *Pool) hold(pg int32, by int) {
	g := int32(int(pg) / p.per)
	p.groups[g].held += by
	p.settle(g)
}

// settle brings what is counted of a group up to date.
func (p *Pool) settle(g int32) {
	e := &p.groups[g]
	p.open.put(g, e.present && e.free > 0)
	p.empty.put(g, e.present && e.free == p.per)
	if loose := e.present && e.held == 0; loose != e.loose {
		e.loose = loose
		if loose {
			p.loose++
		} else {
			p.loose--
		}
	}
}

// Givable counts the groups that Give would give in a row: nobody holds a page
// of them, they were not gained just now, and the reserve stays.
func (p *Pool) Givable() int {
	p.kept = slices.DeleteFunc(p.kept, func(g int32) bool { return p.groups[g].keep <= p.now })
	n := p.loose
	for _, g := range p.kept {
		if p.groups[g].loose {
			n--
		}
	}
	return max(0, min(n, (p.Available()-p.reserve)/p.per))
}

// NextUsed tells in which step the group that Give would give next was last
// used: 0 for an empty one. False: there is none.
func (p *Pool) NextUsed() (uint64, bool) {
	if p.Givable() == 0 {
		return 0, false
	}
	if p.lastEmpty() != none {
		return 0, true
	}
	_, used := p.oldest()
	return used, true
}

// Give takes a group out of the pool: the last empty one, or else the one
// whose prefixes were used longest ago, which are forgotten.
func (p *Pool) Give() (int32, bool) {
	if p.Givable() == 0 {
		return none, false
	}
	g := p.lastEmpty()
	if g == none {
		g, _ = p.oldest()
		p.clear(g)
	}
	p.free -= p.per
	p.present--
	e := &p.groups[g]
	*e = group{first: none, loose: e.loose}
	p.settle(g)
	for pg := int(g) * p.per; pg < (int(g)+1)*p.per; pg++ {
		p.pages[pg].next = none
	}
	return g, true
}

// clear forgets the prefixes in a group's pages.
func (p *Pool) clear(g int32) {
	for pg := int(g) * p.per; pg < (int(g)+1)*p.per; pg++ {
		if p.pages[pg].node != 0 {
			p.evict(int32(pg))
		}
	}
}

// lastEmpty finds the last empty group that may be given.
func (p *Pool) lastEmpty() int32 {
	g := p.empty.before(int32(len(p.groups)))
	for g != none && p.groups[g].keep > p.now {
		g = p.empty.before(g)
	}
	return g
}

// oldest finds, among the groups that only the tree holds, the one whose last
// use is longest ago. There is one: the caller has asked Givable.
func (p *Pool) oldest() (int32, uint64) {
	best, age := none, uint64(0)
	seen := map[int32]bool{}
	for e := p.cached.Front(); e != nil; e = e.Next() {
		pg := e.Value.(int32)
		// Groups not met so far were used at least as late as this page.
		if best != none && age <= p.pages[pg].used {
			break
		}
		g := int32(int(pg) / p.per)
		if seen[g] || !p.groups[g].loose || p.groups[g].keep > p.now {
			continue
		}
		seen[g] = true
		if u := p.lastUse(g, e); best == none || u < age {
			best, age = g, u
		}
	}
	return best, age
}

// lastUse is the step of the latest use of a group's cached pages, of which e
// is one.
func (p *Pool) lastUse(g int32, e *list.Element) uint64 {
	used := p.pages[e.Value.(int32)].used
	for pg := int(g) * p.per; pg < (int(g)+1)*p.per; pg++ {
		if q := &p.pages[pg]; q.lru != nil {
			used = max(used, q.used)
		}
	}
	return used
}
