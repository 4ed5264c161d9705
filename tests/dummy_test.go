package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorale/internal/testkit"
)

// dummyConfig is a model that exists only as a shape.
const dummyConfig = `{"model_type": "qwen3", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
	"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-06,
	"hidden_act": "silu", "rope_theta": 10000, "tie_word_embeddings": false, "eos_token_id": 2}`

// TestE2EDummy: a config.json alone is enough to serve noise, without tokenizer,
// with adapters of noise that come the way of all adapters.
func TestE2EDummy(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "shape.json")
	if err := os.WriteFile(config, []byte(dummyConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	voices := filepath.Join(dir, "voices")
	p := testkit.Start(t, testkit.Options{Name: "make-dummy", Args: []string{"adapter", "make-dummy", voices, "--base", config, "--count", "3", "--rank", "4,16"}})
	if code := p.Wait(t, callLimit); code != 0 {
		t.Fatalf("exit status %d: %s", code, p.Log())
	}
	made := strings.Fields(p.Stdout())
	if len(made) != 3 {
		t.Fatalf("made %q", made)
	}
	s := &site{t: t}
	s.front = testkit.Start(t, testkit.Options{Name: "serve", Args: []string{
		"serve", "--model-path", config, "--load-format", "dummy", "--skip-tokenizer-init", "--log-format", "json", "--port", "0",
		"--data-dir", filepath.Join(dir, "data"), "--lora-paths", "a=" + made[0], "b=" + made[1], "c=" + made[2],
	}})
	s.http = s.front.Message(t, "serving", startLimit)["http"].(string)
	var said [][]int32
	for _, name := range []string{"", "a", "b", "c"} {
		var out struct {
			Text string
			IDs  []int32 `json:"output_ids"`
		}
		s.ask("/generate", object{"input_ids": []int{5, 6, 7}, "lora_path": name, "sampling_params": object{"temperature": 0, "max_new_tokens": 9, "ignore_eos": true}}, &out)
		if len(out.IDs) != 9 || out.Text != "" {
			t.Errorf("%q says %+v", name, out)
		}
		for _, other := range said {
			if slices.Equal(other, out.IDs) {
				t.Errorf("%q says what another one says: %v", name, out.IDs)
			}
		}
		said = append(said, out.IDs)
	}
	const none = "--skip-tokenizer-init"
	s.refused("/generate", object{"text": "hello"}, 400, none)
	s.refused("/generate", object{"input_ids": []int{1}, "sampling_params": object{"stop": "x"}}, 400, none)
	s.refused("/v1/chat/completions", object{"model": "default", "messages": []object{{"role": "user", "content": "x"}}}, 400, none)
	s.refused("/detokenize", object{"tokens": []int{1}}, 400, none)
	s.refused("/tokenize", object{"prompt": "x"}, 400, none)
	s.refused("/generate", object{"input_ids": []int{300}}, 400, "[0, 300)")
	var ids struct{ Choices []json.RawMessage }
	s.ask("/v1/completions", object{"model": "a", "prompt": []int{1, 2}, "max_tokens": 2}, &ids)
	fails(t, testkit.Options{Args: []string{"serve", "--model-path", config, "--load-format", "dummy", "--log-format", "json", "--port", "0", "--data-dir", filepath.Join(dir, "other")}}, 1, "tokenizer.json")
	fails(t, testkit.Options{Args: []string{"adapter", "make-dummy", voices, "--base", config, "--modules", "q_proj,z_proj"}}, 1, "z_proj")
	fails(t, testkit.Options{Args: []string{"adapter", "make-dummy", voices, "--base", config, "--rank", "0"}}, 1, "rank 0")
}
