// Package bf16 converts between float32 and bfloat16, the upper half of a
// float32. Rounding is to nearest, ties to even; a NaN stays a (quiet) NaN.
package bf16

import (
	"encoding/binary"
	"math"
	"unsafe"
)

// Of rounds one value.
func Of(f float32) uint16 { return ofBits(math.Float32bits(f)) }

func ofBits(u uint32) uint16 {
	if u&0x7fffffff > 0x7f800000 {
		return uint16(u>>16) | 0x40
	}
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

// Float32 widens one value exactly.
func Float32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// Round rounds src into dst, which has its length.
func Round(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	for i, f := range src {
		dst[i] = Of(f)
	}
}

// RoundBytes rounds float32 values, little-endian as files have them.
func RoundBytes(dst []uint16, src []byte) {
	for len(dst) >= 4 && len(src) >= 16 { // four a turn: twice as fast as one
		lo, hi := binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint64(src[8:])
		d := dst[:4:4]
		d[0], d[1] = ofBits(uint32(lo)), ofBits(uint32(lo>>32))
		d[2], d[3] = ofBits(uint32(hi)), ofBits(uint32(hi>>32))
		dst, src = dst[4:], src[16:]
	}
	for i := range dst {
		dst[i] = ofBits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// CopyBytes takes over bfloat16 values, little-endian as files have them.
func CopyBytes(dst []uint16, src []byte) {
	if len(dst) == 0 {
		return
	}
	if littleEndian {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), 2*len(dst)), src)
		return
	}
	for i := range dst {
		dst[i] = binary.LittleEndian.Uint16(src[2*i:])
	}
}

// Widen is the exact reverse of Round for values that are bfloat16.
func Widen(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, h := range src {
		dst[i] = Float32(h)
	}
}
