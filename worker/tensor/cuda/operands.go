package cuda

import (
	"fmt"
	"unsafe"

	"chorale/worker/tensor"
)

// memory is one allocation on the device.
type memory struct {
	d     driver
	at    addr
	bytes int64
}

func (m *memory) release() {
	if m.at != 0 {
		m.d.free(m.at)
		m.at = 0
	}
}

// matrix is a weight [out, in], row-major bf16, rows and columns padded with
// zeros to multiples of 8.
type matrix struct {
	memory
	out, in int
}

func (m *matrix) Out() int     { return m.out }
func (m *matrix) In() int      { return m.in }
func (m *matrix) Bytes() int64 { return m.bytes }
func (m *matrix) Free()        { m.release() }

// vector is [n8] float32 followed by [n8] bf16, padded with zeros.
type vector struct {
	memory
	n int
}

func (v *vector) Len() int { return v.n }

// Free gives back a vector that was made on its own.
func (v *vector) Free() {
	if v.d != nil {
		v.release()
	}
}

// loraPair is A [rank, pad8(in)] and B [out, ldb(rank)] in a range of its
// adapter. The A of an embedding adapter is [vocab, rank]. The scale is applied
// in float32.
type loraPair struct {
	at, b         addr // of A, 0 when it is gone; of B
	bytes         int64
	rank, in, out int
	scale         float32
	embedding     bool
	free          func() // of a pair on its own
}

func (l *loraPair) Rank() int    { return l.rank }
func (l *loraPair) In() int      { return l.in }
func (l *loraPair) Out() int     { return l.out }
func (l *loraPair) Bytes() int64 { return l.bytes }

// Free gives back a pair that was made on its own.
func (l *loraPair) Free() {
	if l.free != nil {
		l.free()
	}
}

// buffer is an activation matrix of rows pad8(cols) long. It has room for a
// whole bucket of rows.
type buffer struct {
	memory
	kind            tensor.BufferKind
	rows, cols, cap int
	// host is the copy that Host gives out; fresh while nothing wrote buf since.
	host  unsafe.Pointer
	fresh bool
}

func (b *buffer) Rows() int { return b.rows }
func (b *buffer) Cols() int { return b.cols }
func (b *buffer) Cap() int  { return b.cap }

func (b *buffer) Free() {
	b.release()
	if b.host != nil {
		b.d.hostFree(b.host)
		b.host = nil
	}
	b.rows, b.cap = 0, 0
}

func (b *buffer) view() view {
	v := view{data: b.at, cols: int32(b.cols), pitch: int32(pad8(b.cols))}
	if b.kind == tensor.Wide {
		v.wide = 1
	}
	return v
}

// hostRows gives the host copy's memory, made at the first call.
func (b *buffer) hostRows() ([]float32, error) {
	n := bucket(b.cap) * b.cols
	if b.host == nil {
		p, err := b.d.hostAlloc(int64(n) * 4)
		if err != nil {
			return nil, fmt.Errorf("host copy of a [%d, %d] buffer: %w", b.cap, b.cols, err)
		}
		b.host = p
	}
	return unsafe.Slice((*float32)(b.host), n), nil
}
