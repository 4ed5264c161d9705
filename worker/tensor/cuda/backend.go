package cuda

import (
	"fmt"
	"sync"

	"chorale/worker/tensor"
)

// Limits of the kernels.
const (
	maxHeadDim  = 256
	maxLoRARank = 512
	maxColumns  = stageBytes / 4
)

// Backend is one GPU's tensor.Backend. It is safe for concurrent use.
type Backend struct {
	d driver

	fillMu sync.Mutex // the stages

	mu      sync.Mutex
	streams []*stream
	closed  bool
}

var _ tensor.Backend = (*Backend)(nil)

// newBackend puts a backend on a driver.
func newBackend(d driver) *Backend { return &Backend{d: d} }

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

// target says where a matrix [rows, cols] goes on the device.
type target struct {
	at                   addr
	rowStride, colStride int64
	wide                 bool
}

// fill streams a matrix [rows, cols] to the device through the stages.
func (b *Backend) fill(t target, rows, cols int, read tensor.Rows) error {
	if cols > maxColumns {
		return fmt.Errorf("%d columns, at most %d: %w", cols, maxColumns, tensor.ErrUnsupported)
	}
	b.fillMu.Lock()
	defer b.fillMu.Unlock()
	size := addr(2)
	if t.wide {
		size = 4
	}
	for row, i := 0, 0; row < rows; i = (i + 1) % stages {
		n := min(rows-row, maxColumns/cols)
		mem, err := b.d.stage(i)
		if err != nil {
			return err
		}
		if err := read(mem[:n*cols], row, n); err != nil {
			_ = b.d.fillWait() // the reader's error is the cause
			return err
		}
		f := fillArgs{
			dst: t.at + addr(int64(row)*t.rowStride)*size, rowStride: t.rowStride, colStride: t.colStride,
			rows: n, cols: cols, stage: i, wide: t.wide,
		}
		if err := b.d.fill(f); err != nil {
			return err
		}
		row += n
	}
	return b.d.fillWait()
}

// NewMatrix copies a weight to the device as bfloat16.
func (b *Backend) NewMatrix(out, in int, rows tensor.Rows) (tensor.Matrix, error) {
	n, err := product(out, in)
	if err == nil {
		n, err = product(pad8(out), pad8(in))
	}
	if err != nil {
		return nil, fmt.Errorf("cuda: matrix [%d, %d]: %w", out, in, err)
	}
	m := &matrix{out: out, in: in}
	if m.memory, err = b.alloc(n * 2); err != nil {
		return nil, fmt.Errorf("cuda: matrix [%d, %d]: %w", out, in, err)
	}
	if err := b.fill(target{m.at, int64(pad8(in)), 1, false}, out, in, rows); err != nil {
		m.Free()
		return nil, fmt.Errorf("cuda: matrix [%d, %d]: %w", out, in, err)
	}
	return m, nil
}

// NewVector copies v, and a rounded copy for products of bfloat16.
func (b *Backend) NewVector(v []float32) (tensor.Vector, error) {
	if len(v) == 0 {
		return nil, fmt.Errorf("cuda: empty vector: %w", tensor.ErrShape)
	}
	n8 := pad8(len(v))
	mem, err := b.alloc(int64(n8) * 6)
	if err != nil {
		return nil, fmt.Errorf("cuda: vector of %d: %w", len(v), err)
	}
	out := &vector{memory: mem, n: len(v)}
	read := func(dst []float32, _, _ int) error {
		copy(dst, v)
		return nil
	}
	for _, t := range []target{{mem.at, int64(n8), 1, true}, {mem.at + addr(n8)*4, int64(n8), 1, false}} {
		if err := b.fill(t, 1, len(v), read); err != nil {
			out.Free()
			return nil, fmt.Errorf("cuda: vector of %d: %w", len(v), err)
		}
	}
	return out, nil
}

// NewLoRA copies A [r, in] and B [out, r]; ranks up to 512.
func (b *Backend) NewLoRA(r, in, out int, scale float32, a, bRows tensor.Rows) (tensor.LoRAPair, error) {
	return b.newLoRA(r, in, out, scale, a, bRows, false)
}

// NewEmbeddingLoRA copies A [r, vocab], transposed, and B [hidden, r].
func (b *Backend) NewEmbeddingLoRA(r, vocab, hidden int, scale float32, a, bRows tensor.Rows) (tensor.LoRAPair, error) {
	return b.newLoRA(r, vocab, hidden, scale, a, bRows, true)
}

func (b *Backend) newLoRA(r, in, out int, scale float32, a, bRows tensor.Rows, embedding bool) (tensor.LoRAPair, error) {
	wrap := func(err error) error { return fmt.Errorf("cuda: LoRA of rank %d, %d to %d: %w", r, in, out, err) }
	if _, err := product(r, in, out); err != nil && (r <= 0 || in <= 0 || out <= 0) {
		return nil, wrap(err)
	}
	if r > maxLoRARank {
		return nil, wrap(fmt.Errorf("at most %d: %w", maxLoRARank, tensor.ErrUnsupported))
	}
	sizeA, at := int64(r)*int64(pad8(in)), target{rowStride: int64(pad8(in)), colStride: 1}
	if embedding {
		sizeA, at = int64(roundUp(r*in, 8)), target{rowStride: 1, colStride: int64(r)}
	}
	mem, err := b.alloc(2 * (sizeA + int64(out)*int64(ldb(r))))
	if err != nil {
		return nil, wrap(err)
	}
	l := &loraPair{memory: mem, rank: r, in: in, out: out, scale: scale, embedding: embedding, b: mem.at + addr(sizeA)*2}
	at.at = mem.at
	if err = b.fill(at, r, in, a); err == nil {
		err = b.fill(target{l.b, int64(ldb(r)), 1, false}, out, r, bRows)
	}
	if err != nil {
		l.Free()
		return nil, wrap(err)
	}
	return l, nil
}

// NewKV makes a cache of zeros. HeadDim must be a multiple of 8 and at most 256.
func (b *Backend) NewKV(l tensor.KVLayout) (tensor.KV, error) {
	if l.Layers <= 0 || l.KVHeads <= 0 || l.PageSize <= 0 || l.Pages <= 0 {
		return nil, fmt.Errorf("cuda: cache layout %+v: %w", l, tensor.ErrShape)
	}
	if l.HeadDim <= 0 || l.HeadDim%8 != 0 || l.HeadDim > maxHeadDim {
		return nil, fmt.Errorf("cuda: head size %d (multiples of 8 up to %d): %w", l.HeadDim, maxHeadDim, tensor.ErrUnsupported)
	}
	n, err := product(l.Layers, l.Pages, l.KVHeads, l.PageSize, 2*l.HeadDim)
	if err != nil {
		return nil, fmt.Errorf("cuda: cache layout %+v: %w", l, err)
	}
	c := &kvCache{layout: l}
	if c.memory, err = b.alloc(2 * n); err != nil {
		return nil, fmt.Errorf("cuda: cache layout %+v: %w", l, err)
	}
	return c, nil
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
