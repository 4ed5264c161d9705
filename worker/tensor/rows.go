package tensor

// Span is a part of a dimension: Len from From on, of which those after the first
// Have do not exist and are zero.
type Span struct{ From, Len, Have int }

// All is the whole of a dimension.
func All(n int) Span { return Span{Len: n, Have: n} }

// CutRows reads a part of the rows of a matrix with so many columns.
func CutRows[V float32 | uint16, R ~func(dst []V, row, n int) error](read R, s Span, cols int) R {
	return func(dst []V, row, n int) error {
		have := min(max(s.Have-row, 0), n)
		clear(dst[have*cols:])
		if have == 0 {
			return nil
		}
		return read(dst[:have*cols], s.From+row, have)
	}
}

// PadCols widens rows of s.Have columns to s.Len.
func PadCols[V float32 | uint16, R ~func(dst []V, row, n int) error](read R, s Span) R {
	if s.Have == s.Len {
		return read
	}
	return func(dst []V, row, n int) error {
		narrow := make([]V, n*s.Have)
		if s.Have > 0 {
			if err := read(narrow, row, n); err != nil {
				return err
			}
		}
		clear(dst)
		for i := range n {
			copy(dst[i*s.Len:(i+1)*s.Len], narrow[i*s.Have:(i+1)*s.Have])
		}
		return nil
	}
}

// cutValues bounds what CutCols reads at a time.
const cutValues = 1 << 16

// CutCols reads a part of the columns of a matrix that has cols, by way of its
// whole rows.
func CutCols[V float32 | uint16, R ~func(dst []V, row, n int) error](read R, s Span, cols int) R {
	if s == All(cols) {
		return read
	}
	narrow := func(dst []V, row, n int) error {
		step := max(cutValues/cols, 1)
		wide := make([]V, min(step, n)*cols)
		for at := 0; at < n; at += step {
			k := min(step, n-at)
			if err := read(wide[:k*cols], row+at, k); err != nil {
				return err
			}
			for i := range k {
				copy(dst[(at+i)*s.Have:(at+i+1)*s.Have], wide[i*cols+s.From:])
			}
		}
		return nil
	}
	return PadCols(R(narrow), s)
}
