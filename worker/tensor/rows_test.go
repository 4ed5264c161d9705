package tensor_test

import (
	"errors"
	"slices"
	"testing"

	"chorale/worker/tensor"
)

// numbers are rows of three columns: row r has 10r, 10r+1, 10r+2.
func numbers(dst []float32, row, n int) error {
	if len(dst) != 3*n || row < 0 || row+n > 4 {
		return errors.New("outside")
	}
	for i := range dst {
		dst[i] = float32(10*(row+i/3) + i%3)
	}
	return nil
}

func TestCuts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		read   tensor.Rows
		row, n int
		cols   int
		want   []float32
	}{
		{"rows", tensor.CutRows(tensor.Rows(numbers), tensor.Span{From: 1, Len: 2, Have: 2}, 3), 0, 2, 3, []float32{10, 11, 12, 20, 21, 22}},
		{"rows that end", tensor.CutRows(tensor.Rows(numbers), tensor.Span{From: 3, Len: 3, Have: 1}, 3), 0, 3, 3, []float32{30, 31, 32, 0, 0, 0, 0, 0, 0}},
		{"rows beyond", tensor.CutRows(tensor.Rows(numbers), tensor.Span{From: 3, Len: 3, Have: 1}, 3), 1, 2, 3, []float32{0, 0, 0, 0, 0, 0}},
		{"no rows", tensor.CutRows(tensor.Rows(numbers), tensor.Span{From: 9, Len: 2}, 3), 0, 1, 3, []float32{0, 0, 0}},
		{"columns", tensor.CutCols(tensor.Rows(numbers), tensor.Span{From: 1, Len: 2, Have: 2}, 3), 1, 3, 2, []float32{11, 12, 21, 22, 31, 32}},
		{"columns that end", tensor.CutCols(tensor.Rows(numbers), tensor.Span{From: 2, Len: 2, Have: 1}, 3), 0, 2, 2, []float32{2, 0, 12, 0}},
		{"no columns", tensor.CutCols(tensor.Rows(numbers), tensor.Span{From: 3, Len: 2}, 3), 0, 2, 2, []float32{0, 0, 0, 0}},
		{"all columns", tensor.CutCols(tensor.Rows(numbers), tensor.All(3), 3), 3, 1, 3, []float32{30, 31, 32}},
	} {
		got := make([]float32, tt.n*tt.cols)
		for i := range got {
			got[i] = -1
		}
		if err := tt.read(got, tt.row, tt.n); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
	cut := tensor.CutCols(tensor.Rows(numbers), tensor.Span{From: 1, Len: 1, Have: 1}, 3)
	if err := cut(make([]float32, 1), 9, 1); err == nil {
		t.Error("an error is lost")
	}
}
