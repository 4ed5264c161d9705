package kv

import "container/list"

// PageSize is the number of tokens in a page.
const PageSize = 16

// none ends a chain of pages.
const none = int32(-1)

type page struct {
	refs int
	// node and key are set while the page is published.
	node node
	key  key
	// next and prev chain the published pages below one parent, and next the
	// free pages of a group.
	next, prev int32
	// lru is the page's place among the cached ones, nil unless cached; used is
	// the step in which it was given back.
	lru  *list.Element
	used uint64
}

// Pool owns all pages. It is not safe for concurrent use: the engine's
// goroutine owns it.
type Pool struct {
	pages  []page
	per    int // pages in a group
	groups []group
	// open are the groups that have a free page, empty those that have no other.
	open, empty bitset
	// present counts the groups that are there, loose those of them in which
	// nobody holds a page, free the free pages.
	present, loose, free int
	kept                 []int32 // groups that Give is to spare for a while

	cached *list.List // of int32, least recently used first
	tree
	now uint64
	// reserve is how many pages Give leaves available.
	reserve int
}

// NewPool makes a pool of n pages, all free, each a group of its own.
func NewPool(n int) *Pool {
	p := NewGrouped(n, 1)
	for g := range n {
		p.Gain(int32(g), 0)
	}
	return p
}

// NewGrouped makes a pool of at most groups groups of per pages. None is there
// before Gain brings it.
func NewGrouped(groups, per int) *Pool {
	p := &Pool{
		pages: make([]page, groups*per), per: per, groups: make([]group, groups),
		open: newBitset(groups), empty: newBitset(groups),
		cached: list.New(), tree: newTree(),
	}
	for i := range p.pages {
		p.pages[i].next, p.pages[i].prev = none, none
	}
	for g := range p.groups {
		p.groups[g].first = none
	}
	return p
}

// Len is the number of pages that are there.
func (p *Pool) Len() int { return p.present * p.per }

// Available counts the pages that Grow can still give: free and cached ones.
func (p *Pool) Available() int { return p.free + p.cached.Len() }

// Free counts the pages that Grow can give without forgetting a prefix.
func (p *Pool) Free() int { return p.free }

// Held counts the pages that sequences refer to.
func (p *Pool) Held() int { return p.Len() - p.Available() }

// At tells the pool the step, by which it knows what was used when, and how
// many pages Give must leave available for those who run.
func (p *Pool) At(step uint64, reserve int) { p.now, p.reserve = step, reserve }

// Table is one sequence's pages in order. Its zero value is not usable: get
// one from Pool.NewTable and end it with Release.
type Table struct {
	pool *Pool
	// Pages are the page numbers, position i in Pages[i/PageSize].
	Pages []int32
	// tail is the tree node of the last published page (or the root), and
	// published how many pages are.
	tail      node
	published int
}

// NewTable starts a table for a sequence under an adapter (digest "" is the
// base model) and takes the longest published prefix of tokens into it. At
// least one token is always left to compute. It returns the number of cached
// tokens.
func (p *Pool) NewTable(digest string, tokens []int32) (*Table, int) {
	t := &Table{pool: p, tail: p.root(digest)}
	for len(tokens)-t.published*PageSize > PageSize {
		k := key{parent: t.tail}
		copy(k.tokens[:], tokens[t.published*PageSize:])
		pg, ok := p.index[k]
		if !ok {
			break
		}
		p.take(pg)
		t.Pages = append(t.Pages, pg)
		t.tail = p.pages[pg].node
		t.published++
	}
	return t, t.published * PageSize
}

// take refers to a published page.
func (p *Pool) take(pg int32) {
	e := &p.pages[pg]
	if e.refs == 0 {
		p.cached.Remove(e.lru)
		e.lru = nil
		p.hold(pg, 1)
	}
	e.refs++
}

