package gguf

import (
	"errors"
	"slices"
	"testing"
)

// TestColumns: a span of whole blocks is what whole rows have there.
func TestColumns(t *testing.T) {
	const rows, cols = 3, 128
	values := make([]float32, rows*cols)
	for i := range values {
		values[i] = float32(i%37) - 11
	}
	for _, typ := range []Type{F32, F16, Q4_1, Q8_0} {
		x, err := NewTensor("x", typ, []int{rows, cols}, values)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]float32, rows*cols)
		if err := x.Rows(all, 0, rows); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, 2*64)
		if err := x.Columns(got, 1, 2, Span{32, 64}); err != nil {
			t.Fatal(err)
		}
		if want := slices.Concat(all[cols+32:cols+96], all[2*cols+32:2*cols+96]); !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", typ, got, want)
		}
		if whole := x.Whole(Span{8, 64}); whole != (typ.BlockSize() == 1) {
			t.Errorf("%v: columns from 8 on are whole: %v", typ, whole)
		}
		for _, s := range []Span{{96, 64}, {-32, 64}, {0, 0}, {0, 32}} {
			if err := x.Columns(got, 1, 2, s); !errors.Is(err, ErrShape) {
				t.Errorf("%v %+v: %v", typ, s, err)
			}
		}
		for _, r := range [][2]int{{2, 2}, {-1, 2}, {0, -1}, {4, 0}} {
			if err := x.Columns(got, r[0], r[1], Span{32, 64}); !errors.Is(err, ErrShape) {
				t.Errorf("%v rows %v: %v", typ, r, err)
			}
		}
		broken := x
		broken.Data = x.Data[:len(x.Data)-1]
		if err := broken.Columns(got, 1, 2, Span{32, 64}); !errors.Is(err, ErrShape) {
			t.Errorf("%v: short data: %v", typ, err)
		}
	}
	if err := (Tensor{Name: "x", Type: 19 /* IQ1_S */, Shape: []int{1, 256}}).Columns(make([]float32, 256), 0, 1, Span{0, 256}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a type that cannot be decoded: %v", err)
	}
}
