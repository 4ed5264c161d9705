package gguf

import "fmt"

// Span is columns [Col, Col+N) of each row.
type Span struct{ Col, N int }

// Whole tells whether a span consists of whole blocks, so that it can be decoded
// without what lies beside it.
func (t Tensor) Whole(s Span) bool {
	block := t.Type.BlockSize()
	return block > 0 && s.Col >= 0 && s.N > 0 && s.N <= t.Cols()-s.Col && s.Col%block == 0 && s.N%block == 0
}

// Columns decodes a span of n rows from row0 on into dst, whose length must be n ×
// the span's; bytes beside it are not read. Errors are those of Rows, and ErrShape
// for a span that is not Whole.
func (t Tensor) Columns(dst []float32, row0, n int, s Span) error {
	k := kinds[t.Type]
	if k.decode == nil {
		return &TypeError{t.Name, t.Type}
	}
	rows := t.NumRows()
	if row0 < 0 || n < 0 || row0 > rows || n > rows-row0 || !t.Whole(s) || len(dst) != n*s.N {
		return fmt.Errorf("%w: tensor %q: rows %d+%d of %d, columns %d+%d of %d, into %d", ErrShape, t.Name, row0, n, rows, s.Col, s.N, t.Cols(), len(dst))
	}
	rowBytes := t.Cols() / k.block * k.size
	if len(t.Data) != rows*rowBytes {
		return fmt.Errorf("%w: tensor %q: %d bytes for %d rows of %d", ErrShape, t.Name, len(t.Data), rows, rowBytes)
	}
	from, size := s.Col/k.block*k.size, s.N/k.block*k.size
	for i := range n {
		at := (row0+i)*rowBytes + from
		k.decode(dst[i*s.N:(i+1)*s.N], t.Data[at:at+size])
	}
	return nil
}
