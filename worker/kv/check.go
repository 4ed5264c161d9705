package kv

import "fmt"

// Check verifies the pool's invariants against the tables in use, for tests.
func (p *Pool) Check(tables ...*Table) error {
	refs := make([]int, len(p.pages))
	for _, t := range tables {
		for _, pg := range t.Pages {
			refs[pg]++
		}
	}
	for _, check := range []func(refs []int) error{p.checkPages, p.checkGroups, p.checkTree} {
		if err := check(refs); err != nil {
			return err
		}
	}
	return nil
}

// checkPages compares each page's state with who refers to it.
func (p *Pool) checkPages(refs []int) error {
	cached := 0
	for pg, e := range p.pages {
		if e.refs != refs[pg] {
			return fmt.Errorf("kv: page %d has %d references, %d tables hold it", pg, e.refs, refs[pg])
		}
		if (e.lru != nil) != (e.refs == 0 && e.node != 0) {
			return fmt.Errorf("kv: page %d: refs %d, node %d, cached %v", pg, e.refs, e.node, e.lru != nil)
		}
		if there := p.groups[pg/p.per].present; !there && (e.refs != 0 || e.node != 0) {
			return fmt.Errorf("kv: page %d, of a group that is not there, has refs %d, node %d", pg, e.refs, e.node)
		}
		if e.lru != nil {
			cached++
		}
	}
	if cached != p.cached.Len() {
		return fmt.Errorf("kv: %d pages are cached, %d are in the list", cached, p.cached.Len())
	}
	return nil
}

// checkGroups compares what is counted of the groups with their pages.
func (p *Pool) checkGroups(refs []int) error {
	present, loose, free := 0, 0, 0
	for g := range p.groups {
		e := &p.groups[g]
		held, freeHere := 0, 0
		for pg := g * p.per; pg < (g+1)*p.per; pg++ {
			if refs[pg] > 0 {
				held++
			}
		}
		for pg := e.first; pg != none; pg = p.pages[pg].next {
			if q := p.pages[pg]; q.refs != 0 || q.node != 0 || int(pg)/p.per != g || freeHere > p.per {
				return fmt.Errorf("kv: free page %d of group %d has refs %d, node %d", pg, g, q.refs, q.node)
			}
			freeHere++
		}
		cached := 0
		for pg := g * p.per; pg < (g+1)*p.per; pg++ {
			if p.pages[pg].lru != nil {
				cached++
			}
		}
		whole := 0
		if e.present {
			present++
			whole = p.per
		}
		if e.held != held || e.free != freeHere || held+freeHere+cached != whole {
			return fmt.Errorf("kv: group %d: %d held (counted %d) + %d free (counted %d) + %d cached pages are not %d", g, held, e.held, freeHere, e.free, cached, whole)
		}
		if e.loose != (e.present && held == 0) || p.open.has(int32(g)) != (freeHere > 0) || p.empty.has(int32(g)) != (e.present && freeHere == p.per) {
			return fmt.Errorf("kv: group %d is in the wrong set", g)
		}
		if e.loose {
			loose++
		}
		free += freeHere
	}
	if present != p.present || loose != p.loose || free != p.free {
		return fmt.Errorf("kv: %d groups, %d loose, %d free pages; counted %d, %d, %d", present, loose, free, p.present, p.loose, p.free)
	}
	return nil
}

// checkTree verifies that all that is published, and only that, is found from
// a root.
func (p *Pool) checkTree([]int) error {
	reached := 0
	var stack []int32
	for _, r := range p.roots {
		stack = p.below(stack, r)
	}
	for len(stack) > 0 {
		pg := stack[len(stack)-1]
		e := &p.pages[pg]
		if other, ok := p.index[e.key]; !ok || other != pg || e.node == 0 || !p.alive(e.key.parent) {
			return fmt.Errorf("kv: page %d is in the tree, the index has %d for it", pg, other)
		}
		if reached++; reached > len(p.index) {
			break
		}
		stack = p.below(stack[:len(stack)-1], e.node)
	}
	published := 0
	for pg := range p.pages {
		if p.pages[pg].node != 0 {
			published++
		}
	}
	if reached != len(p.index) || published != reached || len(p.nodes) != published+len(p.roots) {
		return fmt.Errorf("kv: %d pages are published, %d are in the index, %d are found, of %d nodes", published, len(p.index), reached, len(p.nodes))
	}
	return nil
}
