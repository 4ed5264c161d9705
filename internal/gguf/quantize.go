package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Quantize encodes values in type t: F32, F16, BF16, Q8_0, Q4_0 or Q4_1, with
// the same results as the reference quantisers (simple rounding, no search).
// The length must be a multiple of t.BlockSize() and all values finite, else
// ErrShape; other types are ErrUnsupported.
func Quantize(t Type, values []float32) ([]byte, error) {
	encode := map[Type]func(dst []byte, v []float32){
		F32: encodeF32, F16: encodeF16, BF16: encodeBF16, Q8_0: encodeQ8_0, Q4_0: encodeQ4_0, Q4_1: encodeQ4_1,
	}[t]
	if encode == nil {
		return nil, fmt.Errorf("%w: quantise to %v", ErrUnsupported, t)
	}
	k := kinds[t]
	if len(values)%k.block != 0 {
		return nil, fmt.Errorf("%w: %d values are no multiple of %v's blocks of %d", ErrShape, len(values), t, k.block)
	}
	for i, v := range values {
		if v-v != 0 {
			return nil, fmt.Errorf("%w: value %d is %v", ErrShape, i, v)
		}
	}
	out := make([]byte, len(values)/k.block*k.size)
	for i := range len(values) / k.block {
		encode(out[i*k.size:(i+1)*k.size], values[i*k.block:(i+1)*k.block])
	}
	return out, nil
}

// NewTensor encodes values (row-major, as many as shape says) for Write.
func NewTensor(name string, t Type, shape []int, values []float32) (Tensor, error) {
	out := Tensor{Name: name, Type: t, Shape: shape}
	if out.Len() != len(values) {
		return Tensor{}, fmt.Errorf("%w: tensor %q: shape %v with %d values", ErrShape, name, shape, len(values))
	}
	if b := t.BlockSize(); b > 0 && out.Cols()%b != 0 {
		return Tensor{}, fmt.Errorf("%w: tensor %q: rows of %d are no multiple of %v's blocks of %d",
			ErrShape, name, out.Cols(), t, b)
	}
	var err error
	if out.Data, err = Quantize(t, values); err != nil {
		return Tensor{}, fmt.Errorf("tensor %q: %w", name, err)
	}
	return out, nil
}

func encodeF32(dst []byte, v []float32) {
	binary.LittleEndian.PutUint32(dst, math.Float32bits(v[0]))
}

func encodeF16(dst []byte, v []float32) { putF16(dst, v[0]) }

func encodeBF16(dst []byte, v []float32) {
	n := math.Float32bits(v[0])
	binary.LittleEndian.PutUint16(dst, uint16((n+0x7fff+n>>16&1)>>16)) // to nearest even
}

// putF16 rounds v to nearest even; beyond 65504 it becomes infinity.
func putF16(dst []byte, v float32) {
	n := math.Float32bits(v)
	sign, abs := uint16(n>>16&0x8000), n&0x7fffffff
	var h uint16
	switch {
	case abs >= 0x47800000: // 2^16 and above
		h = 0x7c00
	case abs < 0x38800000: // below 2^-14: a multiple of 2^-24, rounded by the FPU
		h = uint16(math.RoundToEven(float64(math.Float32frombits(abs)) * 0x1p24))
	default: // rounding may carry into the exponent, also to infinity
		h = uint16((abs + 0xfff + abs>>13&1 - 112<<23) >> 13)
	}
	binary.LittleEndian.PutUint16(dst, sign|h)
}

// inverse returns 1/d, or 0 for d = 0, as the reference does.
func inverse(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

func encodeQ8_0(dst []byte, v []float32) {
	var top float32
	for _, x := range v {
		top = max(top, float32(math.Abs(float64(x))))
	}
	d := top / 127
	id := inverse(d)
	putF16(dst, d)
	for i, x := range v {
		dst[2+i] = byte(int8(math.Round(float64(x * id)))) // half away from zero
	}
}

func encodeQ4_0(dst []byte, v []float32) {
	var top, abs float32 // the value of largest magnitude, the first of equals
	for _, x := range v {
		if a := float32(math.Abs(float64(x))); a > abs {
			top, abs = x, a
		}
	}
	d := top / -8
	id := inverse(d)
	putF16(dst, d)
	packNibbles(dst[2:], v, func(x float32) float32 { return float32(x*id) + 8.5 })
}

func encodeQ4_1(dst []byte, v []float32) {
	lo, hi := v[0], v[0]
	for _, x := range v {
		lo, hi = min(lo, x), max(hi, x)
	}
	d := (hi - lo) / 15
	id := inverse(d)
	putF16(dst, d)
	putF16(dst[2:], lo)
	packNibbles(dst[4:], v, func(x float32) float32 { return float32((x-lo)*id) + 0.5 })
}

// packNibbles truncates level(x) to 0…15; elements 0…15 go to low nibbles.
func packNibbles(dst []byte, v []float32, level func(float32) float32) {
	nibble := func(x float32) byte { return byte(min(max(level(x), 0), 15)) }
	for i := range 16 {
		dst[i] = nibble(v[i]) | nibble(v[i+16])<<4
	}
}
