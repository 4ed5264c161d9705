package cuda

import (
	"fmt"
	"sync"

	"chorale/worker/collective"
	"chorale/worker/tensor"
	"chorale/worker/tensor/chunk"
)

// Limits of the kernels.
const (
	maxHeadDim  = 256
	maxLoRARank = 512
)

// Backend is one GPU's tensor.Backend. It is safe for concurrent use.
type Backend struct {
	d      driver
	pinned *pinnedPool
	ranges *poolRanges
	depth  int // of streams
	group  collective.Group
	sums   groupOptions
	ranks  *ranks // of a group that sums; nil for one rank alone

	mu      sync.Mutex
	streams []*stream
	closed  bool
}

var _ tensor.Backend = (*Backend)(nil)

// newBackend puts a backend on a driver.
func newBackend(d driver) *Backend {
	return &Backend{d: d, depth: maxDepth, group: new(collective.Solo), pinned: &pinnedPool{pin: d.pin, slab: slabBytes}, ranges: &poolRanges{driver: driverRanges{d}, out: map[addr]*chunk.Range{}}}
}

// Name returns "cuda:" with the device's number and name.
func (b *Backend) Name() string { return b.d.name() }

// Memory is the device's memory in bytes: what is free now, and all.
func (b *Backend) Memory() (free, total int64, err error) { return b.d.memory() }

// Precision returns tensor.BF16.
func (b *Backend) Precision() tensor.Precision { return tensor.BF16 }

// Close frees the streams and the device. Matrices, buffers and caches must
// have been freed. A second call does nothing.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	var first error
	for _, s := range b.streams {
		if err := s.close(); first == nil {
			first = err
		}
	}
	if err := b.ranks.close(); first == nil {
		first = err
	}
	b.pinned.close(b.d.unpin)
	if err := b.d.close(); first == nil {
		first = err
	}
	return first
}

// alloc gives zeroed device memory.
func (b *Backend) alloc(bytes int64) (memory, error) {
	at, err := b.d.alloc(bytes)
	return memory{d: b.d, at: at, bytes: bytes}, err
}

// product multiplies sizes and reports what could not be an allocation.
func product(sizes ...int) (int64, error) {
	const limit = 1 << 44 // elements; far beyond any device, far from overflow
	n := int64(1)
	for _, s := range sizes {
		if s <= 0 {
			return 0, fmt.Errorf("%v elements: %w", sizes, tensor.ErrShape)
		}
		if n > limit/int64(s) {
			return 0, fmt.Errorf("%v elements: %w", sizes, tensor.ErrOutOfMemory)
		}
		n *= int64(s)
	}
	return n, nil
}

// NewBuffer makes a [rows, cols] buffer of zeros with no rows in use.
func (b *Backend) NewBuffer(kind tensor.BufferKind, rows, cols int) (tensor.Buffer, error) {
	n, err := product(rows, cols)
	if err == nil {
		n, err = product(bucket(rows), pad8(cols))
	}
	if err != nil {
		return nil, fmt.Errorf("cuda: buffer [%d, %d]: %w", rows, cols, err)
	}
	size := int64(2)
	if kind == tensor.Wide {
		size = 4
	}
	out := &buffer{kind: kind, cols: cols, cap: rows}
	if out.memory, err = b.alloc(n * size); err != nil {
		return nil, fmt.Errorf("cuda: buffer [%d, %d]: %w", rows, cols, err)
	}
	return out, nil
}
