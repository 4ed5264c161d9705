package cuda

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"chorale/internal/bf16"
	"chorale/worker/tensor"
)

// Weights go to the device through pieces of pinned memory: several goroutines
// read rows into pieces of their own, already in the device's layout, and the
// copy engine takes each piece while the next is read.

const (
	// stageBytes is the size of a piece.
	stageBytes = 4 << 20
	// fillers is how many goroutines read a matrix. Reading a mapped file is a
	// page fault every 64 KiB, so one alone is far from the bus's speed.
	fillers = 12
	// maxColumns bounds a row: it must fit a piece.
	maxColumns = stageBytes / 4
)

// values views pinned memory as bfloat16 values.
func values(mem []byte) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(&mem[0])), len(mem)/2)
}

// fill brings rows [rows, cols] to the device, pitch values apart; what is
// between cols and pitch becomes zero. Readers is the number of goroutines.
func (b *Backend) fill(at addr, rows, cols, pitch, readers int, read tensor.Rows16) error {
	if pitch > maxColumns {
		return fmt.Errorf("%d columns, at most %d: %w", cols, maxColumns, tensor.ErrUnsupported)
	}
	step := stageBytes / 2 / pitch
	pieces := (rows + step - 1) / step
	var next atomic.Int64
	var failed atomic.Bool
	errs := make([]error, min(readers, pieces))
	work := func(i int) {
		stage, err := b.pinned.take(stageBytes)
		if err != nil {
			errs[i] = err
			return
		}
		defer b.pinned.give(stage)
		for n := int(next.Add(1)) - 1; n < pieces && !failed.Load(); n = int(next.Add(1)) - 1 {
			row := n * step
			if err := b.fillPiece(at+addr(row)*addr(pitch)*2, stage.mem, row, min(step, rows-row), cols, pitch, read); err != nil {
				errs[i] = err
				failed.Store(true)
			}
		}
	}
	var wg sync.WaitGroup
	for i := range errs[1:] {
		wg.Go(func() { work(i + 1) })
	}
	work(0)
	wg.Wait()
	return errors.Join(errs...)
}

// fillPiece reads n rows into a piece and copies them.
func (b *Backend) fillPiece(at addr, stage []byte, row, n, cols, pitch int, read tensor.Rows16) error {
	v := values(stage)[:n*pitch]
	if err := readPadded(v, row, n, cols, pitch, read); err != nil {
		return err
	}
	return b.d.copy(at, unsafe.Pointer(&stage[0]), int64(2*len(v)))
}

// readPadded reads n rows of cols values to places pitch values apart.
func readPadded(dst []uint16, row, n, cols, pitch int, read tensor.Rows16) error {
	if cols == pitch {
		return read(dst, row, n)
	}
	for r := range n {
		line := dst[r*pitch : (r+1)*pitch]
		if err := read(line[:cols], row+r, 1); err != nil {
			return err
		}
		clear(line[cols:])
	}
	return nil
}

// rounded reads float32 rows as bfloat16. It must not be called by several
// goroutines at once.
func rounded(cols int, read tensor.Rows) tensor.Rows16 {
	var wide []float32
	return func(dst []uint16, row, n int) error {
		if len(wide) < n*cols {
			wide = make([]float32, n*cols)
		}
		if err := read(wide[:n*cols], row, n); err != nil {
			return err
		}
		bf16.Round(dst, wide[:n*cols])
		return nil
	}
}

// NewMatrix copies a weight to the device as bfloat16.
func (b *Backend) NewMatrix(out, in int, rows tensor.Rows) (tensor.Matrix, error) {
	return b.newMatrix(out, in, 1, rounded(in, rows))
}

// NewMatrix16 copies a weight to the device, read by several goroutines.
func (b *Backend) NewMatrix16(out, in int, _ tensor.Rows, rows16 tensor.Rows16) (tensor.Matrix, error) {
	return b.newMatrix(out, in, fillers, rows16)
}

func (b *Backend) newMatrix(out, in, readers int, rows tensor.Rows16) (tensor.Matrix, error) {
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
	if err := b.fill(m.at, out, in, pad8(in), readers, rows); err != nil {
		m.Free()
		return nil, fmt.Errorf("cuda: matrix [%d, %d]: %w", out, in, err)
	}
	return m, nil
}

// vectorBytes is the size of a vector of n values on the device.
func vectorBytes(n int) int64 { return int64(pad8(n)) * 6 }

// layVector writes a vector as the device has it: float32, then bfloat16.
func layVector(mem []byte, v []float32) {
	clear(mem)
	n8 := pad8(len(v))
	copy(unsafe.Slice((*float32)(unsafe.Pointer(&mem[0])), n8), v)
	bf16.Round(values(mem[4*n8:])[:len(v)], v)
}

// NewVector copies v, and a rounded copy for products of bfloat16.
func (b *Backend) NewVector(v []float32) (tensor.Vector, error) {
	if len(v) == 0 {
		return nil, fmt.Errorf("cuda: empty vector: %w", tensor.ErrShape)
	}
	out := &vector{n: len(v)}
	err := b.upload(vectorBytes(len(v)), &out.memory, func(mem []byte) { layVector(mem, v) })
	if err != nil {
		return nil, fmt.Errorf("cuda: vector of %d: %w", len(v), err)
	}
	return out, nil
}

// upload makes memory of a size, with what lay writes.
func (b *Backend) upload(bytes int64, to *memory, lay func(mem []byte)) error {
	stage, err := b.pinned.take(bytes)
	if err != nil {
		return err
	}
	defer b.pinned.give(stage)
	lay(stage.mem[:bytes])
	mem, err := b.alloc(bytes)
	if err != nil {
		return err
	}
	if err := b.d.copy(mem.at, unsafe.Pointer(&stage.mem[0]), bytes); err != nil {
		mem.release()
		return err
	}
	*to = mem
	return nil
}
