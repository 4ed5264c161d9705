package chunk

import (
	"errors"
	"fmt"

	"chorale/worker/tensor"
)

// pageAlign is what pages of the cache begin at a multiple of.
const pageAlign = 256

// Memory is a tensor.Memory on any Device: a pool, a space for the cache, and
// what the pool has left for ranges.
type Memory struct {
	*Pool
	space         *Space
	kv            tensor.KV
	pages, chunks int
}

var _ tensor.Memory = (*Memory)(nil)

// View makes the cache over a space: its layout, with Pages set, where page 0
// begins, the bytes from page to page, and the memory that the cache may ever
// have.
type View func(l tensor.KVLayout, at uintptr, stride, bytes int64) tensor.KV

// NewMemory makes a pool on a device and lays a cache of pages of pageBytes out
// in it. The device must outlive it.
func NewMemory(d Device, l tensor.MemoryLayout, pageBytes int64, view View) (*Memory, error) {
	m := &Memory{}
	var stride int64
	m.pages, m.chunks, stride = Group(pageBytes, d.ChunkBytes(), pageAlign)
	if l.Bytes == 0 {
		l.Bytes = int64((l.KV.Pages+m.pages-1)/m.pages*m.chunks) * d.ChunkBytes()
	}
	total := int(l.Bytes / d.ChunkBytes())
	groups := total / m.chunks
	if groups < 1 {
		return nil, fmt.Errorf("memory pool of %d MiB: %d pages of the cache go together and take %d MiB: %w",
			l.Bytes>>20, m.pages, int64(m.chunks)*d.ChunkBytes()>>20, tensor.ErrOutOfMemory)
	}
	if l.KV.Pages > 0 {
		groups = min(groups, (l.KV.Pages+m.pages-1)/m.pages)
	}
	var err error
	if m.Pool, err = New(d, total); err != nil {
		return nil, err
	}
	if m.space, err = m.NewSpace(groups, m.chunks); err != nil {
		return nil, errors.Join(err, m.Pool.Close())
	}
	layout := l.KV
	layout.Pages = groups * m.pages
	m.kv = view(layout, m.space.Address(), stride, int64(groups*m.chunks)*d.ChunkBytes())
	return m, nil
}

// ChunkBytes is the size of a chunk.
func (m *Memory) ChunkBytes() int64 { return m.d.ChunkBytes() }

// ImageChunks is how many chunks so many bytes take.
func (m *Memory) ImageChunks(bytes int64) int {
	return int((bytes + m.d.ChunkBytes() - 1) / m.d.ChunkBytes())
}

// Group is the pages and the chunks of a group.
func (m *Memory) Group() (pages, chunks int) { return m.pages, m.chunks }

// KV is the cache.
func (m *Memory) KV() tensor.KV { return m.kv }

// Grow brings groups of the cache.
func (m *Memory) Grow(groups []int32) error { return m.space.Grow(groups) }

// Shrink gives groups of the cache back.
func (m *Memory) Shrink(groups []int32) { m.space.Shrink(groups) }

// Close frees cache and pool. With ranges in use it fails, and nothing but the
// cache is freed.
func (m *Memory) Close() error {
	if m.space != nil {
		if err := m.space.Free(); err != nil {
			return err
		}
		m.space = nil
	}
	return m.Pool.Close()
}
