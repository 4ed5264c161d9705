package chunk

import (
	"errors"
	"fmt"
	"sync"

	"chorale/worker/tensor"
)

// Handle is a chunk of physical memory, as its device names it.
type Handle uint64

// Device makes chunks and maps them to addresses. Its methods may be called by
// several goroutines at once, for different addresses.
type Device interface {
	// ChunkBytes is the size of a chunk.
	ChunkBytes() int64
	// Create makes n chunks, or none: tensor.ErrOutOfMemory.
	Create(n int) ([]Handle, error)
	// Release destroys chunks, which are mapped nowhere.
	Release(hs []Handle) error
	// Reserve takes addresses for n chunks, Unreserve gives them back.
	Reserve(n int) (uintptr, error)
	Unreserve(at uintptr, n int) error
	// Map puts chunks at reserved addresses, one after another, all or none.
	Map(at uintptr, hs []Handle) error
	// Unmap takes n chunks away from their addresses. It does not wait for the
	// device's work.
	Unmap(at uintptr, n int) error
	// Clear fills n mapped chunks with zeros and returns when it is done.
	Clear(at uintptr, n int) error
}

// ErrBusy reports a pool that is closed before all was given back.
var ErrBusy = errors.New("memory pool is in use")

// Pool is a fixed number of chunks. It is safe for concurrent use.
type Pool struct {
	d     Device
	total int

	mu      sync.Mutex
	changed *sync.Cond // of mu: chunks were unmapped, or the pool failed
	free    []Handle
	coming  int // chunks in returns
	returns []giveBack
	working bool  // a goroutine is at the returns
	failed  error // the first failure to unmap: the device is lost
}

// giveBack is chunks to unmap.
type giveBack struct {
	at uintptr
	hs []Handle
	// done is called with the pool's lock held, after the chunks are free.
	done func()
	// unreserve tells that the addresses go as well.
	unreserve bool
}

// New makes a pool of n chunks.
func New(d Device, n int) (*Pool, error) {
	if n <= 0 {
		return nil, fmt.Errorf("memory pool of %d chunks: %w", n, tensor.ErrShape)
	}
	free, err := d.Create(n)
	if err != nil {
		return nil, fmt.Errorf("memory pool of %d chunks of %d KiB: %w", n, d.ChunkBytes()>>10, err)
	}
	p := &Pool{d: d, total: n, free: free}
	p.changed = sync.NewCond(&p.mu)
	return p, nil
}

// Close destroys the chunks, all of which have been given back: ErrBusy.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.working {
		p.changed.Wait()
	}
	if p.failed != nil {
		return p.failed
	}
	if len(p.free) != p.total {
		return fmt.Errorf("%w: %d of %d chunks are free", ErrBusy, len(p.free), p.total)
	}
	hs := p.free
	p.free, p.total = nil, 0
	return p.d.Release(hs)
}

// Chunks counts all chunks and those that are mapped nowhere.
func (p *Pool) Chunks() (total, free int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total, len(p.free)
}

// take gives n chunks. It waits for chunks that were given back, but not for
// such as nobody has given back: tensor.ErrOutOfMemory.
func (p *Pool) take(n int) ([]Handle, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.free) < n {
		if p.failed != nil {
			return nil, p.failed
		}
		if len(p.free)+p.coming < n {
			return nil, fmt.Errorf("%d chunks are wanted, %d of %d are free: %w", n, len(p.free)+p.coming, p.total, tensor.ErrOutOfMemory)
		}
		p.changed.Wait()
	}
	rest := len(p.free) - n
	hs := append([]Handle(nil), p.free[rest:]...)
	p.free = p.free[:rest]
	return hs, nil
}

// put makes chunks free that are mapped nowhere.
func (p *Pool) put(hs []Handle) {
	p.mu.Lock()
	p.free = append(p.free, hs...)
	p.changed.Broadcast()
	p.mu.Unlock()
}

// give leaves chunks to be unmapped. The caller holds the lock.
func (p *Pool) give(g giveBack) {
	p.returns = append(p.returns, g)
	p.coming += len(g.hs)
	if !p.working {
		p.working = true
		go p.work()
	}
}

// work unmaps what was given back until there is nothing left.
func (p *Pool) work() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.returns) > 0 {
		g := p.returns[0]
		p.returns = p.returns[1:]
		p.mu.Unlock()
		err := p.d.Unmap(g.at, len(g.hs))
		if err == nil && g.unreserve {
			err = p.d.Unreserve(g.at, len(g.hs))
		}
		p.mu.Lock()
		p.coming -= len(g.hs)
		if err == nil {
			p.free = append(p.free, g.hs...)
		} else if p.failed == nil {
			p.failed = fmt.Errorf("giving memory back: %w", err)
		}
		if g.done != nil {
			g.done()
		}
		p.changed.Broadcast()
	}
	p.working = false
	p.changed.Broadcast()
}

// Range is memory at one run of addresses.
type Range struct {
	p    *Pool
	at   uintptr
	size int64
	hs   []Handle
}

// Alloc gives a range of at least bytes, contents unknown. It may wait for
// chunks that were given back.
func (p *Pool) Alloc(bytes int64) (*Range, error) {
	chunk := p.d.ChunkBytes()
	if bytes <= 0 {
		return nil, fmt.Errorf("memory range of %d bytes: %w", bytes, tensor.ErrShape)
	}
	n := int((bytes + chunk - 1) / chunk)
	hs, err := p.take(n)
	if err != nil {
		return nil, fmt.Errorf("memory range of %d bytes: %w", bytes, err)
	}
	at, err := p.d.Reserve(n)
	if err == nil {
		if err = p.d.Map(at, hs); err == nil {
			return &Range{p: p, at: at, size: bytes, hs: hs}, nil
		}
		_ = p.d.Unreserve(at, n) // Map's error is the cause
	}
	p.put(hs)
	return nil, fmt.Errorf("memory range of %d bytes: %w", bytes, err)
}

// Address is where the range begins, Bytes its size as asked for.
func (r *Range) Address() uintptr { return r.at }

// Bytes is the size that was asked for.
func (r *Range) Bytes() int64 { return r.size }

// Free gives the range back. It returns at once; a second call does nothing.
func (r *Range) Free() {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if len(r.hs) > 0 {
		r.p.give(giveBack{at: r.at, hs: r.hs, unreserve: true})
		r.hs = nil
	}
}
