package gguf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func BenchmarkOpen(b *testing.B) {
	// The shape of a small model: 49 k tokens and merges, 272 tensors.
	tokens, types := make([]string, 49152), make([]int32, 49152)
	for i := range tokens {
		tokens[i], types[i] = strings.Repeat("x", 1+i%12), 1
	}
	var tensors []Tensor
	for i := range 272 {
		t, err := NewTensor("blk."+strings.Repeat("i", i), F32, []int{32}, make([]float32, 32))
		if err != nil {
			b.Fatal(err)
		}
		tensors = append(tensors, t)
	}
	path := filepath.Join(b.TempDir(), "x.gguf")
	meta := []KeyValue{{"tokenizer.ggml.tokens", tokens}, {"tokenizer.ggml.merges", tokens}, {"tokenizer.ggml.token_type", types}}
	if err := os.WriteFile(path, written(b, meta, tensors...), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, vocab := range []bool{false, true} {
		name := map[bool]string{false: "header", true: "with vocabulary"}[vocab]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f, err := Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if vocab {
					if _, err := f.Vocab(); err != nil {
						b.Fatal(err)
					}
				}
				if err := f.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRows reports decoded f32 bytes per second.
func BenchmarkRows(b *testing.B) {
	for _, typ := range []Type{F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS} {
		b.Run(typ.String(), func(b *testing.B) {
			const cols = 4096
			t := Tensor{Name: "w", Type: typ, Shape: []int{16, cols}, Data: make([]byte, 16*cols/typ.BlockSize()*typ.BlockBytes())}
			for i := range t.Data {
				t.Data[i] = byte(i * 37 % 251)
			}
			dst := make([]float32, 16*cols)
			b.SetBytes(int64(4 * len(dst)))
			for b.Loop() {
				if err := t.Rows(dst, 0, 16); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
