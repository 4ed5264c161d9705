package cpu

import (
	"fmt"
	"runtime"
	"sync"

	"chorale/worker/tensor"
)

// slabValues is about how many float32 values are read from a file at a time.
const slabValues = 1 << 20

// NewMatrix packs a weight [out, in]. rows is called from one goroutine, in
// order, while the slab before is being packed.
func (b *Backend) NewMatrix(out, in int, rows tensor.Rows) (tensor.Matrix, error) {
	if out <= 0 || in <= 0 || rows == nil {
		return nil, fmt.Errorf("cpu: matrix [%d, %d]: %w", out, in, tensor.ErrShape)
	}
	w, err := b.packPanels(out, in, 1, rows)
	if err != nil {
		return nil, fmt.Errorf("cpu: matrix [%d, %d]: %w", out, in, err)
	}
	return &matrix{out: out, in: in, w: w}, nil
}

// packPanels reads and packs a [out, in] matrix in panels, times scale.
func (b *Backend) packPanels(out, in int, scale float32, rows tensor.Rows) (weights, error) {
	n, err := product(ceilDiv(out, panel), panelSize(b.precision, in))
	if err != nil {
		return weights{}, err
	}
	w, err := newWeights(b.precision, n)
	if err != nil {
		return weights{}, err
	}
	size := panelSize(b.precision, in)
	err = readSlabs(out, in, rows, func(src []float32, row, n int) {
		scaleAll(src, scale)
		parallel(min(runtime.GOMAXPROCS(0), b.threads), ceilDiv(n, panel), func(i int) {
			at := (row/panel + i) * size
			c := min(panel, n-i*panel)
			b.k.pack(w.slice(at, size), src[i*panel*in:(i*panel+c)*in], c, in)
		})
	})
	if err != nil {
		w.release()
		return weights{}, err
	}
	return w, nil
}

func scaleAll(v []float32, scale float32) {
	if scale == 1 {
		return
	}
	for i := range v {
		v[i] *= scale
	}
}

// slice returns n values from at.
func (w weights) slice(at, n int) weights {
	if w.f != nil {
		return weights{f: w.f[at : at+n]}
	}
	return weights{bf: w.bf[at : at+n]}
}

// packPanel packs c <= 32 rows of src [c, in] into one panel. Plain Go.
func packPanel(dst weights, src []float32, c, in int) {
	for j := 0; j < c; j++ {
		row := src[j*in : (j+1)*in]
		if dst.f != nil {
			for i, v := range row {
				dst.f[i*panel+j] = v
			}
			continue
		}
		for i, v := range row {
			dst.bf[(i>>1*panel+j)<<1+i&1] = toBF16(v)
		}
	}
}

// readSlabs reads the rows in slabs of whole panels and hands each to pack,
// reading the next one meanwhile.
func readSlabs(out, in int, rows tensor.Rows, pack func(src []float32, row, n int)) error {
	step := min(max(slabValues/in/panel, 1)*panel, out)
	slabs := [2][]float32{make([]float32, step*in)}
	var packing sync.WaitGroup
	defer packing.Wait()
	for row, i := 0, 0; row < out; row, i = row+step, i^1 {
		if slabs[i] == nil {
			slabs[i] = make([]float32, step*in)
		}
		n := min(step, out-row)
		src := slabs[i][:n*in]
		if err := rows(src, row, n); err != nil {
			return fmt.Errorf("rows %d to %d: %w", row, row+n, err)
		}
		packing.Wait()
		if row+n >= out {
			pack(src, row, n)
			return nil
		}
		packing.Go(func() { pack(src, row, n) })
	}
	return nil
}

// NewLoRA packs A [r, in] and B [out, r].
func (b *Backend) NewLoRA(r, in, out int, scale float32, a, bRows tensor.Rows) (tensor.LoRAPair, error) {
	return b.newPair(r, in, out, scale, false, a, bRows)
}

// NewEmbeddingLoRA packs A [r, vocab], kept by column, and B [hidden, r].
func (b *Backend) NewEmbeddingLoRA(r, vocab, hidden int, scale float32, a, bRows tensor.Rows) (tensor.LoRAPair, error) {
	return b.newPair(r, vocab, hidden, scale, true, a, bRows)
}

// maxRank bounds a pair's rank: the kernels keep a row's intermediate on the
// stack.
const maxRank = 4096

func (b *Backend) newPair(r, in, out int, scale float32, embedding bool, a, bRows tensor.Rows) (tensor.LoRAPair, error) {
	if r <= 0 || in <= 0 || out <= 0 || a == nil || bRows == nil {
		return nil, fmt.Errorf("cpu: LoRA A [%d, %d], B [%d, %d]: %w", r, in, out, r, tensor.ErrShape)
	}
	if r > maxRank {
		return nil, fmt.Errorf("cpu: LoRA of rank %d (up to %d): %w", r, maxRank, tensor.ErrUnsupported)
	}
	l := &loraPair{rank: r, in: in, out: out, scale: scale, embedding: embedding}
	fold := float32(1)
	if b.precision == tensor.F32 {
		l.scale, fold = 1, scale
	}
	var err error
	if l.b, err = b.packPanels(out, r, fold, bRows); err != nil {
		return nil, fmt.Errorf("cpu: LoRA B [%d, %d]: %w", out, r, err)
	}
	if l.a, err = b.packShrink(r, in, embedding, a); err != nil {
		l.b.release()
		return nil, fmt.Errorf("cpu: LoRA A [%d, %d]: %w", r, in, err)
	}
	return l, nil
}

// packShrink reads and packs A.
func (b *Backend) packShrink(r, in int, embedding bool, rows tensor.Rows) (weights, error) {
	size := shrinkSize(b.precision, r, in)
	if embedding {
		size = r * in
	}
	w, err := newWeights(b.precision, size)
	if err != nil {
		return weights{}, err
	}
	err = readSlabs(r, in, rows, func(src []float32, row, n int) {
		for j := 0; j < n; j++ {
			for i, v := range src[j*in : (j+1)*in] {
				if embedding {
					w.set(i*r+row+j, v)
				} else {
					w.set(shrinkIndex(b.precision, r, in, row+j, i), v)
				}
			}
		}
	})
	if err != nil {
		w.release()
		return weights{}, err
	}
	return w, nil
}
