package gguf

import "fmt"

// Tensor is one tensor of a file.
type Tensor struct {
	Name string
	Type Type
	// Shape holds the dimensions, outermost first: the reverse of the file's
	// order. Empty for a scalar. Do not modify.
	Shape []int
	// Data holds the encoded rows, one after the other. It aliases the file's
	// mapping: read-only, and invalid after Close.
	Data []byte
}

// Cols returns the elements of a row: the innermost dimension.
func (t Tensor) Cols() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return t.Shape[len(t.Shape)-1]
}

// NumRows returns the product of all dimensions but the innermost; a vector is
// one row.
func (t Tensor) NumRows() int {
	n := 1
	for i := range len(t.Shape) - 1 {
		n *= t.Shape[i]
	}
	return n
}

// Len returns the number of elements.
func (t Tensor) Len() int { return t.NumRows() * t.Cols() }

// Rows decodes n rows from row0 on into dst, whose length must be n × Cols.
// A type that cannot be decoded is a *TypeError, rows beyond the tensor or a
// dst of another length are ErrShape.
func (t Tensor) Rows(dst []float32, row0, n int) error {
	k := kinds[t.Type]
	if k.decode == nil {
		return &TypeError{t.Name, t.Type}
	}
	rows, cols := t.NumRows(), t.Cols()
	if row0 < 0 || n < 0 || row0 > rows || n > rows-row0 {
		return fmt.Errorf("%w: tensor %q: rows %d+%d of %d", ErrShape, t.Name, row0, n, rows)
	}
	if len(dst) != n*cols {
		return fmt.Errorf("%w: tensor %q: %d rows of %d elements into %d", ErrShape, t.Name, n, cols, len(dst))
	}
	rowBytes := cols / k.block * k.size
	if len(t.Data) != rows*rowBytes {
		return fmt.Errorf("%w: tensor %q: %d bytes for %d rows of %d", ErrShape, t.Name, len(t.Data), rows, rowBytes)
	}
	k.decode(dst, t.Data[row0*rowBytes:(row0+n)*rowBytes])
	return nil
}
