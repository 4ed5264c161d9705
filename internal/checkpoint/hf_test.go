package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"chorale/internal/bf16"
	"chorale/internal/safetensors"
)

// hfFiles is a complete Hugging Face folder, without a tokenizer.
func hfFiles(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{
		"config.json":       `{"model_type": "llama", "hidden_size": 8, "rms_norm_eps": 1e-05, "eos_token_id": 4}`,
		"model.safetensors": weightsFile(t, map[string]float32{"a": 0, "b": 100}),
	}
}

// weightsFile has a matrix [3, 2] under each name, numbered from a start.
func weightsFile(t *testing.T, starts map[string]float32) string {
	t.Helper()
	var ts []safetensors.Tensor
	for name, start := range starts {
		var data []byte
		for i := range 6 {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(start+float32(i)))
		}
		ts = append(ts, safetensors.Tensor{Name: name, DType: safetensors.F32, Shape: []int{3, 2}, Data: data})
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, ts, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func with(files map[string]string, name, content string) map[string]string {
	out := map[string]string{}
	for k, v := range files {
		out[k] = v
	}
	out[name] = content
	return out
}

func TestHF(t *testing.T) {
	c := open(t, place(t, hfFiles(t)))
	if err := c.OpenWeights(); err != nil {
		t.Fatal(err)
	}
	b, ok := c.Tensor("b")
	dst := make([]float32, 4)
	if err := b.Rows(dst, 1, 2); !ok || err != nil || !slices.Equal(dst, []float32{102, 103, 104, 105}) || !slices.Equal(b.Shape, []int{3, 2}) {
		t.Errorf("%v, %v, %v", ok, dst, err)
	}
	half := make([]uint16, 4)
	if err := b.Rows16(half, 1, 2); err != nil || half[0] != bf16.Of(102) || half[3] != bf16.Of(105) {
		t.Errorf("as bfloat16 %#x, %v", half, err)
	}
	for _, r := range [][2]int{{-1, 1}, {0, -1}, {2, 2}, {3, 1}, {math.MaxInt, 1}, {1, math.MaxInt}, {math.MaxInt, math.MaxInt}} {
		if err := b.Rows(dst, r[0], r[1]); err == nil {
			t.Errorf("rows %d to %d: no error", r[0], r[0]+r[1])
		}
		if err := b.Rows16(half, r[0], r[1]); err == nil {
			t.Errorf("rows %d to %d as bfloat16: no error", r[0], r[0]+r[1])
		}
	}
	if err := b.Rows(dst, 0, 1); err == nil {
		t.Error("one row into the place of two: no error")
	}
	if _, ok := c.Tensor("c"); ok || !slices.Equal(c.Names(), []string{"a", "b"}) {
		t.Errorf("names %v", c.Names())
	}
	if _, err := c.Tokenizer(); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "tokenizer.json") {
		t.Errorf("tokenizer: %v", err)
	}
}

// TestShards: an index and its files.
func TestShards(t *testing.T) {
	files := map[string]string{
		"config.json":                      "{}",
		"model-00001-of-00002.safetensors": weightsFile(t, map[string]float32{"a": 0}),
		"model-00002-of-00002.safetensors": weightsFile(t, map[string]float32{"b": 100}),
		"model.safetensors.index.json":     `{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}`,
	}
	c := open(t, place(t, files))
	if err := c.OpenWeights(); err != nil || !slices.Equal(c.Names(), []string{"a", "b"}) {
		t.Fatalf("%v, %v", c.Names(), err)
	}
	// The same weights in one file are the same model.
	one := open(t, place(t, with(hfFiles(t), "config.json", "{}")))
	if c.Fingerprint() != one.Fingerprint() {
		t.Error("sharding changes the fingerprint")
	}
	for name, bad := range map[string]map[string]string{
		"model-00002-of-00002.safetensors": with(files, "model-00002-of-00002.safetensors", files["model-00002-of-00002.safetensors"][:50]),
		"b":                                with(files, "model.safetensors.index.json", `{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}}`),
		"index":                            with(files, "model.safetensors.index.json", `{`),
		"../":                              with(files, "model.safetensors.index.json", `{"weight_map": {"a": "../x.safetensors"}}`),
	} {
		c := open(t, place(t, bad))
		if err := c.OpenWeights(); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want a word about %s", err, name)
		}
		exercise(c)
	}
}

