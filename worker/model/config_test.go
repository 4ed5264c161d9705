package model_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chorale/worker/model"
	"chorale/worker/model/hfconfig"
)

const smollm2Config = `{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
	"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
	"rms_norm_eps": 1e-05, "hidden_act": "silu", "rope_theta": 100000, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2}`

// TestParameters counts the weights of SmolLM2-135M, as its model card does.
func TestParameters(t *testing.T) {
	c, err := hfconfig.Parse([]byte(smollm2Config))
	if err != nil {
		t.Fatal(err)
	}
	s, err := model.Spec(c)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Parameters(); n != 134_515_008 {
		t.Errorf("SmolLM2-135M has %d parameters, want 134515008", n)
	}
	s.Tied = false
	if n := s.Parameters(); n != 134_515_008+49152*576 {
		t.Errorf("with a head of its own %d", n)
	}
}

// TestSpecErrors: what the families have in common to refuse.
func TestSpecErrors(t *testing.T) {
	for change, want := range map[string]string{
		`"model_type": "gpt2"`:              `"gpt2"`,
		`"num_key_value_heads": 2`:          "num_key_value_heads",
		`"head_dim": 3`:                     "head_dim",
		`"vocab_size": 0`:                   "vocab_size",
		`"vocab_size": 99999999`:            "vocab_size",
		`"intermediate_size": -1`:           "intermediate_size",
		`"max_position_embeddings": 0`:      "max_position_embeddings",
		`"hidden_size": 900000000000000000`: "head_dim",
	} {
		c, err := hfconfig.Parse([]byte(strings.TrimSuffix(smollm2Config, "}") + ", " + change + "}"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = model.Spec(c); !errors.Is(err, hfconfig.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a word about %s", change, err, want)
		}
	}
}

// FuzzParse: no configuration, however absurd, ends the program or makes it
// take memory beyond reason; what is accepted is consistent.
func FuzzParse(f *testing.F) {
	f.Add([]byte(smollm2Config))
	files, _ := filepath.Glob("testdata/*/config*.json")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{
		`{"model_type": "qwen3", "num_hidden_layers": -1}`,
		`{"model_type": "qwen2", "use_sliding_window": true, "sliding_window": -1, "max_window_layers": -5}`,
		`{"model_type": "llama", "num_hidden_layers": 4096, "num_attention_heads": 1, "hidden_size": 4096, "rope_scaling": {"type": "yarn", "factor": 1e308, "beta_fast": -1}}`,
		`{"model_type": "mistral", "layer_types": ["full_attention"], "sliding_window": 1, "rope_freq_factors": [0]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := hfconfig.Parse(b)
		if err == nil {
			_, err = checkSpec(t, c)
		}
		if err != nil && !errors.Is(err, hfconfig.ErrConfig) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}

func checkSpec(t *testing.T, c *hfconfig.Config) (int, error) {
	s, err := model.Spec(c)
	if err != nil {
		return 0, err
	}
	for i, v := range s.Rope.InvFreq {
		if !(v >= 0) || v-v != 0 {
			t.Errorf("frequency %d is %v", i, v)
		}
	}
	for l, w := range s.Windows {
		if w < 0 {
			t.Errorf("layer %d has the window %d", l, w)
		}
	}
	if !(s.Eps > 0) || s.Eps-s.Eps != 0 {
		t.Errorf("eps is %v", s.Eps)
	}
	if s.Layers <= 64 {
		return len(s.Modules()), nil
	}
	return 0, nil
}
