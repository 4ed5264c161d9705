package hfconfig_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
	"chorale/worker/model/mistral"
	"chorale/worker/model/qwen2"
	"chorale/worker/model/qwen3"
)

// TestRope compares frequencies with transformers' (testdata/rope.py).
func TestRope(t *testing.T) {
	b, err := os.ReadFile("testdata/rope.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Cases []struct {
			Name    string
			HeadDim int `json:"head_dim"`
			Config  map[string]any
			Scale   float64
			InvFreq []float64 `json:"inv_freq"`
		}
	}
	if err := json.Unmarshal(b, &golden); err != nil || len(golden.Cases) < 10 {
		t.Fatalf("%d cases, %v", len(golden.Cases), err)
	}
	for _, c := range golden.Cases {
		for _, spell := range []func(map[string]any) map[string]any{asIs, asVersion5} {
			cfg := parse(t, spell(c.Config))
			got, err := cfg.Rope(c.HeadDim)
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
				continue
			}
			if math.Abs(float64(got.Scale)-c.Scale) > 1e-6 || len(got.InvFreq) != len(c.InvFreq) {
				t.Errorf("%s: scale %v, want %v; %d frequencies", c.Name, got.Scale, c.Scale, len(got.InvFreq))
				continue
			}
			for i, want := range c.InvFreq {
				// The reference computes in float32, with a power that is off by some units.
				if math.Abs(float64(got.InvFreq[i])-want) > 2e-6*want {
					t.Errorf("%s: frequency %d is %v, want %v", c.Name, i, got.InvFreq[i], want)
					break
				}
			}
		}
	}
}

func asIs(m map[string]any) map[string]any { return m }

// asVersion5 spells a configuration as transformers 5 writes it.
func asVersion5(m map[string]any) map[string]any {
	rope := map[string]any{"rope_type": "default"}
	out := map[string]any{"rope_parameters": rope}
	for k, v := range m {
		switch k {
		case "rope_scaling":
			for kk, vv := range v.(map[string]any) {
				if kk == "type" {
					kk = "rope_type"
				}
				rope[kk] = vv
			}
		case "rope_theta":
			rope[k] = v
		default:
			out[k] = v
		}
	}
	return out
}

func parse(t *testing.T, m map[string]any) *hfconfig.Config {
	t.Helper()
	full := map[string]any{
		"model_type": "llama", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2,
		"num_attention_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
	}
	for k, v := range m {
		full[k] = v
	}
	b, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	c, err := hfconfig.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestParseErrors: what is wrong is named.
func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		`{`:                 "config.json",
		`[]`:                "config.json",
		`{}`:                "model_type",
		`{"model_type": 3}`: "model_type",
		`{"model_type": "llama", "vocab_size": "8"}`:                         "vocab_size",
		`{"model_type": "llama", "hidden_size": 1.5}`:                        "hidden_size",
		`{"model_type": "llama", "num_hidden_layers": 99999999999999999999}`: "num_hidden_layers",
		`{"model_type": "llama", "rms_norm_eps": "small"}`:                   "rms_norm_eps",
		`{"model_type": "llama", "eos_token_id": "</s>"}`:                    "eos_token_id",
		`{"model_type": "llama", "eos_token_id": [1, "2"]}`:                  "eos_token_id",
		`{"model_type": "llama", "eos_token_id": 99999999999}`:               "eos_token_id",
		`{"model_type": "llama", "eos_token_id": 2, "bos_token_id": {}}`:     "bos_token_id",
		`{"model_type": "llama", "bos_token_id": 1.5}`:                       "bos_token_id",
		`{"model_type": "llama", "rope_scaling": "linear"}`:                  "rope_scaling",
		`{"model_type": "llama", "rope_scaling": {"factor": "4"}}`:           "rope_scaling.factor",
		`{"model_type": "llama", "layer_types": [1]}`:                        "layer_types",
		`{"model_type": "llama", "quantization_config": {"bits": 4}}`:        "quantization_config",
	} {
		_, err := hfconfig.Parse([]byte(in))
		if !errors.Is(err, hfconfig.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a word about %s", in, err, want)
		}
	}
}