// Grow makes room for tokens tokens in all. It returns false, taking nothing,
// when the pool cannot give the pages.
func (t *Table) Grow(tokens int) bool {
	need := (tokens+PageSize-1)/PageSize - len(t.Pages)
	if need <= 0 {
		return true
	}
	if need > t.pool.Available() {
		return false
	}
	for range need {
		t.Pages = append(t.Pages, t.pool.alloc())
	}
	return true
}

// Lacks counts the pages that are missing from the pool for Grow to succeed.
func (t *Table) Lacks(tokens int) int {
	need := (tokens+PageSize-1)/PageSize - len(t.Pages)
	return max(0, need-t.pool.Available())
}

// alloc gives a page with one reference, from the first group that has one,
// so that the last ones become empty. The caller has checked Available.
func (p *Pool) alloc() int32 {
	if p.free == 0 {
		p.evict(p.cached.Front().Value.(int32))
	}
	g := p.open.min()
	pg := p.groups[g].first
	e := &p.pages[pg]
	p.groups[g].first, e.next = e.next, none
	p.groups[g].free--
	p.free--
	e.refs = 1
	p.hold(pg, 1)
	return pg
}

// Publish offers the pages that tokens[:computed] fill for sharing. tokens are
// the sequence's tokens from its start.
func (t *Table) Publish(tokens []int32, computed int) {
	p := t.pool
	for (t.published+1)*PageSize <= computed {
		if p.alive(t.tail) { // else what came before was forgotten: nobody would find this
			k := key{parent: t.tail}
			copy(k.tokens[:], tokens[t.published*PageSize:])
			pg := t.Pages[t.published]
			if other, ok := p.index[k]; ok {
				// Somebody published the same prefix first. This table keeps its own
				// page, but hangs what follows under the published one.
				t.tail = p.pages[other].node
			} else {
				t.tail = p.publish(pg, k)
			}
		}
		t.published++
	}
}

// Release gives all pages back; published ones stay findable until their
// space is needed. The table is empty afterwards.
func (t *Table) Release() {
	p := t.pool
	// Last page first, so that a prefix outlives what hangs under it.
	for i := len(t.Pages) - 1; i >= 0; i-- {
		pg := t.Pages[i]
		e := &p.pages[pg]
		if e.refs--; e.refs > 0 {
			continue
		}
		if e.node != 0 {
			e.lru, e.used = p.cached.PushBack(pg), p.now
		} else {
			p.putFree(pg)
		}
		p.hold(pg, -1)
	}
	t.Pages, t.published = nil, 0
}

// putFree returns an unpublished page to its group.
func (p *Pool) putFree(pg int32) {
	g := &p.groups[int(pg)/p.per]
	p.pages[pg].next = g.first
	g.first = pg
	g.free++
	p.free++
}

// evict forgets a cached page and what nobody can find without it.
func (p *Pool) evict(pg int32) { p.prune([]int32{pg}) }

// prune takes pages, and all below them, out of the tree; those that nobody
// holds become free.
func (p *Pool) prune(stack []int32) {
	for len(stack) > 0 {
		pg := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		stack = p.below(stack, p.pages[pg].node)
		p.unpublish(pg)
		if e := &p.pages[pg]; e.refs == 0 {
			p.cached.Remove(e.lru)
			e.lru = nil
			p.putFree(pg)
			p.hold(pg, 0)
		}
	}
}

// Flush forgets all prefixes: no page held now is found by later sequences.
// It returns the number of cached pages given up.
func (p *Pool) Flush() int {
	n := p.cached.Len()
	for digest := range p.roots {
		p.Forget(digest)
	}
	return n
}

// Forget drops the prefixes of a digest that will not come back. Pages that
// nobody holds are free at once.
func (p *Pool) Forget(digest string) {
	r, ok := p.roots[digest]
	if !ok {
		return
	}
	p.prune(p.below(nil, r))
	delete(p.nodes, r)
	delete(p.roots, digest)
}
