// Package hfconfig reads Hugging Face's config.json as far as decoder-only
// models need it. GGUF metadata is brought into the same form by
// internal/checkpoint, so that families read one kind of configuration.
package hfconfig

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrConfig reports a configuration that is broken or not supported.
var ErrConfig = errors.New("model configuration")

// Config is config.json. Pointers tell null, and absent without a default, from
// zero.
type Config struct {
	ModelType     string   `json:"model_type"`
	Architectures []string `json:"architectures"`

	VocabSize             int     `json:"vocab_size"`
	HiddenSize            int     `json:"hidden_size"`
	IntermediateSize      int     `json:"intermediate_size"`
	NumHiddenLayers       int     `json:"num_hidden_layers"`
	NumAttentionHeads     int     `json:"num_attention_heads"`
	NumKeyValueHeads      *int    `json:"num_key_value_heads"`
	HeadDim               *int    `json:"head_dim"`
	MaxPositionEmbeddings int     `json:"max_position_embeddings"`
	RMSNormEps            float64 `json:"rms_norm_eps"`
	HiddenAct             string  `json:"hidden_act"`
	TieWordEmbeddings     *bool   `json:"tie_word_embeddings"`
	AttentionBias         bool    `json:"attention_bias"`
	MLPBias               bool    `json:"mlp_bias"`

	RopeTheta      *float64 `json:"rope_theta"`
	RopeScaling    *Rope    `json:"rope_scaling"`
	RopeParameters *Rope    `json:"rope_parameters"` // transformers 5's place for both
	// RopeFreqFactors divide the frequencies one by one (GGUF's rope_freqs).
	RopeFreqFactors []float32 `json:"rope_freq_factors,omitempty"`
	// PartialRotaryFactor other than 1 turns only a part of each head.
	PartialRotaryFactor *float64 `json:"partial_rotary_factor"`

	SlidingWindow    *int     `json:"sliding_window"`
	UseSlidingWindow *bool    `json:"use_sliding_window"`
	MaxWindowLayers  *int     `json:"max_window_layers"`
	LayerTypes       []string `json:"layer_types"`

	EOSTokenID IDs `json:"eos_token_id"`
	BOSTokenID IDs `json:"bos_token_id"`

	QuantizationConfig json.RawMessage `json:"quantization_config"`
}

// Rope is rope_scaling or rope_parameters.
type Rope struct {
	RopeType string `json:"rope_type"`
	Type     string `json:"type"` // the old spelling
	// RopeTheta stands here in transformers 5.
	RopeTheta                     *float64 `json:"rope_theta"`
	Factor                        *float64 `json:"factor"`
	LowFreqFactor                 *float64 `json:"low_freq_factor"`
	HighFreqFactor                *float64 `json:"high_freq_factor"`
	OriginalMaxPositionEmbeddings *int     `json:"original_max_position_embeddings"`
	AttentionFactor               *float64 `json:"attention_factor"`
	BetaFast                      *float64 `json:"beta_fast"`
	BetaSlow                      *float64 `json:"beta_slow"`
	MScale                        *float64 `json:"mscale"`
	MScaleAllDim                  *float64 `json:"mscale_all_dim"`
	Truncate                      *bool    `json:"truncate"`
	PartialRotaryFactor           *float64 `json:"partial_rotary_factor"`
}

// Kind gives the rotary type; "default" when none is named.
func (r *Rope) Kind() string {
	switch {
	case r == nil:
		return "default"
	case r.RopeType != "":
		return r.RopeType
	case r.Type != "":
		return r.Type
	}
	return "default"
}

// IDs is a token id, a list of them, or null.
type IDs []int32

var errTokenIDs = errors.New("must be a token id or a list of them")

// UnmarshalJSON takes a number, a list or null.
func (v *IDs) UnmarshalJSON(b []byte) error {
	var one *int32
	if err := json.Unmarshal(b, &one); err == nil {
		*v = nil
		if one != nil {
			*v = IDs{*one}
		}
		return nil
	}
	var many []int32
	if err := json.Unmarshal(b, &many); err != nil {
		return errTokenIDs
	}
	*v = many
	return nil
}

// Parse reads config.json. Keys that it leaves out have their family's default.
func Parse(b []byte) (*Config, error) {
	var family struct {
		ModelType string `json:"model_type"`
	}
	_ = json.Unmarshal(b, &family) // what is wrong shows below
	c := defaults(family.ModelType)
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("%w: config.json: %w", ErrConfig, named(b, err))
	}
	if c.ModelType == "" {
		return nil, fmt.Errorf("%w: config.json has no model_type", ErrConfig)
	}
	if len(c.QuantizationConfig) > 0 && string(c.QuantizationConfig) != "null" {
		return nil, fmt.Errorf("%w: quantization_config is not supported; use an unquantised checkpoint or a GGUF file", ErrConfig)
	}
	return &c, nil
}

// named says which of the token id fields is wrong: encoding/json tells that of
// its own errors only.
func named(b []byte, err error) error {
	if !errors.Is(err, errTokenIDs) {
		return err
	}
	var fields struct {
		EOS json.RawMessage `json:"eos_token_id"`
		BOS json.RawMessage `json:"bos_token_id"`
	}
	field := "eos_token_id"
	if json.Unmarshal(b, &fields) == nil && (fields.EOS == nil || new(IDs).UnmarshalJSON(fields.EOS) == nil) {
		field = "bos_token_id"
	}
	return fmt.Errorf("%s %w", field, err)
}
