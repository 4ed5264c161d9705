package conformance

import (
	"errors"
	"fmt"
	"slices"

	"chorale/worker/tensor"
)

// testMemory computes on a cache whose groups come and go, while adapters are
// loaded into the same pool and leave it: every answer is as it was on a cache
// of its own, and everything is given back.
func testMemory(c *check) {
	d := c.device(2, choirRows, ropeSpec(16, 1))
	m := newChoir(d, 16, 0)
	want := m.voices(40, 1, 20, 130, 9, 17)
	m.alone(want)
	layout := m.kv.Layout()
	mem := memoryFor(d, layout, 2)
	m.kv = mem.KV()
	pages, chunks := mem.Group()
	total, free := mem.Chunks()
	most := m.kv.Layout().Pages / pages
	if m.kv.Layout().Pages%pages != 0 || m.kv.Layout().Pages < layout.Pages || free != total || total < most*chunks {
		c.Fatalf("%d pages in groups of %d, %d chunks each; %d of %d chunks free", m.kv.Layout().Pages, pages, chunks, free, total)
	}
	image := testImage(d)
	defer image.Free()
	for round := range 6 {
		// Different groups each time, so that physical memory moves about.
		groups := someGroups(c, most, pages, want)
		must0(c, mem.Grow(groups))
		loaded := must(image.Load())(c)
		got := voicesOn(c, want, groups, pages)
		m.mixed(got, 7+20*round)
		m.compare(fmt.Sprintf("round %d on groups %v", round, groups), got, want)
		mem.Shrink(groups)
		loaded.Free()
	}
	must0(c, mem.Grow([]int32{int32(most - 1)})) // what Shrink left behind is waited for
	mem.Shrink([]int32{int32(most - 1)})
	testMemoryErrors(c, mem, layout)
	must0(c, mem.Close())
}

// memoryFor makes a pool for a cache and spare bytes beside it.
func memoryFor(d device, l tensor.KVLayout, spareMiB int64) tensor.Memory {
	d.Helper()
	// The size of a page is the backend's business: a pool for the pages tells it.
	probe := must(d.NewMemory(tensor.MemoryLayout{KV: l}))(d.check)
	total, _ := probe.Chunks()
	bytes := int64(total) * probe.ChunkBytes()
	must0(d.check, probe.Close())
	l.Pages = 0
	return must(d.NewMemory(tensor.MemoryLayout{Bytes: bytes + spareMiB<<20, KV: l}))(d.check)
}

// testImage is a small adapter.
func testImage(d device) tensor.Image {
	d.Helper()
	a, b := d.random(d.Precision(), 4, 72, 1), d.random(d.Precision(), 96, 4, 1)
	return must(d.NewImage([]tensor.LoRASpec{{Rank: 4, In: 72, Out: 96, Scale: 1, A: a.Rows, B: b.Rows}}, [][]float32{{1, 2, 3}}))(d.check)
}

// someGroups draws as many groups as the voices need, in no order.
func someGroups(c *check, most, pages int, voices []*voice) []int32 {
	need := 0
	for _, v := range voices {
		need += len(v.pages)
	}
	var groups []int32
	for _, g := range c.rng.Perm(most)[:(need+pages-1)/pages] {
		groups = append(groups, int32(g))
	}
	return groups
}

// voicesOn begins the voices anew, on pages of groups.
func voicesOn(c *check, voices []*voice, groups []int32, pages int) []*voice {
	var free []int32
	for _, g := range groups {
		for i := range pages {
			free = append(free, g*int32(pages)+int32(i))
		}
	}
	c.rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	out := again(voices)
	for i, v := range out {
		v.pages = slices.Clone(free[:len(voices[i].pages)])
		free = free[len(v.pages):]
	}
	return out
}

func testMemoryErrors(c *check, mem tensor.Memory, l tensor.KVLayout) {
	d := c.device(1, 8)
	for name, f := range map[string]func() error{
		"no group there": func() error { return mem.Grow([]int32{1 << 20}) },
		"negative group": func() error { return mem.Grow([]int32{-1}) },
	} {
		if err := f(); !errors.Is(err, tensor.ErrShape) {
			c.Errorf("%s: %v", name, err)
		}
	}
	l.Pages = 0
	for name, layout := range map[string]tensor.MemoryLayout{
		"nothing": {KV: l}, "too little": {Bytes: 100, KV: l},
	} {
		if _, err := d.NewMemory(layout); !errors.Is(err, tensor.ErrOutOfMemory) {
			c.Errorf("%s: %v", name, err)
		}
	}
	l.HeadDim = 0
	if _, err := d.NewMemory(tensor.MemoryLayout{Bytes: 1 << 30, KV: l}); err == nil {
		c.Error("heads of no size are served")
	}
}

// must0 ends the test with an error.
func must0(c *check, err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}
