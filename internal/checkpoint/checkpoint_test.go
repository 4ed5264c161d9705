package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorale/internal/bf16"
	"chorale/internal/gguf"
)

// The tiny model of these tests.
const (
	hidden, heads, headDim, ffn, vocab = 8, 2, 4, 6, 5
)

// values numbers a tensor's elements.
func values(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(i)
	}
	return v
}

// ggufModel is a complete GGUF file of one layer.
func ggufModel(t testing.TB) ([]gguf.KeyValue, []gguf.Tensor) {
	t.Helper()
	meta := []gguf.KeyValue{
		{Key: "general.architecture", Value: "llama"},
		{Key: "llama.block_count", Value: uint32(1)},
		{Key: "llama.context_length", Value: uint32(64)},
		{Key: "llama.embedding_length", Value: uint32(hidden)},
		{Key: "llama.feed_forward_length", Value: uint32(ffn)},
		{Key: "llama.attention.head_count", Value: uint32(heads)},
		{Key: "llama.attention.head_count_kv", Value: uint32(1)},
		{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		{Key: "llama.rope.freq_base", Value: float32(10000)},
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.pre", Value: "gpt-2"},
		{Key: "tokenizer.ggml.tokens", Value: []string{"a", "b", "ab", "<s>", "</s>"}},
		{Key: "tokenizer.ggml.token_type", Value: []int32{1, 1, 1, 3, 3}},
		{Key: "tokenizer.ggml.merges", Value: []string{"a b"}},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(3)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(4)},
		{Key: "tokenizer.chat_template", Value: "{{ messages }}"},
	}
	var ts []gguf.Tensor
	for _, s := range []struct {
		name  string
		shape []int
	}{
		{"token_embd.weight", []int{vocab, hidden}},
		{"output_norm.weight", []int{hidden}},
		{"blk.0.attn_norm.weight", []int{hidden}},
		{"blk.0.ffn_norm.weight", []int{hidden}},
		{"blk.0.attn_q.weight", []int{hidden, hidden}},
		{"blk.0.attn_k.weight", []int{headDim, hidden}},
		{"blk.0.attn_v.weight", []int{headDim, hidden}},
		{"blk.0.attn_output.weight", []int{hidden, hidden}},
		{"blk.0.ffn_gate.weight", []int{ffn, hidden}},
		{"blk.0.ffn_up.weight", []int{ffn, hidden}},
		{"blk.0.ffn_down.weight", []int{hidden, ffn}},
	} {
		ts = append(ts, ggufTensor(t, s.name, s.shape...))
	}
	return meta, ts
}