func TestHFDamage(t *testing.T) {
	files := hfFiles(t)
	weights := files["model.safetensors"]
	for n := 0; n < len(weights); n += 5 {
		c := open(t, place(t, with(files, "model.safetensors", weights[:n])))
		if err := c.OpenWeights(); !errors.Is(err, ErrFormat) {
			t.Errorf("%d of %d bytes: %v", n, len(weights), err)
		}
		exercise(c)
	}
	delete(files, "model.safetensors")
	if err := open(t, place(t, files)).OpenWeights(); !errors.Is(err, ErrFormat) {
		t.Errorf("no weights at all: %v", err)
	}
	for name, content := range map[string]string{
		"config.json": `{`, "generation_config.json": `[`, "tokenizer_config.json": `{"eos_token": 3}`,
	} {
		_, err := Open(place(t, with(hfFiles(t), name, content)))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := Open(place(t, with(hfFiles(t), "config.json", `{"eos_token_id": "x"}`)))
	if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "eos_token_id") {
		t.Errorf("eos_token_id: %v", err)
	}
	c := open(t, place(t, with(hfFiles(t), "tokenizer.json", "{")))
	if _, err := c.Tokenizer(); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "tokenizer.json") {
		t.Errorf("tokenizer: %v", err)
	}
}

// TestChatTemplate looks where transformers looks.
func TestChatTemplate(t *testing.T) {
	for _, tt := range []struct{ name, cfg, file, want string }{
		{"none", ``, "", ""},
		{"a string", `{"chat_template": "one"}`, "", "one"},
		{"a list", `{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}`, "", "d"},
		{"a list without default", `{"chat_template": [{"name": "tool_use", "template": "t"}]}`, "", ""},
		{"null", `{"chat_template": null}`, "", ""},
		{"the file goes first", `{"chat_template": "one"}`, "two\n", "two\n"},
		{"the file alone", ``, "two", "two"},
	} {
		files := hfFiles(t)
		if tt.cfg != "" {
			files["tokenizer_config.json"] = tt.cfg
		}
		if tt.file != "" {
			files["chat_template.jinja"] = tt.file
		}
		if got := open(t, place(t, files)).ChatTemplate(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

const tinyTokenizer = `{"version": "1.0", "added_tokens": [{"id": 2, "content": "</s>", "special": true, "normalized": false}],
	"normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
	"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}`

// TestEOS collects from all places, sorted and each once.
func TestEOS(t *testing.T) {
	for _, tt := range []struct {
		config, generation, tokenizer string
		want                          []int32
	}{
		{`{}`, ``, ``, nil},
		{`{"eos_token_id": 7}`, ``, ``, []int32{7}},
		{`{"eos_token_id": null}`, `{"eos_token_id": [9, 7]}`, ``, []int32{7, 9}},
		{`{"eos_token_id": [7]}`, `{"eos_token_id": 7}`, ``, []int32{7}},
		{`{"eos_token_id": 7}`, `{}`, `{"eos_token": "</s>"}`, []int32{2, 7}},
		{`{"eos_token_id": 7}`, `{}`, `{"eos_token": {"content": "</s>", "special": true}, "bos_token": null}`, []int32{2, 7}},
		{`{"eos_token_id": 7}`, `{}`, `{"eos_token": "unheard of"}`, []int32{7}},
	} {
		files := map[string]string{"config.json": tt.config, "tokenizer.json": tinyTokenizer}
		if tt.generation != "" {
			files["generation_config.json"] = tt.generation
		}
		if tt.tokenizer != "" {
			files["tokenizer_config.json"] = tt.tokenizer
		}
		if got := open(t, place(t, files)).EOS(); !slices.Equal(got, tt.want) {
			t.Errorf("%s %s %s: %v, want %v", tt.config, tt.generation, tt.tokenizer, got, tt.want)
		}
	}
	c := open(t, place(t, map[string]string{"config.json": "{}", "tokenizer_config.json": `{"bos_token": "<s>", "eos_token": {"content": "</s>"}}`}))
	if s := c.Specials(); s.BOS != "<s>" || s.EOS != "</s>" {
		t.Errorf("specials %+v", s)
	}
	meta, ts := ggufModel(t)
	g, err := openGGUFBytes(t, encode(t, set(meta, "tokenizer.ggml.eot_token_id", uint32(1)), ts))
	if err != nil || !slices.Equal(g.EOS(), []int32{1, 4}) {
		t.Errorf("GGUF: %v, %v", g.EOS(), err)
	}
}
