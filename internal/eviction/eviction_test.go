package eviction

import "testing"

func TestParse(t *testing.T) {
	for _, p := range []Policy{LRU, LFU} {
		if got, err := Parse(p.String()); err != nil || got != p {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	if _, err := Parse("fifo"); err == nil || err.Error() != `eviction policy "fifo": want lru or lfu` {
		t.Errorf("an unknown policy: %v", err)
	}
}

func TestLRUCountsNothing(t *testing.T) {
	c := NewCounter(LRU)
	var a, b Uses
	for range 1000 {
		c.Use(&a, 1)
	}
	if c.Compare(a, b) != 0 || !c.Forgotten(a) {
		t.Errorf("%+v", a)
	}
}

func TestCountsAge(t *testing.T) {
	const places = 1
	c := NewCounter(LFU)
	var hot, once, other Uses
	for range 40 {
		c.Use(&hot, places)
	}
	c.Use(&once, places)
	if c.Compare(once, hot) >= 0 || c.Compare(hot, once) <= 0 || c.Compare(hot, hot) != 0 {
		t.Fatalf("hot %+v, once %+v", hot, once)
	}
	// 41 uses are seen. Hot and once both halve with each window, in the same order,
	// until nothing is left of either.
	for i := range 8 * Window(places) {
		c.Use(&other, places)
		if c.Compare(once, hot) > 0 {
			t.Fatalf("after %d uses once is worth more than hot", i)
		}
	}
	if c.Forgotten(hot) || !c.Forgotten(once) && c.Compare(once, hot) >= 0 {
		t.Errorf("after 8 windows hot is %d, once %d", c.now(hot), c.now(once))
	}
	for range 8 * Window(places) {
		c.Use(&other, places)
	}
	if !c.Forgotten(hot) || !c.Forgotten(once) || c.Forgotten(other) {
		t.Errorf("after 16 windows hot is %d, once %d, the other %d", c.now(hot), c.now(once), c.now(other))
	}
	// A steady count stays below two windows' worth.
	if most := uint64(2 * Window(places) * one); c.now(other) > most {
		t.Errorf("the count is %d, at most %d is possible", c.now(other), most)
	}
	// A use after a long time begins anew.
	c.Use(&hot, places)
	if c.now(hot) != one {
		t.Errorf("a use after a long time counts %d", c.now(hot))
	}
}

func TestWindow(t *testing.T) {
	if Window(0) != 64 || Window(4) != 64 || Window(100) != 1600 {
		t.Errorf("%d, %d, %d", Window(0), Window(4), Window(100))
	}
}
