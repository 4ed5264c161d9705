package collective

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// TestSum: the order of adding, whatever the length and wherever the sum goes.
func TestSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 3000).Draw(t, "n")
		size := rapid.IntRange(0, 9).Draw(t, "parts")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		parts := make([][]float32, size)
		want := make([]float32, n)
		for q := range parts {
			parts[q] = make([]float32, n)
			for i := range parts[q] {
				parts[q][i] = float32(math.Ldexp(r.Float64()-0.5, r.IntN(30)))
			}
			if q == 0 {
				copy(want, parts[0])
			} else {
				addGo(want, want, parts[q])
			}
		}
		dst := make([]float32, n)
		if size > 0 && rapid.Bool().Draw(t, "in place") {
			dst = parts[rapid.IntRange(0, size-1).Draw(t, "where")]
		}
		Sum(dst, parts)
		for i := range want {
			if math.Float32bits(dst[i]) != math.Float32bits(want[i]) {
				t.Fatalf("[%d] = %v, want %v", i, dst[i], want[i])
			}
		}
	})
}

func BenchmarkSum(b *testing.B) {
	parts := [][]float32{make([]float32, 1<<15), make([]float32, 1<<15), make([]float32, 1<<15), make([]float32, 1<<15)}
	b.SetBytes(4 << 15)
	for b.Loop() {
		Sum(parts[1], parts)
	}
}
