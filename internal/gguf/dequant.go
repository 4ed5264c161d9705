package gguf

import (
	"encoding/binary"
	"math"
)

// The decoders below take whole blocks: len(src) = len(dst)/block × size. In
// each, a product is converted to float32 before it is added, which forbids
// the compiler to fuse the two and so keeps the reference's rounding.

func decodeF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func decodeF64(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
	}
}

func decodeF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = f16(src[2*i:])
	}
}

func decodeBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

// f16 widens the binary16 at the start of b.
func f16(b []byte) float32 {
	h := uint32(binary.LittleEndian.Uint16(b))
	sign := h >> 15 << 31
	exp, frac := h>>10&0x1f, h&0x3ff
	switch exp {
	case 0: // zero or subnormal: frac · 2^-24, exact in f32
		return math.Float32frombits(math.Float32bits(float32(frac)*0x1p-24) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// decodeQ4_0: d f16, 16 bytes: low nibbles are elements 0…15, high 16…31.
// y = d (q - 8).
func decodeQ4_0(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[18:] {
		d, q, y := f16(src), (*[16]byte)(src[2:]), (*[32]float32)(dst)
		for i, b := range q {
			y[i] = d * float32(int32(b&15)-8)
			y[i+16] = d * float32(int32(b>>4)-8)
		}
	}
}

// decodeQ4_1: d, m f16, 16 bytes of nibbles. y = d q + m.
func decodeQ4_1(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[20:] {
		d, m := f16(src), f16(src[2:])
		q, y := (*[16]byte)(src[4:]), (*[32]float32)(dst)
		for i, b := range q {
			y[i] = float32(d*float32(int32(b&15))) + m
			y[i+16] = float32(d*float32(int32(b>>4))) + m
		}
	}
}

// decodeQ5_0: d f16, 32 high bits, 16 bytes of nibbles. y = d (q - 16).
func decodeQ5_0(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[22:] {
		d, high := f16(src), binary.LittleEndian.Uint32(src[2:])
		q, y := (*[16]byte)(src[6:]), (*[32]float32)(dst)
		for i, b := range q {
			lo := int32(b&15) | int32(high>>i&1)<<4
			hi := int32(b>>4) | int32(high>>(i+16)&1)<<4
			y[i] = d * float32(lo-16)
			y[i+16] = d * float32(hi-16)
		}
	}
}

// decodeQ5_1: d, m f16, 32 high bits, 16 bytes of nibbles. y = d q + m.
func decodeQ5_1(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[24:] {
		d, m, high := f16(src), f16(src[2:]), binary.LittleEndian.Uint32(src[4:])
		q, y := (*[16]byte)(src[8:]), (*[32]float32)(dst)
		for i, b := range q {
			lo := int32(b&15) | int32(high>>i&1)<<4
			hi := int32(b>>4) | int32(high>>(i+16)&1)<<4
			y[i] = float32(d*float32(lo)) + m
			y[i+16] = float32(d*float32(hi)) + m
		}
	}
}

// decodeQ8_0: d f16, 32 signed bytes. y = d q.
func decodeQ8_0(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[34:] {
		d, q, y := f16(src), (*[32]byte)(src[2:]), (*[32]float32)(dst)
		for i, b := range q {
			y[i] = d * float32(int8(b))
		}
	}
}

// nonlinear are the sixteen levels of the IQ4 types.
var nonlinear = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// fp4 are the levels of MXFP4 (E2M1), doubled; the scale is halved instead.
var fp4 = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// decodeLevels writes 32 elements: d times the level of each nibble.
func decodeLevels(y *[32]float32, q *[16]byte, d float32, levels *[16]float32) {
	for i, b := range q {
		y[i] = d * levels[b&15]
		y[i+16] = d * levels[b>>4]
	}
}

// decodeIQ4NL: d f16, 16 bytes of nibbles that index nonlinear.
func decodeIQ4NL(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[18:] {
		decodeLevels((*[32]float32)(dst), (*[16]byte)(src[2:]), f16(src), &nonlinear)
	}
}

// decodeIQ4XS: d f16, eight 6 bit scales (two high bits each in a u16, low
// nibbles in 4 bytes), then as IQ4_NL per 32 elements.
func decodeIQ4XS(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[136:] {
		d, high := f16(src), binary.LittleEndian.Uint16(src[2:])
		for g := range 8 {
			scale := int32(src[4+g/2]>>(4*(g%2))&15) | int32(high>>(2*g)&3)<<4
			decodeLevels((*[32]float32)(dst[32*g:]), (*[16]byte)(src[8+16*g:]), d*float32(scale-32), &nonlinear)
		}
	}
}

// decodeMXFP4: a power of two as one byte exponent, 16 bytes of E2M1 nibbles.
func decodeMXFP4(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[17:] {
		// 2^(e-127) halved; below 2 the result is subnormal.
		bits := uint32(0x00200000) << src[0]
		if src[0] >= 2 {
			bits = uint32(src[0]-1) << 23
		}
		decodeLevels((*[32]float32)(dst), (*[16]byte)(src[1:]), math.Float32frombits(bits), &fp4)
	}
}
