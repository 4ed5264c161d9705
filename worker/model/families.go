package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
	"chorale/worker/model/llama"
	"chorale/worker/model/mistral"
	"chorale/worker/model/qwen2"
	"chorale/worker/model/qwen3"
)

// families maps config.json's model_type to the family's Spec.
var families = map[string]func(*hfconfig.Config) (decoder.Spec, error){
	"llama":   llama.Spec,
	"mistral": mistral.Spec,
	"qwen2":   qwen2.Spec,
	"qwen3":   qwen3.Spec,
}

// Spec finds the family of a configuration and reads it.
func Spec(c *hfconfig.Config) (decoder.Spec, error) {
	f, ok := families[c.ModelType]
	if !ok {
		known := slices.Sorted(maps.Keys(families))
		return decoder.Spec{}, fmt.Errorf("%w: model_type %q is not supported (%s are)", hfconfig.ErrConfig, c.ModelType, strings.Join(known, ", "))
	}
	s, err := f(c)
	if err != nil {
		return s, err
	}
	if err := s.Check(); err != nil {
		return s, fmt.Errorf("%w: %w", hfconfig.ErrConfig, err)
	}
	return s, nil
}
