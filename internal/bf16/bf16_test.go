package bf16

import (
	"encoding/binary"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// nearest finds the bfloat16 next to f by trying its two neighbours.
func nearest(f float32) uint16 {
	down := uint16(math.Float32bits(f) >> 16)
	up := down + 1
	// Infinity counts as the next power of two.
	value := func(h uint16) float64 {
		if h&0x7fff == 0x7f80 {
			return math.Copysign(math.Ldexp(1, 128), float64(Float32(h)))
		}
		return float64(Float32(h))
	}
	lo, hi := math.Abs(float64(f)-value(down)), math.Abs(float64(f)-value(up))
	if lo < hi || lo == hi && down&1 == 0 {
		return down
	}
	return up
}

func TestRound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.SliceOfN(rapid.Uint32(), 0, 20).Draw(t, "bits")
		raw := make([]byte, 0, 4*len(bits))
		src := make([]float32, len(bits))
		for i, u := range bits {
			src[i], raw = math.Float32frombits(u), binary.LittleEndian.AppendUint32(raw, u)
		}
		dst, fromBytes := make([]uint16, len(src)), make([]uint16, len(src))
		Round(dst, src)
		RoundBytes(fromBytes, raw)
		for i, f := range src {
			if dst[i] != fromBytes[i] {
				t.Fatalf("%v is %#x, from bytes %#x", f, dst[i], fromBytes[i])
			}
			switch {
			case f != f:
				if g := Float32(dst[i]); g == g || math.Signbit(float64(g)) != math.Signbit(float64(f)) {
					t.Fatalf("NaN %#x becomes %v", bits[i], g)
				}
			case math.IsInf(float64(f), 0):
				if Float32(dst[i]) != f {
					t.Fatalf("%v becomes %v", f, Float32(dst[i]))
				}
			case dst[i] != nearest(f):
				t.Fatalf("%v (%#x) becomes %#x, want %#x", f, bits[i], dst[i], nearest(f))
			}
		}
	})
}

// TestExact: every bfloat16 survives the ways there and back.
func TestExact(t *testing.T) {
	all, raw := make([]uint16, 1<<16), make([]byte, 0, 1<<17)
	for i := range all {
		all[i] = uint16(i)
		raw = binary.LittleEndian.AppendUint16(raw, uint16(i))
	}
	wide, back, copied := make([]float32, len(all)), make([]uint16, len(all)), make([]uint16, len(all))
	Widen(wide, all)
	Round(back, wide)
	CopyBytes(copied, raw)
	for i, h := range all {
		nan := h&0x7fff > 0x7f80
		if copied[i] != h || !nan && back[i] != h || nan && back[i] != h|0x40 {
			t.Fatalf("%#x becomes %#x, copied %#x", h, back[i], copied[i])
		}
	}
	CopyBytes(copied[:3], raw[2:])
	if copied[0] != 1 || copied[2] != 3 {
		t.Errorf("copied %v", copied[:3])
	}
}

func BenchmarkRoundBytes(b *testing.B) {
	src, dst := make([]byte, 4<<20), make([]uint16, 1<<20)
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		RoundBytes(dst, src)
	}
}

func BenchmarkCopyBytes(b *testing.B) {
	src, dst := make([]byte, 2<<20), make([]uint16, 1<<20)
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		CopyBytes(dst, src)
	}
}
