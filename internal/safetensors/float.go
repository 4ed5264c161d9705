package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"

	"chorale/internal/bf16"
)

// Float32 converts all elements to f32 into dst, whose length must be t.Len().
// Every type but F64 converts exactly, with infinities, NaN, subnormals and
// signed zeros kept; F64 rounds to nearest even. Types that are not floats are
// ErrUnsupported, a dst of another length is ErrShape.
func (t Tensor) Float32(dst []float32) error {
	if !t.DType.IsFloat() {
		return fmt.Errorf("%w: tensor %q: %v is not a float type", ErrUnsupported, t.Name, t.DType)
	}
	if len(dst)*t.DType.Size() != len(t.Data) {
		return fmt.Errorf("%w: tensor %q: %d elements into %d",
			ErrShape, t.Name, len(t.Data)/t.DType.Size(), len(dst))
	}
	src := t.Data
	switch t.DType {
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = f16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case F8E4M3:
		lookup(dst, src, &e4m3)
	case F8E5M2:
		lookup(dst, src, &e5m2)
	case F8E8M0:
		lookup(dst, src, &e8m0)
	}
	return nil
}

// BF16 converts all elements to bfloat16 into dst, whose length must be t.Len(),
// rounding to nearest, ties to even. Errors are those of Float32.
func (t Tensor) BF16(dst []uint16) error {
	if t.DType == BF16 || t.DType == F32 {
		if len(dst)*t.DType.Size() != len(t.Data) {
			return fmt.Errorf("%w: tensor %q: %d elements into %d",
				ErrShape, t.Name, len(t.Data)/t.DType.Size(), len(dst))
		}
		if t.DType == BF16 {
			bf16.CopyBytes(dst, t.Data)
		} else {
			bf16.RoundBytes(dst, t.Data)
		}
		return nil
	}
	wide := make([]float32, len(dst))
	if err := t.Float32(wide); err != nil {
		return err
	}
	bf16.Round(dst, wide)
	return nil
}

func lookup(dst []float32, src []byte, table *[256]float32) {
	for i, c := range src {
		dst[i] = table[c]
	}
}

// f16 widens an IEEE binary16.
func f16(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp, frac := uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch exp {
	case 0: // zero or subnormal: frac · 2^-24, exact in f32
		return math.Float32frombits(math.Float32bits(float32(frac)*0x1p-24) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// Values of the one byte floats (OCP OFP8 and MX specifications).
var (
	e4m3 = table(func(b uint16) float32 {
		if b&0x7f == 0x7f {
			return f16((b&0x80)<<8 | 0x7e00)
		}
		// Widened to binary16's layout the exponent bias is off by 15-7 = 8.
		return f16((b&0x80)<<8|(b&0x7f)<<7) * 0x1p8
	})
	e5m2 = table(func(b uint16) float32 { return f16(b << 8) })
	e8m0 = table(func(b uint16) float32 {
		switch b {
		case 0xff:
			return float32(math.NaN())
		case 0: // 2^-127 is subnormal
			return 0x1p-127
		}
		return math.Float32frombits(uint32(b) << 23)
	})
)

func table(value func(b uint16) float32) (t [256]float32) {
	for i := range t {
		t[i] = value(uint16(i))
	}
	return t
}
