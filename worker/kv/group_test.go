package kv

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestBitset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 9000).Draw(t, "size")
		b, model := newBitset(size), map[int32]bool{}
		for _, i := range rapid.SliceOf(rapid.Int32Range(0, int32(size-1))).Draw(t, "flips") {
			model[i] = !model[i]
			b.put(i, model[i])
			if b.put(i, model[i]); b.has(i) != model[i] {
				t.Fatalf("%d: %v", i, b.has(i))
			}
		}
		var in []int32
		for i, there := range model {
			if there {
				in = append(in, i)
			}
		}
		slices.Sort(in)
		var down []int32
		for i := b.before(int32(size)); i != none; i = b.before(i) {
			down = append(down, i)
		}
		slices.Reverse(down)
		least := none
		if len(in) > 0 {
			least = in[0]
		}
		if b.n != len(in) || b.min() != least || !slices.Equal(in, down) {
			t.Fatalf("%d members, least %d, all %v; want %v", b.n, b.min(), down, in)
		}
	})
}

// TestCompact: pages come from the first group that has one, so that the last
// groups become free again however sequences come and go.
func TestCompact(t *testing.T) {
	p := NewGrouped(8, 4)
	for g := range int32(8) {
		p.Gain(g, 0)
	}
	var tabs []*Table
	for range 8 {
		tab, _ := p.NewTable("", nil)
		tab.Grow(4 * PageSize)
		tabs = append(tabs, tab)
	}
	for _, i := range []int{0, 2, 5} {
		tabs[i].Release()
	}
	tab, _ := p.NewTable("", nil)
	tab.Grow(10 * PageSize)
	if n := p.Givable(); n != 0 {
		t.Errorf("%d of 8 groups are loose, 30 of 32 pages held", n)
	}
	for _, i := range []int{1, 3, 4, 6, 7} {
		tabs[i].Release()
	}
	if n := p.Givable(); n != 5 {
		t.Errorf("%d of 8 groups are loose, want 5: the 10 pages held fit into 3", n)
	}
	if g, _ := p.Give(); g != 7 {
		t.Errorf("group %d is given first, want the last", g)
	}
}

// TestGiveCuts: a group that is given takes with it what can be found only
// through it, in other groups too; pages that a sequence holds stay its own.
func TestGiveCuts(t *testing.T) {
	p := NewPool(6)
	toks := tokens(4*PageSize + 1)
	one := fill(t, p, "", toks[:4*PageSize]) // pages 0 to 3
	two, cached := p.NewTable("", toks)      // holds them as well
	if cached != 4*PageSize {
		t.Fatal(cached)
	}
	one.Release()
	two.Release()
	three, _ := p.NewTable("", toks[:3*PageSize+1]) // holds the first three
	for want := range 3 {                           // 5, 4, 3
		if g, ok := p.Give(); !ok || g != int32(5-want) {
			t.Fatalf("group %d was given, %v", g, ok)
		}
	}
	if g, ok := p.Give(); ok {
		t.Fatalf("group %d was given, which is held", g)
	}
	three.Release()
	// The first page goes: the two behind it are of no use to anybody.
	p.cached.MoveToFront(p.pages[0].lru)
	if g, _ := p.Give(); g != 0 || p.Free() != 2 || p.cached.Len() != 0 {
		t.Errorf("group %d was given; %d pages free, %d cached, want 2 and 0", g, p.Free(), p.cached.Len())
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
}

// TestCutBelowHeld: a sequence goes on below a page that another one published
// and that is gone: nothing of it is found later, nothing is lost.
func TestCutBelowHeld(t *testing.T) {
	p := NewPool(8)
	toks := tokens(4*PageSize + 1)
	a, _ := p.NewTable("", toks)
	b, _ := p.NewTable("", toks)
	if !a.Grow(PageSize) || !b.Grow(4*PageSize) {
		t.Fatal("no pages")
	}
	a.Publish(toks, PageSize)
	b.Publish(toks, 2*PageSize) // its second page hangs below a's first
	a.Release()
	for range 4 { // the empty ones, then a's page
		p.Give()
	}
	if err := p.Check(b); err != nil {
		t.Fatal(err)
	}
	b.Publish(toks, 4*PageSize)
	if _, cached := p.NewTable("", toks); cached != 0 {
		t.Errorf("%d tokens found below a page that is gone", cached)
	}
	b.Release()
	if err := p.Check(); err != nil || p.Free() != 4 || p.cached.Len() != 0 {
		t.Errorf("%d pages free, %d cached, want 4 and 0; %v", p.Free(), p.cached.Len(), err)
	}
}

// TestKept: what was gained just now stays for a while.
func TestKept(t *testing.T) {
	p := NewGrouped(2, 2)
	p.At(10, 0)
	p.Gain(0, 0)
	p.Gain(1, 13)
	for _, step := range []uint64{10, 12} {
		if p.At(step, 0); p.Givable() != 1 {
			t.Errorf("step %d: %d groups can be given, want 1", step, p.Givable())
		}
	}
	p.At(12, 0)
	if g, ok := p.Give(); !ok || g != 0 {
		t.Errorf("group %d given, %v", g, ok)
	}
	if g, ok := p.Give(); ok {
		t.Errorf("group %d given before its time", g)
	}
	p.At(13, 1)
	if g, ok := p.Give(); ok {
		t.Errorf("group %d given though a page is reserved", g)
	}
	p.At(13, 0)
	if g, ok := p.Give(); !ok || g != 1 {
		t.Errorf("group %d given, %v", g, ok)
	}
}
