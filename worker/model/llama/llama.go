// Package llama is Meta's Llama 2 and 3 and what shares their architecture
// exactly, such as SmolLM2 and TinyLlama.
package llama

import (
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
)

// Spec reads a llama configuration.
func Spec(c *hfconfig.Config) (decoder.Spec, error) {
	s, err := c.Spec()
	if err != nil {
		return s, err
	}
	s.QKVBias, s.OBias, s.MLPBias = c.AttentionBias, c.AttentionBias, c.MLPBias
	return s, nil
}