func TestTokenIDs(t *testing.T) {
	for in, want := range map[string][]int32{`null`: nil, `7`: {7}, `[1, 2]`: {1, 2}, `[]`: {}} {
		var v hfconfig.IDs
		if err := json.Unmarshal([]byte(in), &v); err != nil || !slices.Equal(v, want) {
			t.Errorf("%s: %v, %v", in, v, err)
		}
	}
	if c, err := hfconfig.Parse([]byte(`{"model_type": "x", "quantization_config": null}`)); err != nil || c.EOSTokenID != nil {
		t.Errorf("%v, %v", c, err)
	}
}

// TestSpecErrors: each refusal names the field, or what it was about.
func TestSpecErrors(t *testing.T) {
	for _, tt := range []struct {
		change map[string]any
		want   string
	}{
		{map[string]any{"hidden_act": "gelu"}, "hidden_act"},
		{map[string]any{"num_hidden_layers": -1}, "layers"},
		{map[string]any{"num_hidden_layers": 1 << 40}, "layers"},
		{map[string]any{"num_attention_heads": 0}, "heads"},
		{map[string]any{"num_key_value_heads": -2}, "heads"},
		{map[string]any{"head_dim": 0}, "head_dim"},
		{map[string]any{"head_dim": 1 << 30}, "head_dim"},
		{map[string]any{"hidden_size": -16}, "head_dim"},
		{map[string]any{"rms_norm_eps": 1e300}, "rms_norm_eps"},
		{map[string]any{"rope_theta": 0}, "rope_theta"},
		{map[string]any{"rope_theta": -5}, "rope_theta"},
		{map[string]any{"rope_theta": 1e-300}, "rope_theta"},
		{map[string]any{"partial_rotary_factor": 0.5}, "partial_rotary_factor"},
		{map[string]any{"rope_parameters": map[string]any{"partial_rotary_factor": 0.25}}, "partial_rotary_factor"},
		{map[string]any{"rope_freq_factors": []float32{1}}, "rope_freqs"},
		{map[string]any{"rope_freq_factors": []float32{1, 0, 1, 1}}, "frequency"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "dynamic", "factor": 2}}, "dynamic"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "linear"}}, "factor"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "linear", "factor": -1}}, "factor"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "linear", "factor": 1e-300}}, "frequency"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 2}}, "low_freq_factor"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1, "original_max_position_embeddings": 8}}, "high_freq_factor"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": -8}}, "frequency"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "yarn", "factor": 2, "attention_factor": -1}}, "attention_factor"},
		{map[string]any{"rope_scaling": map[string]any{"rope_type": "yarn", "factor": 2, "attention_factor": 1e300}}, "attention_factor"},
	} {
		_, err := parse(t, tt.change).Spec()
		if !errors.Is(err, hfconfig.ErrConfig) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want a word about %s", tt.change, err, tt.want)
		}
	}
}

