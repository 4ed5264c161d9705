package kv

import (
	"container/list"
	"fmt"
)

// PageSize is the number of tokens in a page.
const PageSize = 16

type node uint64 // unique for the life of the pool; 0 is no node

type key struct {
	parent node
	tokens [PageSize]int32
}

type page struct {
	refs int
	// node and key are set when the page is published.
	node node
	key  key
	// lru is the page's place among the cached ones, nil unless cached.
	lru *list.Element
}

// Pool owns all pages. It is not safe for concurrent use: the engine's
// goroutine owns it.
type Pool struct {
	pages  []page
	free   []int32
	cached *list.List // of int32, least recently used first
	index  map[key]int32
	roots  map[string]node
	next   node
}

// NewPool makes a pool of n pages, all free.
func NewPool(n int) *Pool {
	p := &Pool{
		pages: make([]page, n), free: make([]int32, 0, n),
		cached: list.New(), index: map[key]int32{}, roots: map[string]node{}, next: 1,
	}
	for i := n - 1; i >= 0; i-- {
		p.free = append(p.free, int32(i))
	}
	return p
}

// Len is the number of pages.
func (p *Pool) Len() int { return len(p.pages) }

// Available counts the pages that Alloc can still give: free and cached ones.
func (p *Pool) Available() int { return len(p.free) + p.cached.Len() }

// Held counts the pages that sequences refer to.
func (p *Pool) Held() int { return len(p.pages) - p.Available() }

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

func (p *Pool) root(digest string) node {
	r, ok := p.roots[digest]
	if !ok {
		r = p.next
		p.next++
		p.roots[digest] = r
	}
	return r
}

func (p *Pool) take(pg int32) {
	e := &p.pages[pg]
	if e.refs == 0 {
		p.cached.Remove(e.lru)
		e.lru = nil
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

// alloc gives a page with one reference; the caller has checked Available.
func (p *Pool) alloc() int32 {
	if n := len(p.free); n > 0 {
		pg := p.free[n-1]
		p.free = p.free[:n-1]
		p.pages[pg].refs = 1
		return pg
	}
	front := p.cached.Front()
	pg := front.Value.(int32)
	p.cached.Remove(front)
	e := &p.pages[pg]
	delete(p.index, e.key)
	*e = page{refs: 1}
	return pg
}

// Publish offers the pages that tokens[:computed] fill for sharing. tokens are
// the sequence's tokens from its start.
func (t *Table) Publish(tokens []int32, computed int) {
	p := t.pool
	for (t.published+1)*PageSize <= computed {
		k := key{parent: t.tail}
		copy(k.tokens[:], tokens[t.published*PageSize:])
		pg := t.Pages[t.published]
		if other, ok := p.index[k]; ok {
			// Somebody published the same prefix first. This table keeps its own
			// page, but hangs what follows under the published one.
			t.tail = p.pages[other].node
		} else {
			e := &p.pages[pg]
			e.node, e.key = p.next, k
			p.next++
			p.index[k] = pg
			t.tail = e.node
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
			e.lru = p.cached.PushBack(pg)
		} else {
			p.free = append(p.free, pg)
		}
	}
	t.Pages, t.published = nil, 0
}

// Flush forgets all prefixes: no page held now is found by later sequences.
// It returns the number of cached pages given up.
func (p *Pool) Flush() int {
	n := p.cached.Len()
	for e := p.cached.Front(); e != nil; e = p.cached.Front() {
		pg := e.Value.(int32)
		p.cached.Remove(e)
		p.pages[pg] = page{}
		p.free = append(p.free, pg)
	}
	clear(p.index)
	clear(p.roots)
	for i := range p.pages {
		p.pages[i].node, p.pages[i].key = 0, key{}
	}
	return n
}

// Forget drops the prefixes of a digest that will not come back. Its pages
// are reused as their turn comes.
func (p *Pool) Forget(digest string) { delete(p.roots, digest) }

// Check verifies the pool's invariants against the tables in use, for tests.
func (p *Pool) Check(tables ...*Table) error {
	refs := make([]int, len(p.pages))
	for _, t := range tables {
		for _, pg := range t.Pages {
			refs[pg]++
		}
	}
	for pg, e := range p.pages {
		if e.refs != refs[pg] {
			return fmt.Errorf("kv: page %d has %d references, %d tables hold it", pg, e.refs, refs[pg])
		}
		if (e.lru != nil) != (e.refs == 0 && e.node != 0) {
			return fmt.Errorf("kv: page %d: refs %d, node %d, cached %v", pg, e.refs, e.node, e.lru != nil)
		}
	}
	for _, pg := range p.free {
		if e := p.pages[pg]; e.refs != 0 || e.node != 0 {
			return fmt.Errorf("kv: free page %d has refs %d, node %d", pg, e.refs, e.node)
		}
		refs[pg] = -1
	}
	held := 0
	for _, r := range refs {
		if r > 0 {
			held++
		}
	}
	if held+len(p.free)+p.cached.Len() != len(p.pages) {
		return fmt.Errorf("kv: %d held + %d free + %d cached pages are not %d", held, len(p.free), p.cached.Len(), len(p.pages))
	}
	for k, pg := range p.index {
		if p.pages[pg].key != k || p.pages[pg].node == 0 {
			return fmt.Errorf("kv: index points to page %d with another key", pg)
		}
	}
	return nil
}
