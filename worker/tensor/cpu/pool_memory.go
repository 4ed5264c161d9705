package cpu

import (
	"fmt"
	"sync"
	"unsafe"

	"chorale/worker/tensor"
	"chorale/worker/tensor/chunk"
)

// mappings is a chunk.Device of host memory. Chunks have no identity: the
// system gives pages when they are touched and takes them when they are
// unmapped. So a pool is a promise here, and an idle server does not pay for it.
type mappings struct {
	chunk int64

	mu     sync.Mutex
	blocks map[uintptr]*block // reserved, by address
}

// defaultChunk is the size of a chunk unless Options say otherwise: a huge page.
const defaultChunk = 2 << 20

func (m *mappings) ChunkBytes() int64 { return m.chunk }

func (m *mappings) Create(n int) ([]chunk.Handle, error) {
	hs := make([]chunk.Handle, n)
	for i := range hs {
		hs[i] = chunk.Handle(i)
	}
	return hs, nil
}

func (m *mappings) Release([]chunk.Handle) error { return nil }

func (m *mappings) Reserve(n int) (uintptr, error) {
	size, err := product(n, int(m.chunk))
	if err != nil {
		return 0, err
	}
	b, err := reserveBlock(size)
	if err != nil {
		return 0, fmt.Errorf("cpu: reserving %d bytes: %w: %w", size, tensor.ErrOutOfMemory, err)
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b.bytes)))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks[at] = b
	return at, nil
}

func (m *mappings) Unreserve(at uintptr, _ int) error {
	m.mu.Lock()
	b := m.blocks[at]
	delete(m.blocks, at)
	m.mu.Unlock()
	b.release()
	return nil
}

// block is what was reserved at an address.
func (m *mappings) block(at uintptr) *block {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.blocks[at]
}

// part finds n chunks at an address in the block that holds them.
func (m *mappings) part(at uintptr, n int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	for from, b := range m.blocks {
		if off := at - from; at >= from && off < uintptr(len(b.bytes)) {
			return b.bytes[off : off+uintptr(n)*uintptr(m.chunk)]
		}
	}
	return nil
}

func (m *mappings) Map(at uintptr, hs []chunk.Handle) error { return admit(m.part(at, len(hs))) }
func (m *mappings) Unmap(at uintptr, n int) error           { return discard(m.part(at, n)) }

// Clear does nothing: memory is zero when it is touched for the first time.
func (m *mappings) Clear(uintptr, int) error { return nil }

// reserveBlock takes addresses; admit lets memory there be used, and discard
// gives it back to the system, after which it reads as zeros. Tests replace them
// by such as make memory unreadable in between.
var (
	reserveBlock = reserve
	admit        = func([]byte) error { return nil }
	discard      = systemDiscard
)

// NewMemory makes a pool with a cache. Loaded images are in host memory as they
// are and take nothing of it.
func (b *Backend) NewMemory(l tensor.MemoryLayout) (tensor.Memory, error) {
	c, n, err := b.newCache(l.KV)
	if err != nil {
		return nil, err
	}
	d := &mappings{chunk: b.chunk, blocks: map[uintptr]*block{}}
	size := int64(2)
	if b.precision == tensor.F32 {
		size = 4
	}
	m, err := chunk.NewMemory(d, l, int64(n)*size, func(l tensor.KVLayout, at uintptr, stride, bytes int64) tensor.KV {
		mem := d.block(at)
		c.layout, c.stride = l, int(stride/size)
		c.w = mem.weights(b.precision, int(bytes/size))
		return c
	})
	if err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	return &hostMemory{Memory: m, images: b.images}, nil
}

// hostMemory is a pool whose images are in host memory as they are.
type hostMemory struct {
	*chunk.Memory
	images bool // count them all the same
}

// ImageChunks is 0, unless Options say that images count.
func (m *hostMemory) ImageChunks(bytes int64) int {
	if !m.images {
		return 0
	}
	return m.Memory.ImageChunks(bytes)
}
