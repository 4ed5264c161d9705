package cpu

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// Options configure New. The zero value means bfloat16, one thread per
// GOMAXPROCS and the fastest kernel.
type Options struct {
	Precision tensor.Precision
	// Threads counts the threads of an operation, the caller's included;
	// 0 means GOMAXPROCS.
	Threads int
	// Kernel is "auto" (or empty), "amxbf16", "avx512bf16", "avx512f32", "avx2" or "go".
	Kernel string
	// ChunkBytes is the size of the chunks of memory pools, a multiple of the
	// system's page; 0 means 2 MiB.
	ChunkBytes int64
	// CountImages makes loaded adapters count as if they took memory of the pool,
	// as they do on devices with memory of their own.
	CountImages bool
	// Depth of streams, 1 or 2; 0 means 1: what runs ahead computes nothing
	// earlier here.
	Depth int
}

// maxThreads bounds Options.Threads.
const maxThreads = 1024

// Backend is the CPU's tensor.Backend. It is safe for concurrent use; streams
// of one backend take turns at its threads, operation by operation.
type Backend struct {
	precision tensor.Precision
	name      string
	threads   int
	depth     int
	chunk     int64
	images    bool
	k         kernels
	group     collective.Group

	mu      sync.Mutex
	streams []*stream
	closed  bool
	joined  bool
}

var _ tensor.Backend = (*Backend)(nil)

// New makes a backend. A kernel that this build or processor does not have is
// an error that wraps tensor.ErrUnsupported and lists the ones it has.
func New(o Options) (*Backend, error) {
	if o.Precision != tensor.BF16 && o.Precision != tensor.F32 {
		return nil, fmt.Errorf("cpu: precision %d: %w", o.Precision, tensor.ErrUnsupported)
	}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	if o.Threads < 0 || o.Threads > maxThreads {
		return nil, fmt.Errorf("cpu: %d threads, want 1 to %d: %w", o.Threads, maxThreads, tensor.ErrUnsupported)
	}
	if o.ChunkBytes == 0 {
		o.ChunkBytes = defaultChunk
	}
	if o.ChunkBytes < 0 || o.ChunkBytes%int64(os.Getpagesize()) != 0 {
		return nil, fmt.Errorf("cpu: chunks of %d bytes, want a multiple of %d: %w", o.ChunkBytes, os.Getpagesize(), tensor.ErrUnsupported)
	}
	if o.Depth < 0 || o.Depth > 2 {
		return nil, fmt.Errorf("cpu: depth %d, want 1 or 2: %w", o.Depth, tensor.ErrUnsupported)
	}
	k, err := openKernels(o)
	if err != nil {
		return nil, err
	}
	return &Backend{precision: o.Precision, name: "cpu/" + k.name(), threads: o.Threads, depth: max(o.Depth, 1), chunk: o.ChunkBytes, images: o.CountImages, k: k, group: new(collective.Solo)}, nil
}

// Name returns "cpu/" and the kernel's name.
func (b *Backend) Name() string { return b.name }

// Precision returns the storage precision.
func (b *Backend) Precision() tensor.Precision { return b.precision }

// Threads returns the number of threads of an operation.
func (b *Backend) Threads() int { return b.threads }

// Close joins the threads and frees what streams hold. Matrices, buffers and
// caches are freed by their owners, before or after. A second call does nothing.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	for _, s := range b.streams {
		s.free()
	}
	b.k.close()
	return nil
}

// NewVector copies v.
func (b *Backend) NewVector(v []float32) (tensor.Vector, error) {
	if len(v) == 0 {
		return nil, fmt.Errorf("cpu: empty vector: %w", tensor.ErrShape)
	}
	mem, err := newBlock(len(v), 4)
	if err != nil {
		return nil, err
	}
	out := &vector{mem: mem, data: mem.floats(len(v))}
	copy(out.data, v)
	return out, nil
}

// maxHeadDim bounds the head sizes of attention (its kernels keep a row's
// accumulators in memory of fixed size).
const maxHeadDim = 1024

// NewKV makes a cache of zeros. HeadDim must be a multiple of 8 and at most 1024.
func (b *Backend) NewKV(l tensor.KVLayout) (tensor.KV, error) {
	if l.Pages <= 0 {
		return nil, fmt.Errorf("cpu: cache layout %+v: %w", l, tensor.ErrShape)
	}
	c, page, err := b.newCache(l)
	if err != nil {
		return nil, err
	}
	n, err := product(l.Pages, page)
	if err != nil {
		return nil, fmt.Errorf("cpu: cache layout %+v: %w", l, err)
	}
	if c.w, err = newWeights(b.precision, n); err != nil {
		return nil, fmt.Errorf("cpu: cache layout %+v: %w", l, err)
	}
	return c, nil
}

// newCache makes a cache without memory and tells the values of a page.
func (b *Backend) newCache(l tensor.KVLayout) (*kvCache, int, error) {
	if l.Layers <= 0 || l.KVHeads <= 0 || l.PageSize <= 0 || l.Pages < 0 {
		return nil, 0, fmt.Errorf("cpu: cache layout %+v: %w", l, tensor.ErrShape)
	}
	if l.HeadDim <= 0 || l.HeadDim%8 != 0 || l.HeadDim > maxHeadDim {
		return nil, 0, fmt.Errorf("cpu: head size %d (multiples of 8 up to %d): %w", l.HeadDim, maxHeadDim, tensor.ErrUnsupported)
	}
	c := &kvCache{layout: l}
	n, err := product(l.Layers, l.KVHeads, c.tiles(), 2*tile*l.HeadDim)
	if err != nil {
		return nil, 0, fmt.Errorf("cpu: cache layout %+v: %w", l, err)
	}
	c.stride = n
	return c, n, nil
}

// NewBuffer makes a [rows, cols] buffer of zeros with no rows in use. Every
// kind is float32.
func (b *Backend) NewBuffer(_ tensor.BufferKind, rows, cols int) (tensor.Buffer, error) {
	if rows <= 0 || cols <= 0 {
		return nil, fmt.Errorf("cpu: buffer [%d, %d]: %w", rows, cols, tensor.ErrShape)
	}
	n, err := product(rows, cols)
	if err != nil {
		return nil, fmt.Errorf("cpu: buffer [%d, %d]: %w", rows, cols, err)
	}
	mem, err := newBlock(n, 4)
	if err != nil {
		return nil, err
	}
	return &buffer{cols: cols, cap: rows, mem: mem, data: mem.floats(n)}, nil
}

// product multiplies sizes and reports what could not be an allocation.
func product(sizes ...int) (int, error) {
	const limit = 1 << 44 // elements; far beyond any machine, far from overflow
	n := 1
	for _, s := range sizes {
		if s <= 0 || n > limit/s {
			return 0, fmt.Errorf("%v elements: %w", sizes, tensor.ErrOutOfMemory)
		}
		n *= s
	}
	return n, nil
}
