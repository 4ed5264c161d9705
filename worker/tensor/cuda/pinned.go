package cuda

import (
	"cmp"
	"slices"
	"sync"
	"unsafe"
)

// Pinned memory is what the device can copy from on its own. Taking some from
// the system costs tens of milliseconds for an adapter's worth, and giving it
// back stops the device, so a backend keeps what it has once got.

const (
	// slabBytes is what is taken from the system at a time, unless more is
	// needed in one piece.
	slabBytes = 128 << 20
	// pinBytes is the unit of that: what the driver pins at a time.
	pinBytes = 2 << 20
	// pinUnit is what blocks are made of: a page, so that blocks share none.
	pinUnit = 4096
)

// pinned is a block of pinned memory.
type pinned struct {
	mem  []byte
	slab int
	from int64
}

// extent is a free piece of a slab: [from, to).
type extent struct{ from, to int64 }

type slab struct {
	mem  []byte
	free []extent // by position, never adjacent
}

// pinnedPool hands out pinned memory. It is safe for concurrent use.
type pinnedPool struct {
	pin  func(bytes int64) (unsafe.Pointer, error)
	slab int64 // bytes taken at a time

	growing sync.Mutex // one takes more from the system, others do not wait

	mu    sync.Mutex
	slabs []slab
	taken int64
}

// take gives a block of at least n > 0 bytes, contents unknown.
func (p *pinnedPool) take(n int64) (pinned, error) {
	n = roundUp64(n, pinUnit)
	if b, ok := p.carve(n); ok {
		return b, nil
	}
	p.growing.Lock()
	defer p.growing.Unlock()
	if b, ok := p.carve(n); ok { // somebody else has grown it meanwhile
		return b, nil
	}
	size := roundUp64(max(n, p.slab), pinBytes)
	mem, err := p.pin(size)
	if err != nil {
		return pinned{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slabs = append(p.slabs, slab{mem: unsafe.Slice((*byte)(mem), size), free: []extent{{0, size}}})
	b, _ := p.carveLocked(n)
	return b, nil
}

func roundUp64(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func (p *pinnedPool) carve(n int64) (pinned, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.carveLocked(n)
}

// carveLocked cuts n bytes off the smallest extent that suffices, which keeps
// the large ones whole.
func (p *pinnedPool) carveLocked(n int64) (pinned, bool) {
	best, at := -1, 0
	for i := range p.slabs {
		for j, e := range p.slabs[i].free {
			if size := e.to - e.from; size >= n && (best < 0 || size < p.slabs[best].free[at].to-p.slabs[best].free[at].from) {
				best, at = i, j
			}
		}
	}
	if best < 0 {
		return pinned{}, false
	}
	s := &p.slabs[best]
	e := &s.free[at]
	b := pinned{mem: s.mem[e.from : e.from+n : e.from+n], slab: best, from: e.from}
	if e.from += n; e.from == e.to {
		s.free = slices.Delete(s.free, at, at+1)
	}
	p.taken += n
	return b, true
}

// give takes a block back.
func (p *pinnedPool) give(b pinned) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slabs[b.slab]
	e := extent{b.from, b.from + int64(len(b.mem))}
	p.taken -= e.to - e.from
	i, _ := slices.BinarySearchFunc(s.free, e, func(a, b extent) int { return cmp.Compare(a.from, b.from) })
	if i < len(s.free) && s.free[i].from == e.to {
		e.to = s.free[i].to
		s.free = slices.Delete(s.free, i, i+1)
	}
	if i > 0 && s.free[i-1].to == e.from {
		s.free[i-1].to = e.to
		return
	}
	s.free = slices.Insert(s.free, i, e)
}

// close gives everything back to the system.
func (p *pinnedPool) close(unpin func(unsafe.Pointer, int64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.slabs {
		unpin(unsafe.Pointer(&s.mem[0]), int64(len(s.mem)))
	}
	p.slabs, p.taken = nil, 0
}
