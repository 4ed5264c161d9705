package gguf

import "fmt"

// llama.cpp stores the q and k projections of llama-family models (its
// architecture "llama", which includes Mistral and SmolLM) with their rows
// reordered, so that rotary embedding can rotate neighbours (2i, 2i+1) instead
// of halves (i, i+headDim/2) as Hugging Face does. Within each head h:
//
//	Hugging Face row h·D + j·D/2 + i  =  GGUF row h·D + 2i + j,  j ∈ {0, 1}
//
// Attention does not notice, as q and k are reordered alike, but LoRA B rows
// and anything else trained against the Hugging Face order does. k has the
// number of key-value heads. Biases of q and k are reordered the same way; v
// and o are not. Architectures that rotate halves in llama.cpp too (Qwen2,
// Qwen3, Gemma, Phi, …) are not reordered.

// LlamaRow returns the GGUF row that holds Hugging Face row r, for heads of
// headDim rows (even).
func LlamaRow(r, headDim int) int {
	h, k := r/headDim, r%headDim
	j, i := k/(headDim/2), k%(headDim/2)
	return h*headDim + 2*i + j
}

// PermuteLlamaRows copies src, heads × headDim rows of cols elements in GGUF
// order, to dst in Hugging Face order. Pass cols = 1 for a bias. T is any
// element, so decoded values and encoded rows (bytes, with cols the bytes of a
// row) both work. dst and src must not overlap. An odd or non-positive head
// dimension or lengths that do not fit are ErrShape.
func PermuteLlamaRows[T any](dst, src []T, heads, headDim, cols int) error {
	if heads <= 0 || headDim <= 0 || headDim%2 != 0 || cols <= 0 {
		return fmt.Errorf("%w: permute %d heads of %d rows of %d", ErrShape, heads, headDim, cols)
	}
	rows := heads * headDim
	if len(src)/cols != rows || len(src)%cols != 0 || len(dst) != len(src) {
		return fmt.Errorf("%w: permute %d×%d rows of %d: %d elements into %d",
			ErrShape, heads, headDim, cols, len(src), len(dst))
	}
	for r := range rows {
		s := LlamaRow(r, headDim) * cols
		copy(dst[r*cols:(r+1)*cols], src[s:s+cols])
	}
	return nil
}
