package kv

import "testing"

func tokens(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	return out
}

// fill computes and publishes a sequence.
func fill(t *testing.T, p *Pool, digest string, toks []int32) *Table {
	t.Helper()
	tab, cached := p.NewTable(digest, toks)
	if cached != 0 {
		t.Fatalf("%d tokens of a new text are cached", cached)
	}
	if !tab.Grow(len(toks)) {
		t.Fatal("no pages")
	}
	tab.Publish(toks, len(toks))
	return tab
}

// TestDigests: the same tokens under another digest are never shared.
func TestDigests(t *testing.T) {
	p := NewPool(8)
	toks := tokens(2*PageSize + 1)
	fill(t, p, "a", toks).Release()
	for _, d := range []string{"", "b", "A", "a "} {
		if tab, cached := p.NewTable(d, toks); cached != 0 || len(tab.Pages) != 0 {
			t.Errorf("digest %q finds %d tokens of digest a", d, cached)
		}
	}
	if _, cached := p.NewTable("a", toks); cached != 2*PageSize {
		t.Errorf("digest a finds %d of its tokens", cached)
	}
}

// TestOneTokenLeft: a prompt that is cached to its end still computes its last
// token, whose logits are wanted.
func TestOneTokenLeft(t *testing.T) {
	p := NewPool(4)
	toks := tokens(2 * PageSize)
	fill(t, p, "", toks).Release()
	for n, want := range map[int]int{0: 0, 1: 0, PageSize: 0, PageSize + 1: PageSize, 2 * PageSize: PageSize} {
		tab, cached := p.NewTable("", toks[:n])
		if cached != want {
			t.Errorf("%d of %d tokens cached, want %d", cached, n, want)
		}
		tab.Release()
	}
}

// TestFlush: pages held across a Flush stay their sequence's, and neither they
// nor what follows them is ever found again.
func TestFlush(t *testing.T) {
	p := NewPool(8)
	toks := tokens(3 * PageSize)
	old := fill(t, p, "", toks[:2*PageSize])
	if n := p.Flush(); n != 0 {
		t.Errorf("%d held pages were flushed", n)
	}
	if err := p.Check(old); err != nil {
		t.Fatal(err)
	}
	fresh, cached := p.NewTable("", toks)
	if cached != 0 {
		t.Fatalf("%d tokens found after a flush", cached)
	}
	if !old.Grow(3*PageSize) || !fresh.Grow(2*PageSize) {
		t.Fatal("no pages")
	}
	old.Publish(toks, 3*PageSize)
	fresh.Publish(toks, 2*PageSize)
	if err := p.Check(old, fresh); err != nil {
		t.Fatal(err)
	}
	late, cached := p.NewTable("", append(toks, 1))
	if cached != 2*PageSize || late.Pages[0] != fresh.Pages[0] || late.Pages[1] != fresh.Pages[1] {
		t.Errorf("%d tokens found in %v; the fresh ones are in %v", cached, late.Pages, fresh.Pages)
	}
	for _, tab := range []*Table{old, fresh, late} {
		tab.Release()
	}
	if err := p.Check(); err != nil || p.Held() != 0 {
		t.Errorf("%d pages held by nobody, %v", p.Held(), err)
	}
	// What was flushed while held is of no use, nor what was computed after it:
	// only as much is cached as can be found.
	if p.cached.Len() != 2 {
		t.Errorf("%d pages cached, 2 can be found", p.cached.Len())
	}
}

// TestForget: a digest that comes back starts anew.
func TestForget(t *testing.T) {
	p := NewPool(4)
	toks := tokens(PageSize + 1)
	held := fill(t, p, "a", toks)
	p.Forget("a")
	if _, cached := p.NewTable("a", toks); cached != 0 {
		t.Errorf("%d tokens of a forgotten digest found", cached)
	}
	held.Release()
	for range 3 { // its pages are reused as their turn comes
		tab, _ := p.NewTable("b", nil)
		if !tab.Grow(4 * PageSize) {
			t.Fatal("pages of a forgotten digest are lost")
		}
		tab.Release()
	}
}

