package cpu

import (
	"fmt"
	"math"
	"unsafe"

	"chorale/worker/tensor"
)

// block is zeroed memory that does not move and is aligned to 64 bytes, so
// that C code may be handed its address.
type block struct {
	bytes []byte
	free  func()
}

// allocate returns n > 0 zeroed bytes. Tests replace it by an allocator that puts
// an unreadable page behind every block.
var allocate = systemMemory

// newBlock allocates count elements of size bytes each.
func newBlock(count, size int) (*block, error) {
	if count < 0 || size <= 0 || count > math.MaxInt/2/size {
		return nil, fmt.Errorf("cpu: %d elements of %d bytes: %w", count, size, tensor.ErrOutOfMemory)
	}
	n := count * size
	if n == 0 {
		n = 64
	}
	b, err := allocate(n)
	if err != nil {
		return nil, fmt.Errorf("cpu: allocating %d bytes: %w: %w", n, tensor.ErrOutOfMemory, err)
	}
	return b, nil
}

// release gives the memory back; a second call does nothing.
func (b *block) release() {
	if b == nil || b.free == nil {
		return
	}
	b.free()
	b.bytes, b.free = nil, nil
}

func (b *block) floats(n int) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b.bytes))), n)
}

func (b *block) halves(n int) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b.bytes))), n)
}

// weights is an array of the precision's storage type; exactly one of bf and f
// is set.
type weights struct {
	mem *block
	bf  []uint16
	f   []float32
}

func newWeights(p tensor.Precision, n int) (weights, error) {
	size := 2
	if p == tensor.F32 {
		size = 4
	}
	mem, err := newBlock(n, size)
	if err != nil {
		return weights{}, err
	}
	return mem.weights(p, n), nil
}

// weights sees a block as n values.
func (b *block) weights(p tensor.Precision, n int) weights {
	if p == tensor.F32 {
		return weights{mem: b, f: b.floats(n)}
	}
	return weights{mem: b, bf: b.halves(n)}
}

// set stores one value, rounding when the storage is bfloat16.
func (w weights) set(i int, v float32) {
	if w.f != nil {
		w.f[i] = v
		return
	}
	w.bf[i] = toBF16(v)
}

// at reads one value.
func (w weights) at(i int) float32 {
	if w.f != nil {
		return w.f[i]
	}
	return fromBF16(w.bf[i])
}

func (w weights) bytes() int64 { return int64(len(w.bf))*2 + int64(len(w.f))*4 }

// live reports whether the values are there, in the storage type of p.
func (w weights) live(p tensor.Precision) bool {
	if p == tensor.F32 {
		return w.f != nil
	}
	return w.bf != nil
}

// release gives the memory back.
func (w *weights) release() {
	w.mem.release()
	*w = weights{}
}
