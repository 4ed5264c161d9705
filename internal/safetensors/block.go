package safetensors

import "fmt"

// Block is a part of a matrix: N rows from Row on, and of these Cols columns from
// Col on.
type Block struct{ Row, N, Col, Cols int }

// Float32Block converts a part of a matrix [rows, cols] into dst, row by row, and
// reads nothing else. A vector is one row.
func (t Tensor) Float32Block(dst []float32, b Block) error {
	return readBlock(t, dst, b, Tensor.Float32)
}

// BF16Block is Float32Block with values rounded to bfloat16.
func (t Tensor) BF16Block(dst []uint16, b Block) error { return readBlock(t, dst, b, Tensor.BF16) }

func readBlock[V any](t Tensor, dst []V, b Block, read func(t Tensor, dst []V) error) error {
	cols, size := t.cols(), t.DType.Size()
	width := cols * size
	rows := 0
	if width > 0 {
		rows = len(t.Data) / width
	}
	if b.Row < 0 || b.N < 0 || b.Col < 0 || b.Cols < 0 || b.Row > rows || b.N > rows-b.Row || b.Col > cols || b.Cols > cols-b.Col || len(dst) != b.N*b.Cols {
		return fmt.Errorf("%w: tensor %q: %d values for rows %d+%d of %d, columns %d+%d of %d", ErrShape, t.Name, len(dst), b.Row, b.N, rows, b.Col, b.Cols, cols)
	}
	part := func(dst []V, row, n int) error {
		p := t
		p.Shape = []int{n, b.Cols}
		from := row*width + b.Col*size
		p.Data = t.Data[from : from+(n-1)*width+b.Cols*size]
		return read(p, dst)
	}
	if b.N == 0 || b.Cols == 0 {
		return nil
	}
	if b.Cols == cols {
		return part(dst, b.Row, b.N)
	}
	for i := range b.N {
		if err := part(dst[i*b.Cols:(i+1)*b.Cols], b.Row+i, 1); err != nil {
			return err
		}
	}
	return nil
}

// cols is the size of the last dimension.
func (t Tensor) cols() int {
	if n := len(t.Shape); n > 0 {
		return t.Shape[n-1]
	}
	return 1
}
