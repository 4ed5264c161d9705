package kv

type node uint64 // unique for the life of the pool; 0 is no node

type key struct {
	parent node
	tokens [PageSize]int32
}

// tree is the prefix index. A node is a root, one for each digest, or a
// published page.
type tree struct {
	index map[key]int32
	roots map[string]node
	// nodes are those that can be reached, with the first of the pages below.
	nodes map[node]int32
	next  node
}

func newTree() tree {
	return tree{index: map[key]int32{}, roots: map[string]node{}, nodes: map[node]int32{}, next: 1}
}

func (t *tree) newNode() node {
	n := t.next
	t.next++
	t.nodes[n] = none
	return n
}

func (t *tree) root(digest string) node {
	r, ok := t.roots[digest]
	if !ok {
		r = t.newNode()
		t.roots[digest] = r
	}
	return r
}

// alive tells whether a node can be reached from a root.
func (t *tree) alive(n node) bool {
	_, ok := t.nodes[n]
	return ok
}

// publish enters a page under its key, whose parent is alive.
func (p *Pool) publish(pg int32, k key) node {
	e := &p.pages[pg]
	e.node, e.key = p.newNode(), k
	p.index[k] = pg
	e.next, e.prev = p.nodes[k.parent], none
	if e.next != none {
		p.pages[e.next].prev = pg
	}
	p.nodes[k.parent] = pg
	return e.node
}

// unpublish takes a page out of the tree. What is below it must go too.
func (p *Pool) unpublish(pg int32) {
	e := &p.pages[pg]
	switch {
	case e.prev != none:
		p.pages[e.prev].next = e.next
	case p.alive(e.key.parent):
		p.nodes[e.key.parent] = e.next
	}
	if e.next != none {
		p.pages[e.next].prev = e.prev
	}
	delete(p.index, e.key)
	delete(p.nodes, e.node)
	e.node, e.key, e.next, e.prev = 0, key{}, none, none
}

// below appends the pages right below a node.
func (p *Pool) below(pages []int32, n node) []int32 {
	for pg := p.nodes[n]; pg != none; pg = p.pages[pg].next {
		pages = append(pages, pg)
	}
	return pages
}
