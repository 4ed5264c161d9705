// Package qwen3 is Qwen 3: RMS norms on each head's q and k instead of biases
// (arXiv:2505.09388).
package qwen3

import (
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
	"chorale/worker/model/qwen2"
)

// Spec reads a qwen3 configuration.
func Spec(c *hfconfig.Config) (decoder.Spec, error) {
	if c.HeadDim == nil {
		d := 128 // transformers' default for this family
		c.HeadDim = &d
	}
	s, err := c.Spec()
	if err != nil {
		return s, err
	}
	s.QKVBias, s.OBias = c.AttentionBias, c.AttentionBias
	s.QKNorm = true
	return s, qwen2.Window(c, &s)
}