// TestWindows: which layers have the sliding window, as transformers decides.
func TestWindows(t *testing.T) {
	full, sliding := "full_attention", "sliding_attention"
	for _, tt := range []struct {
		name   string
		family func(*hfconfig.Config) (decoder.Spec, error)
		change map[string]any
		want   []int // nil: an error
	}{
		{"mistral", mistral.Spec, map[string]any{"sliding_window": 8}, []int{8, 8, 8}},
		{"mistral, null", mistral.Spec, map[string]any{"sliding_window": nil}, []int{0, 0, 0}},
		{"mistral, 0", mistral.Spec, map[string]any{"sliding_window": 0}, []int{0, 0, 0}},
		{"qwen2, not used", qwen2.Spec, map[string]any{"sliding_window": 8, "use_sliding_window": false, "max_window_layers": 0}, []int{0, 0, 0}},
		{"qwen2, not said", qwen2.Spec, map[string]any{"sliding_window": 8, "max_window_layers": 0}, []int{0, 0, 0}},
		{"qwen2, upper layers", qwen2.Spec, map[string]any{"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1}, []int{0, 8, 8}},
		{"qwen2, all", qwen2.Spec, map[string]any{"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 0}, []int{8, 8, 8}},
		{"qwen2, none of few", qwen2.Spec, map[string]any{"sliding_window": 8, "use_sliding_window": true}, []int{0, 0, 0}},
		{"qwen2, beyond", qwen2.Spec, map[string]any{"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 99}, []int{0, 0, 0}},
		{"qwen2, layer types", qwen2.Spec, map[string]any{"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 0, "layer_types": []string{full, sliding, full}}, []int{0, 8, 0}},
		{"qwen2, layer types not used", qwen2.Spec, map[string]any{"sliding_window": 8, "use_sliding_window": false, "layer_types": []string{sliding, sliding, sliding}}, []int{0, 0, 0}},
		{"qwen3, upper layers", qwen3.Spec, map[string]any{"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 2}, []int{0, 0, 8}},
		{"too few layer types", mistral.Spec, map[string]any{"sliding_window": 8, "layer_types": []string{full}}, nil},
		{"unknown layer type", mistral.Spec, map[string]any{"sliding_window": 8, "layer_types": []string{full, full, "linear_attention"}}, nil},
	} {
		c := map[string]any{"num_hidden_layers": 3}
		for k, v := range tt.change {
			c[k] = v
		}
		s, err := tt.family(parse(t, c))
		if tt.want == nil {
			if !errors.Is(err, hfconfig.ErrConfig) || !strings.Contains(err.Error(), "layer_types") {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err != nil || !slices.Equal(s.Windows, tt.want) {
			t.Errorf("%s: %v, want %v; %v", tt.name, s.Windows, tt.want, err)
		}
	}
}

// TestDefaults: what an absent key means.
func TestDefaults(t *testing.T) {
	s, err := parse(t, map[string]any{"rms_norm_eps": nil}).Spec()
	if err != nil {
		t.Fatal(err)
	}
	if s.KVHeads != s.Heads || s.HeadDim != 8 || s.Tied || s.Eps != 1e-6 || s.Rope.Scale != 1 {
		t.Errorf("%+v", s)
	}
	q, err := qwen3.Spec(parse(t, nil))
	if err != nil || q.HeadDim != 128 || !q.QKNorm || q.QKVBias {
		t.Errorf("qwen3: %+v, %v", q, err)
	}
	q, err = qwen3.Spec(parse(t, map[string]any{"head_dim": 4, "attention_bias": true}))
	if err != nil || q.HeadDim != 4 || !q.QKVBias || !q.OBias {
		t.Errorf("qwen3: %+v, %v", q, err)
	}
	q, err = qwen2.Spec(parse(t, nil))
	if err != nil || !q.QKVBias || q.OBias || q.QKNorm {
		t.Errorf("qwen2: %+v, %v", q, err)
	}
}

// TestFamilyDefaults compares what absent and null keys mean with transformers
// (testdata/defaults.py).
func TestFamilyDefaults(t *testing.T) {
	b, err := os.ReadFile("testdata/defaults.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ Given, Want json.RawMessage }
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) < 16 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	families := map[string]func(*hfconfig.Config) (decoder.Spec, error){
		"llama": (*hfconfig.Config).Spec, "mistral": mistral.Spec, "qwen2": qwen2.Spec, "qwen3": qwen3.Spec,
	}
	for _, c := range cases {
		var want *hfconfig.Config // without defaults of its own
		got, err := hfconfig.Parse(c.Given)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(c.Want, &want); err != nil {
			t.Fatal(err)
		}
		want.ModelType, want.UseSlidingWindow = got.ModelType, got.UseSlidingWindow
		spec := families[got.ModelType]
		g, gotErr := spec(got)
		w, wantErr := spec(want)
		if diff := cmp.Diff(w, g); diff != "" || gotErr != nil || wantErr != nil {
			t.Errorf("%s: %v, %v (-want +got):\n%s", c.Given, gotErr, wantErr, diff)
		}
	}
}
