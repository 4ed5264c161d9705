package gguf

import (
	"encoding/binary"
	"math"
)

// The K types encode 256 elements as 8 or 16 groups with their own scales,
// themselves quantised against one f16 (two with an offset). Element order:
// the 2 and 3 bit types (and the high bits of 6) put elements l, l+32, l+64,
// l+96 of each 128 into one byte, the 4 and 5 bit types l and l+32 of each 64.

// decodeQ2K: 16 bytes scale|min nibbles, 64 bytes, d, dmin f16.
// y = (d·scale) q - (dmin·min), groups of 16.
func decodeQ2K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[84:] {
		scales, qs := (*[16]byte)(src), (*[64]byte)(src[16:])
		d, dmin := f16(src[80:]), f16(src[82:])
		for g, s := range scales {
			dl, ml := d*float32(int32(s&15)), dmin*float32(int32(s>>4))
			q := (*[16]byte)(qs[32*(g/8)+16*(g%2):])
			y, shift := (*[16]float32)(dst[16*g:]), 2*(g/2%4)
			for i, b := range q {
				y[i] = float32(dl*float32(int32(b>>shift&3))) - ml
			}
		}
	}
}

// decodeQ3K: 32 bytes of high bits, 64 bytes, twelve bytes with 16 scales of 6
// bits, d f16. y = (d·(scale - 32)) (q - 4 unless the high bit is set).
func decodeQ3K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[110:] {
		high, qs, scales := (*[32]byte)(src), (*[64]byte)(src[32:]), (*[12]byte)(src[96:])
		d := f16(src[108:])
		for g := range 16 {
			scale := int32(scales[g%8]>>(4*(g/8))&15) | int32(scales[8+g%4]>>(2*(g/4))&3)<<4
			dl := d * float32(scale-32)
			q, h := (*[16]byte)(qs[32*(g/8)+16*(g%2):]), (*[16]byte)(high[16*(g%2):])
			y, shift, bit := (*[16]float32)(dst[16*g:]), 2*(g/2%4), g/2
			for i, b := range q {
				y[i] = dl * float32(int32(b>>shift&3)-4+4*int32(h[i]>>bit&1))
			}
		}
	}
}

// scaleMin unpacks the g-th of eight 6 bit (scale, min) pairs in 12 bytes.
func scaleMin(s *[12]byte, g int) (scale, low float32) {
	if g < 4 {
		return float32(s[g] & 63), float32(s[g+4] & 63)
	}
	return float32(s[g+4]&15 | s[g-4]>>6<<4), float32(s[g+4]>>4 | s[g]>>6<<4)
}

// decodeQ4K: d, dmin f16, twelve bytes of scales, 128 bytes of nibbles.
// y = (d·scale) q - (dmin·min), groups of 32.
func decodeQ4K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[144:] {
		d, dmin, scales := f16(src), f16(src[2:]), (*[12]byte)(src[4:])
		for g := range 8 {
			scale, low := scaleMin(scales, g)
			dl, ml := d*scale, dmin*low
			q, y, shift := (*[32]byte)(src[16+32*(g/2):]), (*[32]float32)(dst[32*g:]), 4*(g%2)
			for i, b := range q {
				y[i] = float32(dl*float32(int32(b>>shift&15))) - ml
			}
		}
	}
}

// decodeQ5K: as Q4_K with 32 bytes of high bits before the nibbles.
func decodeQ5K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[176:] {
		d, dmin, scales := f16(src), f16(src[2:]), (*[12]byte)(src[4:])
		high := (*[32]byte)(src[16:])
		for g := range 8 {
			scale, low := scaleMin(scales, g)
			dl, ml := d*scale, dmin*low
			q, y, shift := (*[32]byte)(src[48+32*(g/2):]), (*[32]float32)(dst[32*g:]), 4*(g%2)
			for i, b := range q {
				y[i] = float32(dl*float32(int32(b>>shift&15)|int32(high[i]>>g&1)<<4)) - ml
			}
		}
	}
}

// decodeQ6K: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed
// scales, d f16. y = (d·scale) (q - 32), groups of 16.
func decodeQ6K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[210:] {
		low, high, scales := (*[128]byte)(src), (*[64]byte)(src[128:]), (*[16]byte)(src[192:])
		d := f16(src[208:])
		for g, s := range scales {
			dl := d * float32(int8(s))
			// Group g is half g%2 of the 32 elements g/2; those come in fours per 128.
			half, four, k := 16*(g%2), g/8, g/2%4
			ql := (*[16]byte)(low[64*four+32*(k%2)+half:])
			qh := (*[16]byte)(high[32*four+half:])
			y, shift, bits := (*[16]float32)(dst[16*g:]), 4*(k/2), 2*k
			for i, b := range ql {
				y[i] = dl * float32((int32(b>>shift&15)|int32(qh[i]>>bits&3)<<4)-32)
			}
		}
	}
}

// decodeQ8K: d f32, 256 signed bytes, 16 sums that decoding does not need.
func decodeQ8K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[292:] {
		d := math.Float32frombits(binary.LittleEndian.Uint32(src))
		q, y := (*[256]byte)(src[4:]), (*[256]float32)(dst)
		for i, b := range q {
			y[i] = d * float32(int8(b))
		}
	}
}
