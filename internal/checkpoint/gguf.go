package checkpoint

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"chorale/internal/bf16"
	"chorale/internal/gguf"
	"chorale/internal/tokenizer"
)

// ggufFile is a GGUF file seen through Hugging Face's names.
type ggufFile struct {
	path  string
	f     *gguf.File
	arch  string
	byHF  map[string]string // Hugging Face name → GGUF name
	heads int
	kv    int
	dim   int
}

// permuted are the architectures whose q and k rows llama.cpp's converter
// reorders for interleaved rotation.
var permuted = []string{"llama"}

// modelTypes maps GGUF architectures to Hugging Face's model types.
var modelTypes = map[string]string{"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "mistral": "mistral"}

// architectures are Hugging Face's class names for them.
var architectures = map[string]string{
	"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
}

// ggufNames maps the tensors outside the blocks, ggufBlock those inside.
var (
	ggufNames = map[string]string{
		"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
		"output.weight": "lm_head.weight",
	}
	ggufBlock = map[string]string{
		"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
		"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
		"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
		"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
	}
)

// ropeFactors is the tensor with llama3's frequency divisors; it goes into the
// configuration.
const ropeFactors = "rope_freqs.weight"

func openGGUF(path string) (files, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, path, err)
	}
	g := &ggufFile{path: path, f: f, byHF: map[string]string{}}
	if err := g.init(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return g, nil
}

func (g *ggufFile) init() error {
	g.arch, _ = g.f.String("general.architecture")
	if _, ok := modelTypes[g.arch]; !ok {
		return fmt.Errorf("%w: GGUF architecture %q (llama, mistral, qwen2, qwen3 are)", ErrUnsupported, g.arch)
	}
	g.heads = g.int("attention.head_count", 0)
	g.kv = g.int("attention.head_count_kv", g.heads)
	hidden := g.int("embedding_length", 0)
	if g.heads <= 0 || g.kv <= 0 || hidden <= 0 {
		return fmt.Errorf("%w: attention.head_count %d, head_count_kv %d, embedding_length %d", ErrFormat, g.heads, g.kv, hidden)
	}
	g.dim = g.int("attention.key_length", hidden/g.heads)
	if g.dim <= 0 || g.dim%2 != 0 {
		return fmt.Errorf("%w: attention.key_length is %d, of embedding_length %d and %d heads", ErrFormat, g.dim, hidden, g.heads)
	}
	for _, n := range g.f.Names() {
		if n == ropeFactors {
			continue
		}
		hf, ok := hfName(n)
		if !ok {
			hf = n // left for the model's loader to refuse by name
		}
		if prev, dup := g.byHF[hf]; dup {
			return fmt.Errorf("%w: tensors %s and %s are both %s", ErrFormat, prev, n, hf)
		}
		g.byHF[hf] = n
	}
	return nil
}

// hfName translates a tensor's name.
func hfName(n string) (string, bool) {
	if hf, ok := ggufNames[n]; ok {
		return hf, true
	}
	parts := strings.Split(n, ".")
	if len(parts) != 4 || parts[0] != "blk" {
		return "", false
	}
	if _, err := strconv.Atoi(parts[1]); err != nil {
		return "", false
	}
	hf, ok := ggufBlock[parts[2]]
	return "model.layers." + parts[1] + "." + hf + "." + parts[3], ok
}

// key prefixes a metadata key with the architecture.
func (g *ggufFile) key(k string) string { return g.arch + "." + k }

func (g *ggufFile) int(k string, def int) int {
	if v, ok := g.f.Int64(g.key(k)); ok {
		return int(v)
	}
	return def
}

func (g *ggufFile) config() ([]byte, error) {
	embed, ok := g.f.Tensor("token_embd.weight")
	if !ok || len(embed.Shape) != 2 {
		return nil, fmt.Errorf("%w: %s: token_embd.weight is missing or no matrix", ErrFormat, g.path)
	}
	_, untied := g.f.Tensor("output.weight")
	eps, _ := g.f.Float64(g.key("attention.layer_norm_rms_epsilon"))
	c := map[string]any{
		"model_type": modelTypes[g.arch], "architectures": []string{architectures[g.arch]},
		"vocab_size": embed.Shape[0], "hidden_size": g.int("embedding_length", 0),
		"intermediate_size": g.int("feed_forward_length", 0), "num_hidden_layers": g.int("block_count", 0),
		"num_attention_heads": g.heads, "num_key_value_heads": g.kv, "head_dim": g.dim,
		"max_position_embeddings": g.int("context_length", 0), "rms_norm_eps": eps,
		"hidden_act": "silu", "tie_word_embeddings": !untied,
	}
	if theta, ok := g.f.Float64(g.key("rope.freq_base")); ok {
		c["rope_theta"] = theta
	}
	if n := g.int("rope.dimension_count", g.dim); n != g.dim {
		c["partial_rotary_factor"] = float64(n) / float64(g.dim)
	}
	c["sliding_window"] = nil // none, which is not the family's default
	if w := g.int("attention.sliding_window", 0); w > 0 {
		c["sliding_window"] = w
		if strings.HasPrefix(g.arch, "qwen") {
			c["use_sliding_window"], c["max_window_layers"] = true, 0
		}
	}
	g.biases(c)
	if err := g.rope(c); err != nil {
		return nil, err
	}
	b, err := json.Marshal(c) // fails for NaN and infinities
	if err != nil {
		return nil, fmt.Errorf("%w: %s: metadata: %w", ErrFormat, g.path, err)
	}
	return b, nil
}