func ggufTensor(t testing.TB, name string, shape ...int) gguf.Tensor {
	t.Helper()
	n := 1
	for _, d := range shape {
		n *= d
	}
	out, err := gguf.NewTensor(name, gguf.F32, shape, values(n))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func set(meta []gguf.KeyValue, key string, v any) []gguf.KeyValue {
	out := slices.DeleteFunc(slices.Clone(meta), func(kv gguf.KeyValue) bool { return kv.Key == key })
	if v != nil {
		out = append(out, gguf.KeyValue{Key: key, Value: v})
	}
	return out
}

func without(ts []gguf.Tensor, name string) []gguf.Tensor {
	return slices.DeleteFunc(slices.Clone(ts), func(t gguf.Tensor) bool { return t.Name == name })
}

func encode(t *testing.T, meta []gguf.KeyValue, ts []gguf.Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := gguf.Write(&b, meta, ts); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// place writes files into a new folder and returns its path.
func place(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, path string) *Checkpoint {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func openGGUFBytes(t *testing.T, b []byte) (*Checkpoint, error) {
	t.Helper()
	c, err := Open(filepath.Join(place(t, map[string]string{"m.gguf": string(b)}), "m.gguf"))
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func TestGGUF(t *testing.T) {
	meta, ts := ggufModel(t)
	dir := place(t, map[string]string{"m.gguf": string(encode(t, meta, ts))})
	c := open(t, dir) // the only GGUF file of a folder
	if err := c.OpenWeights(); err != nil {
		t.Fatal(err)
	}
	var cfg map[string]any
	if err := json.Unmarshal(c.Config, &cfg); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{
		"model_type": "llama", "vocab_size": 5.0, "hidden_size": 8.0, "intermediate_size": 6.0, "num_hidden_layers": 1.0,
		"num_attention_heads": 2.0, "num_key_value_heads": 1.0, "head_dim": 4.0, "max_position_embeddings": 64.0,
		"rope_theta": 10000.0, "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
	} {
		if cfg[k] != want {
			t.Errorf("%s is %v, want %v", k, cfg[k], want)
		}
	}
	if len(c.Names()) != len(ts) || !slices.Contains(c.Names(), "model.layers.0.self_attn.q_proj.weight") {
		t.Errorf("names %v", c.Names())
	}
	if _, ok := c.Tensor("token_embd.weight"); ok {
		t.Error("a tensor is found by GGUF's name")
	}
	if s := c.Specials(); s.BOS != "<s>" || s.EOS != "</s>" || c.ChatTemplate() != "{{ messages }}" || !slices.Equal(c.EOS(), []int32{4}) {
		t.Errorf("specials %+v, template %q, ends %v", s, c.ChatTemplate(), c.EOS())
	}
	tok, err := c.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	if ids := tok.Encode("ab", false); !slices.Equal(ids, []int32{2}) {
		t.Errorf("tokens %v", ids)
	}
}

// TestColumns: both kinds of file give parts of rows, but for q and k of a llama,
// whose rows GGUF has in another order.
func TestColumns(t *testing.T) {
	meta, ts := ggufModel(t)
	c, err := openGGUFBytes(t, encode(t, meta, ts))
	if err != nil {
		t.Fatal(err)
	}
	down, _ := c.Tensor("model.layers.0.mlp.down_proj.weight")
	rows, rows16, ok := down.Columns(2, 3)
	if !ok {
		t.Fatal("no columns")
	}
	got, half := make([]float32, 6), make([]uint16, 6)
	if err := errors.Join(rows(got, 1, 2), rows16(half, 1, 2)); err != nil {
		t.Fatal(err)
	}
	if want := []float32{ffn + 2, ffn + 3, ffn + 4, 2*ffn + 2, 2*ffn + 3, 2*ffn + 4}; !slices.Equal(got, want) || half[5] != bf16.Of(got[5]) {
		t.Errorf("%v, %v, want %v", got, half, want)
	}
	if _, _, ok := down.Columns(5, 3); ok {
		t.Error("columns beyond the last")
	}
	if q, _ := c.Tensor("model.layers.0.self_attn.q_proj.weight"); q.Columns != nil {
		t.Error("columns of rows in another order")
	}
}

// TestGGUFRows: q and k of a llama come in Hugging Face's order, v as it is.
func TestGGUFRows(t *testing.T) {
	meta, ts := ggufModel(t)
	ts = append(ts, ggufTensor(t, "blk.0.attn_q.bias", hidden))
	c, err := openGGUFBytes(t, encode(t, meta, ts))
	if err != nil {
		t.Fatal(err)
	}
	first := func(name string) []int { // first column of each row, as a row number
		tensor, ok := c.Tensor(name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		dst := make([]float32, tensor.Shape[0]*hidden)
		// In two pieces that part a head.
		if err := errors.Join(tensor.Rows(dst[:3*hidden], 0, 3), tensor.Rows(dst[3*hidden:], 3, tensor.Shape[0]-3)); err != nil {
			t.Fatal(err)
		}
		half := make([]uint16, len(dst))
		if err := errors.Join(tensor.Rows16(half[:3*hidden], 0, 3), tensor.Rows16(half[3*hidden:], 3, tensor.Shape[0]-3)); err != nil {
			t.Fatal(err)
		}
		var out []int
		for i, v := range dst {
			if half[i] != bf16.Of(v) {
				t.Fatalf("%s: value %d is %v, as bfloat16 %#x", name, i, v, half[i])
			}
		}
		for r := range tensor.Shape[0] {
			out = append(out, int(dst[r*hidden])/hidden)
		}
		return out
	}
	// llama.cpp stores rows 0 2 1 3 of each head of four.
	if got := first("model.layers.0.self_attn.q_proj.weight"); !slices.Equal(got, []int{0, 2, 1, 3, 4, 6, 5, 7}) {
		t.Errorf("q rows %v", got)
	}
	if got := first("model.layers.0.self_attn.k_proj.weight"); !slices.Equal(got, []int{0, 2, 1, 3}) {
		t.Errorf("k rows %v", got)
	}
	if got := first("model.layers.0.self_attn.v_proj.weight"); !slices.Equal(got, []int{0, 1, 2, 3}) {
		t.Errorf("v rows %v", got)
	}
	bias, _ := c.Tensor("model.layers.0.self_attn.q_proj.bias")
	dst := make([]float32, hidden)
	if err := bias.Rows(dst, 0, 1); err != nil || !slices.Equal(dst, []float32{0, 2, 1, 3, 4, 6, 5, 7}) {
		t.Errorf("q bias %v, %v", dst, err)
	}
	q, _ := c.Tensor("model.layers.0.self_attn.q_proj.weight")
	for _, r := range []struct{ size, row, n int }{{hidden, 8, 1}, {hidden, -4, 1}, {hidden - 1, 0, 1}, {2 * hidden, 7, 2}} {
		if err := q.Rows(make([]float32, r.size), r.row, r.n); err == nil {
			t.Errorf("rows %d to %d into %d values: no error", r.row, r.row+r.n, r.size)
		}
		if err := q.Rows16(make([]uint16, r.size), r.row, r.n); err == nil {
			t.Errorf("rows %d to %d into %d bfloat16: no error", r.row, r.row+r.n, r.size)
		}
	}
	if !strings.Contains(string(c.Config), `"attention_bias":true`) {
		t.Errorf("config %s", c.Config)
	}
}

// TestGGUFErrors: what is wrong with a file is told, with its path.
func TestGGUFErrors(t *testing.T) {
	meta, ts := ggufModel(t)
	whole := encode(t, meta, ts)
	for _, tt := range []struct {
		name string
		file []byte
		kind error
		want string
	}{
		{"no embedding", encode(t, meta, without(ts, "token_embd.weight")), ErrFormat, "token_embd.weight"},
		{"embedding a vector", encode(t, meta, append(without(ts, "token_embd.weight"), ggufTensor(t, "token_embd.weight", hidden))), ErrFormat, "token_embd.weight"},
		{"unknown architecture", encode(t, set(meta, "general.architecture", "mamba"), ts), ErrUnsupported, `"mamba"`},
		{"no architecture", encode(t, set(meta, "general.architecture", nil), ts), ErrUnsupported, `""`},
		{"architecture a number", encode(t, set(meta, "general.architecture", uint32(3)), ts), ErrUnsupported, `""`},
		{"no heads", encode(t, set(meta, "llama.attention.head_count", nil), ts), ErrFormat, "head_count"},
		{"negative heads", encode(t, set(meta, "llama.attention.head_count_kv", int32(-1)), ts), ErrFormat, "head_count_kv"},
		{"more heads than channels", encode(t, set(meta, "llama.attention.head_count", uint32(99)), ts), ErrFormat, "key_length"},
		{"head of no width", encode(t, set(meta, "llama.attention.key_length", uint32(0)), ts), ErrFormat, "key_length"},
		{"odd head", encode(t, set(meta, "llama.attention.key_length", uint32(3)), ts), ErrFormat, "key_length"},
		{"eps NaN", encode(t, set(meta, "llama.attention.layer_norm_rms_epsilon", float32(math.NaN())), ts), ErrFormat, "NaN"},
		{"theta infinite", encode(t, set(meta, "llama.rope.freq_base", float32(math.Inf(1))), ts), ErrFormat, "Inf"},
		{"one tensor under two names", encode(t, meta, append(slices.Clone(ts), ggufTensor(t, "model.norm.weight", hidden))), ErrFormat, "model.norm.weight"},
		{"name twice", bytes.Replace(whole, []byte("blk.0.attn_v.weight"), []byte("blk.0.attn_q.weight"), 1), ErrFormat, "blk.0.attn_q.weight"},
		{"empty", nil, ErrFormat, "m.gguf"},
		{"no GGUF", []byte("hello"), ErrFormat, "m.gguf"},
	} {
		_, err := openGGUFBytes(t, tt.file)
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "m.gguf") {
			t.Errorf("%s: %v, want a word about %s", tt.name, err, tt.want)
		}
	}
}

// exercise does with a checkpoint whatever can be done; only panics matter.
func exercise(c *Checkpoint) {
	_ = c.OpenWeights()
	_ = c.Fingerprint()
	_, _, _ = c.Specials(), c.EOS(), c.ChatTemplate()
	_, _ = c.Tokenizer()
	for _, n := range c.Names() {
		t, ok := c.Tensor(n)
		if !ok {
			continue
		}
		size := 1
		for _, d := range t.Shape {
			size *= d
		}
		if size < 0 || size > 1<<16 {
			continue
		}
		rows := 1
		if len(t.Shape) > 1 {
			rows = t.Shape[0]
		}
		_ = t.Rows(make([]float32, size), 0, rows)
		_ = t.Rows(make([]float32, size), rows, 1)
	}
}

// TestGGUFDamage: a file that is cut anywhere, or lies about a length, a shape
// or an offset, gives errors.
func TestGGUFDamage(t *testing.T) {
	meta, ts := ggufModel(t)
	whole := encode(t, meta, ts)
	for n := 0; n < len(whole); n += 1 + n/64 {
		c, err := openGGUFBytes(t, whole[:n])
		if err == nil {
			exercise(c)
			t.Errorf("%d of %d bytes are taken for a model", n, len(whole))
		} else if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	at := bytes.Index(whole, []byte("blk.0.attn_q.weight"))
	dims := at + len("blk.0.attn_q.weight") + 4
	for _, lie := range []uint64{0, 1, 7, 9, 1 << 20, 1 << 40, 1 << 62, math.MaxUint64} {
		for _, where := range []int{dims - 12 - len("blk.0.attn_q.weight"), dims, dims + 8, dims + 20} {
			b := bytes.Clone(whole)
			binary.LittleEndian.PutUint64(b[where:], lie)
			if c, err := openGGUFBytes(t, b); err == nil {
				exercise(c)
			}
		}
	}
}

func FuzzGGUF(f *testing.F) {
	meta, ts := ggufModel(f)
	var b bytes.Buffer
	if err := gguf.Write(&b, meta, ts); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:400])
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := gguf.Parse(b)
		if err != nil {
			return
		}
		m := &ggufFile{path: "m.gguf", f: g, byHF: map[string]string{}}
		if m.init() != nil {
			return
		}
		c := &Checkpoint{files: m}
		if c.Config, err = m.config(); err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("an error of no kind: %v", err)
		}
		exercise(c)
	})
}