// TestEvictionOrder: the cached prefix that was given back first goes first,
// and of one prefix its end before its beginning.
func TestEvictionOrder(t *testing.T) {
	p := NewPool(4)
	one, two := tokens(2*PageSize+1), tokens(2*PageSize)
	two[0] = 99
	a := fill(t, p, "", one[:2*PageSize])
	b := fill(t, p, "", two)
	a.Release()
	b.Release()
	grab := func() *Table {
		tab, _ := p.NewTable("x", nil)
		if !tab.Grow(PageSize) {
			t.Fatal("no page")
		}
		return tab
	}
	for i, want := range []int{PageSize, 0} {
		grab()
		tab, cached := p.NewTable("", one)
		if cached != want {
			t.Errorf("after %d evictions %d tokens of the first prefix are left, want %d", i+1, cached, want)
		}
		_ = tab
		tab.Release()
		if i == 0 { // it was used just now; let the other be the older one again
			tab, _ := p.NewTable("", append(two[:2*PageSize:2*PageSize], 0))
			tab.Release()
		}
	}
}

// TestDuplicates: two sequences compute the same prefix at the same time; one
// page each is published, what hangs below is shared by later ones.
func TestDuplicates(t *testing.T) {
	p := NewPool(8)
	toks := tokens(3 * PageSize)
	a, _ := p.NewTable("", toks)
	b, _ := p.NewTable("", toks)
	if !a.Grow(2*PageSize) || !b.Grow(3*PageSize) {
		t.Fatal("no pages")
	}
	a.Publish(toks, 2*PageSize)
	b.Publish(toks, 3*PageSize)
	if err := p.Check(a, b); err != nil {
		t.Fatal(err)
	}
	c, cached := p.NewTable("", append(toks, 7))
	if cached != 3*PageSize || c.Pages[0] != a.Pages[0] || c.Pages[2] != b.Pages[2] {
		t.Errorf("%d tokens found in %v; a has %v, b %v", cached, c.Pages, a.Pages, b.Pages)
	}
	for _, tab := range []*Table{a, b, c} {
		tab.Release()
		tab.Release() // a second release gives nothing back twice
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	if p.Free() != 5 { // 3 unused, and b's two duplicates
		t.Errorf("%d pages free, want 5", p.Free())
	}
}

// TestCheck: Check finds what it promises to find.
func TestCheck(t *testing.T) {
	toks := tokens(PageSize)
	for name, spoil := range map[string]func(p *Pool, tab *Table){
		"reference lost":   func(p *Pool, tab *Table) { p.pages[tab.Pages[0]].refs = 0 },
		"held and cached":  func(p *Pool, tab *Table) { p.pages[tab.Pages[0]].lru = p.cached.PushBack(tab.Pages[0]) },
		"held and free":    func(p *Pool, tab *Table) { p.putFree(tab.Pages[0]) },
		"free twice":       func(p *Pool, _ *Table) { p.putFree(p.groups[3].first) },
		"index misleads":   func(p *Pool, tab *Table) { p.pages[tab.Pages[0]].key.parent++ },
		"cut from tree":    func(p *Pool, tab *Table) { p.nodes[p.roots[""]] = none },
		"page disappeared": func(p *Pool, _ *Table) { p.groups[3].first = none },
		"group miscounted": func(p *Pool, tab *Table) { p.hold(tab.Pages[0], 1) },
		"group not in set": func(p *Pool, _ *Table) { p.open.put(2, false) },
		"loose miscounted": func(p *Pool, _ *Table) { p.loose-- },
	} {
		p := NewPool(4)
		tab := fill(t, p, "", toks)
		if err := p.Check(tab); err != nil {
			t.Fatal(err)
		}
		spoil(p, tab)
		if p.Check(tab) == nil {
			t.Errorf("%s: not found", name)
		}
	}
}