// biases tells from the tensors which biases a llama has.
func (g *ggufFile) biases(c map[string]any) {
	if g.arch != "llama" {
		return
	}
	_, attn := g.f.Tensor("blk.0.attn_q.bias")
	_, mlp := g.f.Tensor("blk.0.ffn_gate.bias")
	c["attention_bias"], c["mlp_bias"] = attn, mlp
}

func (g *ggufFile) rope(c map[string]any) error {
	if t, ok := g.f.Tensor(ropeFactors); ok {
		v := make([]float32, t.Len())
		if err := t.Rows(v, 0, t.NumRows()); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrFormat, g.path, err)
		}
		c["rope_freq_factors"] = v
	}
	kind, _ := g.f.String(g.key("rope.scaling.type"))
	if kind == "" || kind == "none" {
		return nil
	}
	s := map[string]any{"rope_type": kind}
	for k, hf := range map[string]string{
		"rope.scaling.factor": "factor", "rope.scaling.attn_factor": "attention_factor",
		"rope.scaling.yarn_beta_fast": "beta_fast", "rope.scaling.yarn_beta_slow": "beta_slow",
	} {
		if v, ok := g.f.Float64(g.key(k)); ok {
			s[hf] = v
		}
	}
	if v := g.int("rope.scaling.original_context_length", 0); v > 0 {
		s["original_max_position_embeddings"] = v
	}
	c["rope_scaling"] = s
	return nil
}

func (g *ggufFile) names() []string {
	out := make([]string, 0, len(g.byHF))
	for n := range g.byHF {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (g *ggufFile) tensor(name string) (Tensor, bool) {
	own, ok := g.byHF[name]
	if !ok {
		return Tensor{}, false
	}
	t, ok := g.f.Tensor(own)
	if !ok {
		return Tensor{}, false
	}
	out := Tensor{Shape: t.Shape, Raw: t.Data, Rows: t.Rows}
	if slices.Contains(permuted, g.arch) && (strings.Contains(name, ".q_proj.") || strings.Contains(name, ".k_proj.")) {
		out.Rows = g.unpermute(t)
	} else {
		out.Columns = func(from, n int) (ReadRows, ReadRows16, bool) { return columns(t, gguf.Span{Col: from, N: n}) }
	}
	out.Rows16 = rounded(out.Rows)
	return out, true
}

// columns reads columns that are whole blocks.
func columns(t gguf.Tensor, s gguf.Span) (ReadRows, ReadRows16, bool) {
	if !t.Whole(s) {
		return nil, nil, false
	}
	rows := func(dst []float32, row, n int) error { return t.Columns(dst, row, n, s) }
	return rows, rounded(rows), true
}

// rounded reads rows as bfloat16.
func rounded(read ReadRows) ReadRows16 {
	return func(dst []uint16, row, n int) error {
		scratch, _ := decoded.Get().(*[]float32)
		if scratch == nil {
			scratch = new([]float32)
		}
		defer decoded.Put(scratch)
		if len(*scratch) < len(dst) {
			*scratch = make([]float32, len(dst))
		}
		wide := (*scratch)[:len(dst)]
		if err := read(wide, row, n); err != nil {
			return err
		}
		bf16.Round(dst, wide)
		return nil
	}
}

// decoded holds *[]float32 that rows are decoded into before they are rounded.
var decoded sync.Pool

// unpermute reads q or k rows in Hugging Face's order. A bias is one row whose
// elements are permuted.
func (g *ggufFile) unpermute(t gguf.Tensor) ReadRows {
	if len(t.Shape) == 1 {
		return func(dst []float32, row, n int) error {
			src := make([]float32, len(dst))
			if err := t.Rows(src, row, n); err != nil {
				return err
			}
			return gguf.PermuteLlamaRows(dst, src, len(dst)/g.dim, g.dim, 1)
		}
	}
	cols := t.Cols()
	return func(dst []float32, row, n int) error {
		if len(dst) != n*cols {
			return fmt.Errorf("%w: %s: %d rows of %d into %d", ErrFormat, t.Name, n, cols, len(dst))
		}
		for i := range n {
			if err := t.Rows(dst[i*cols:(i+1)*cols], gguf.LlamaRow(row+i, g.dim), 1); err != nil {
				return err
			}
		}
		return nil
	}
}

func (g *ggufFile) tokenizer() (*tokenizer.Tokenizer, error) {
	v, err := g.f.Vocab()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, g.path, err)
	}
	t, err := tokenizer.FromGGUF(tokenizer.GGUFVocab{
		Model: v.Model, Pre: v.Pre, Tokens: v.Tokens, Types: v.Types, Scores: v.Scores, Merges: v.Merges,
		BOS: v.BOS, EOS: v.EOS, EOT: v.EOT, UNK: v.UNK, PAD: v.PAD,
		AddBOS: v.AddBOS, AddEOS: v.AddEOS, AddSpacePrefix: v.AddSpacePrefix,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, g.path, err)
	}
	return t, nil
}

func (g *ggufFile) chatTemplate() string {
	s, _ := g.f.String("tokenizer.chat_template")
	return s
}

func (g *ggufFile) specials() Specials {
	v, err := g.f.Vocab()
	if err != nil {
		return Specials{}
	}
	text := func(id int32) string {
		if id >= 0 && int(id) < len(v.Tokens) {
			return v.Tokens[id]
		}
		return ""
	}
	return Specials{BOS: text(v.BOS), EOS: text(v.EOS)}
}

func (g *ggufFile) eos() []int32 {
	v, err := g.f.Vocab()
	if err != nil {
		return nil
	}
	var ids []int32
	for _, id := range []int32{v.EOS, v.EOT} {
		if id >= 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

func (g *ggufFile) close() error { return g.f.Close() }