// TestGGUFConfig: what metadata means in Hugging Face's words.
func TestGGUFConfig(t *testing.T) {
	meta, ts := ggufModel(t)
	config := func(meta []gguf.KeyValue, ts []gguf.Tensor) map[string]any {
		t.Helper()
		c, err := openGGUFBytes(t, encode(t, meta, ts))
		if err != nil {
			t.Fatal(err)
		}
		var cfg map[string]any
		if err := json.Unmarshal(c.Config, &cfg); err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	if c := config(meta, append(slices.Clone(ts), ggufTensor(t, "output.weight", vocab, hidden))); c["tie_word_embeddings"] != false {
		t.Errorf("with a head of its own: %v", c)
	}
	freqs, err := gguf.NewTensor("rope_freqs.weight", gguf.F32, []int{2}, []float32{1, 8})
	if err != nil {
		t.Fatal(err)
	}
	if c := config(meta, append(slices.Clone(ts), freqs)); !slices.Equal(c["rope_freq_factors"].([]any), []any{1.0, 8.0}) {
		t.Errorf("frequency factors: %v", c["rope_freq_factors"])
	}
	yarn := set(set(set(meta, "llama.rope.scaling.type", "yarn"), "llama.rope.scaling.factor", float32(4)), "llama.rope.scaling.original_context_length", uint32(16))
	if s, ok := config(yarn, ts)["rope_scaling"].(map[string]any); !ok || s["rope_type"] != "yarn" || s["factor"] != 4.0 || s["original_max_position_embeddings"] != 16.0 {
		t.Errorf("yarn: %v", s)
	}
	if c := config(set(meta, "llama.rope.scaling.type", "none"), ts); c["rope_scaling"] != nil {
		t.Errorf("no scaling: %v", c["rope_scaling"])
	}
	if c := config(set(meta, "llama.rope.dimension_count", uint32(2)), ts); c["partial_rotary_factor"] != 0.5 {
		t.Errorf("partial rotation: %v", c["partial_rotary_factor"])
	}
	if w, ok := config(meta, ts)["sliding_window"]; w != nil || !ok {
		t.Errorf("no window is %v, %v: it must be null, lest it be the family's default", w, ok)
	}
	if c := config(set(meta, "llama.attention.sliding_window", uint32(32)), ts); c["sliding_window"] != 32.0 {
		t.Errorf("window: %v", c["sliding_window"])
	}
}

func TestNotFound(t *testing.T) {
	meta, ts := ggufModel(t)
	file := string(encode(t, meta, ts))
	for name, path := range map[string]string{
		"nothing":         filepath.Join(t.TempDir(), "x"),
		"an empty folder": t.TempDir(),
		"two GGUF files":  place(t, map[string]string{"a.gguf": file, "b.gguf": file}),
	} {
		if _, err := Open(path); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(place(t, map[string]string{"x.bin": "hello"}), "x.bin")); !errors.Is(err, ErrFormat) {
		t.Errorf("a file that is no model: %v", err)
	}
	// A folder with both is a Hugging Face folder.
	c := open(t, place(t, with(hfFiles(t), "m.gguf", file)))
	if !strings.Contains(string(c.Config), "rms_norm_eps") || strings.Contains(string(c.Config), "head_dim") {
		t.Errorf("config %s", c.Config)
	}
}

// TestFingerprint: spelling does not matter, content does.
func TestFingerprint(t *testing.T) {
	files := hfFiles(t)
	fingerprint := func(files map[string]string) string {
		t.Helper()
		return open(t, place(t, files)).Fingerprint()
	}
	want := fingerprint(files)
	if !strings.HasPrefix(want, "sha256:") || want != fingerprint(files) {
		t.Errorf("fingerprint %s", want)
	}
	respelled := "{\n  \"rms_norm_eps\": 0.00001, \"eos_token_id\": 4,\n\t\"hidden_size\": 8, \"model_type\": \"llama\"}"
	if got := fingerprint(with(files, "config.json", respelled)); got != want {
		t.Error("the spelling of the configuration matters")
	}
	for name, other := range map[string]map[string]string{
		"configuration": with(files, "config.json", `{"model_type": "llama", "hidden_size": 9, "rms_norm_eps": 1e-05, "eos_token_id": 4}`),
		"weights":       with(files, "model.safetensors", weightsFile(t, map[string]float32{"a": 0, "b": 101})),
		"names":         with(files, "model.safetensors", weightsFile(t, map[string]float32{"a": 0, "c": 100})),
		"fewer":         with(files, "model.safetensors", weightsFile(t, map[string]float32{"a": 0})),
	} {
		if fingerprint(other) == want {
			t.Errorf("other %s, same fingerprint", name)
		}
	}
}
