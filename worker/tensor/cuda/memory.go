package cuda

import (
	"errors"
	"fmt"
	"sync"

	"chorale/worker/tensor"
	"chorale/worker/tensor/chunk"
)

// chunkDriver makes and maps chunks of the device's memory.
type chunkDriver interface {
	chunk.Device
	// read copies device memory to the host, for tests.
	read(to []byte, from addr) error
	close() error
}

// memoryPool is the pool that cache and adapters share.
type memoryPool struct {
	*chunk.Memory
	d      chunkDriver
	ranges *poolRanges
}

var _ tensor.Memory = (*memoryPool)(nil)

// NewMemory makes a pool with a cache. Images that are loaded from now on take
// their memory of it. A backend has one pool at a time.
func (b *Backend) NewMemory(l tensor.MemoryLayout) (tensor.Memory, error) {
	half, err := checkCache(l.KV)
	if err != nil {
		return nil, err
	}
	m := &memoryPool{ranges: b.ranges}
	if m.d, err = b.d.chunks(); err != nil {
		return nil, fmt.Errorf("cuda: memory pool: %w", err)
	}
	m.Memory, err = chunk.NewMemory(m.d, l, int64(l.KV.Layers)*4*half, func(l tensor.KVLayout, at uintptr, stride, bytes int64) tensor.KV {
		return &kvCache{memory: memory{at: at, bytes: bytes}, layout: l, stride: stride / 2}
	})
	if err == nil {
		err = b.ranges.enter(m.Pool)
		if err == nil {
			return m, nil
		}
		err = errors.Join(err, m.Memory.Close())
	}
	return nil, fmt.Errorf("cuda: %w", errors.Join(err, m.d.close()))
}

// Close frees the pool. Images must have been given back: chunk.ErrBusy.
func (m *memoryPool) Close() error {
	if err := m.Memory.Close(); err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	m.ranges.leave()
	return m.d.close()
}

// poolRanges takes ranges of the backend's pool while it has one, else of the
// driver.
type poolRanges struct {
	driver driverRanges

	mu   sync.Mutex
	pool *chunk.Pool
	out  map[addr]*chunk.Range // of the pool
}

func (r *poolRanges) enter(p *chunk.Pool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pool != nil {
		return fmt.Errorf("this backend has a memory pool already: %w", tensor.ErrUnsupported)
	}
	r.pool = p
	return nil
}

func (r *poolRanges) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pool = nil
}

// take may wait until memory that was given back is unmapped.
func (r *poolRanges) take(bytes int64) (addr, error) {
	r.mu.Lock()
	p := r.pool
	r.mu.Unlock()
	if p == nil {
		return r.driver.take(bytes)
	}
	own, err := p.Alloc(bytes)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out[own.Address()] = own
	return own.Address(), nil
}

func (r *poolRanges) give(at addr, bytes int64) {
	r.mu.Lock()
	own := r.out[at]
	delete(r.out, at)
	r.mu.Unlock()
	if own == nil { // from before there was a pool
		r.driver.give(at, bytes)
		return
	}
	own.Free()
}

// kvCache is the paged cache: a page holds all layers, each with the keys of
// its slots [page_size, kv_heads, head_dim] and then their values.
type kvCache struct {
	memory // on its own, or the pool's addresses with no driver
	layout tensor.KVLayout
	stride int64 // values from page to page
}

func (c *kvCache) Layout() tensor.KVLayout { return c.layout }
func (c *kvCache) Bytes() int64            { return c.bytes }

// Free gives back a cache that was made on its own.
func (c *kvCache) Free() {
	if c.d != nil {
		c.release()
	}
}

func (c *kvCache) view(layer int) cacheView {
	half := addr(c.layout.PageSize * c.layout.KVHeads * c.layout.HeadDim)
	keys := c.at + addr(2*layer)*half*2
	return cacheView{
		keys: keys, values: keys + half*2, pageStride: c.stride,
		pageSize: int32(c.layout.PageSize), kvHeads: int32(c.layout.KVHeads), headDim: int32(c.layout.HeadDim),
	}
}

// checkCache checks a layout, except for its number of pages, and tells the
// number of keys, and of values, of one layer in one page.
func checkCache(l tensor.KVLayout) (half int64, err error) {
	if l.Layers <= 0 || l.KVHeads <= 0 || l.PageSize <= 0 || l.Pages < 0 {
		return 0, fmt.Errorf("cuda: cache layout %+v: %w", l, tensor.ErrShape)
	}
	if l.HeadDim <= 0 || l.HeadDim%8 != 0 || l.HeadDim > maxHeadDim {
		return 0, fmt.Errorf("cuda: head size %d (multiples of 8 up to %d): %w", l.HeadDim, maxHeadDim, tensor.ErrUnsupported)
	}
	if _, err := product(l.Layers, l.KVHeads, l.PageSize, 2*l.HeadDim); err != nil {
		return 0, fmt.Errorf("cuda: cache layout %+v: %w", l, err)
	}
	return int64(l.KVHeads) * int64(l.PageSize) * int64(l.HeadDim), nil
}

// NewKV makes a cache of zeros. HeadDim must be a multiple of 8 and at most 256.
func (b *Backend) NewKV(l tensor.KVLayout) (tensor.KV, error) {
	if l.Pages == 0 {
		return nil, fmt.Errorf("cuda: cache layout %+v: %w", l, tensor.ErrShape)
	}
	half, err := checkCache(l)
	if err != nil {
		return nil, err
	}
	c := &kvCache{layout: l, stride: 2 * int64(l.Layers) * half}
	n, err := product(l.Pages, int(c.stride))
	if err != nil {
		return nil, fmt.Errorf("cuda: cache layout %+v: %w", l, err)
	}
	if c.memory, err = b.alloc(2 * n); err != nil {
		return nil, fmt.Errorf("cuda: cache layout %+v: %w", l, err)
	}
	return c, nil
}
