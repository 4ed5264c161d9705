package safetensors

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

func TestBlocks(t *testing.T) {
	x := Tensor{Name: "x", DType: BF16, Shape: []int{3, 4}}
	for i := range uint16(12) {
		x.Data = binary.LittleEndian.AppendUint16(x.Data, 0x3f80+i)
	}
	for _, tt := range []struct {
		b    Block
		want []uint16
	}{
		{Block{0, 3, 0, 4}, []uint16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
		{Block{1, 1, 0, 4}, []uint16{4, 5, 6, 7}},
		{Block{1, 2, 1, 2}, []uint16{5, 6, 9, 10}},
		{Block{2, 1, 3, 1}, []uint16{11}},
		{Block{3, 0, 0, 4}, nil},
		{Block{0, 3, 4, 0}, nil},
	} {
		got := make([]uint16, len(tt.want))
		wide := make([]float32, len(tt.want))
		if err := errors.Join(x.BF16Block(got, tt.b), x.Float32Block(wide, tt.b)); err != nil {
			t.Errorf("%+v: %v", tt.b, err)
		}
		for i := range got {
			if v := 1 + float32(tt.want[i])/128; wide[i] != v {
				t.Errorf("%+v: value %d is %v, want %v", tt.b, i, wide[i], v)
			}
			got[i] -= 0x3f80
		}
		if len(got) > 0 && !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.b, got, tt.want)
		}
	}
	for _, b := range []Block{{-1, 1, 0, 4}, {0, 4, 0, 4}, {0, 1, 1, 4}, {0, 1, -1, 4}, {4, 0, 0, 4}, {0, 1, 0, 3}} {
		if err := x.Float32Block(make([]float32, 4), b); !errors.Is(err, ErrShape) {
			t.Errorf("%+v: %v", b, err)
		}
	}
}
