//go:build clients

package clients

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chorale/internal/gguf"
	"chorale/internal/testkit"
)

// tokenizer writes the model's tokenizer as a Hugging Face folder: benchmark
// clients count tokens with transformers, and fetch nothing.
func tokenizer(t testing.TB) string {
	t.Helper()
	f, err := gguf.Open(testkit.Model(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := f.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	vocab := map[string]int{}
	var added []map[string]any
	for id, token := range v.Tokens {
		vocab[token] = id
		if v.Types[id] == control {
			added = append(added, map[string]any{
				"id": id, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
			})
		}
	}
	merges := make([][]string, len(v.Merges))
	for i, m := range v.Merges {
		merges[i] = strings.SplitN(m, " ", 2)
	}
	bytes := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	dir := t.TempDir()
	write := func(name string, content any) {
		raw, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tokenizer.json", map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added, "normalizer": nil,
		"pre_tokenizer":  map[string]any{"type": "Sequence", "pretokenizers": []any{map[string]any{"type": "Digits", "individual_digits": true}, bytes}},
		"post_processor": nil, "decoder": bytes,
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": merges, "fuse_unk": false, "byte_fallback": false},
	})
	write("tokenizer_config.json", map[string]any{
		"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": v.Tokens[v.EOS], "model_max_length": 8192, "chat_template": v.ChatTemplate,
	})
	return dir
}

// control is the type of special tokens in a GGUF file.
const control = 3
