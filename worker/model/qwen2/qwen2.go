// Package qwen2 is Qwen 2 and 2.5: Llama with biases on q, k and v and an
// optional window on the upper layers (arXiv:2407.10671).
package qwen2

import (
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
)

// Spec reads a qwen2 configuration.
func Spec(c *hfconfig.Config) (decoder.Spec, error) {
	s, err := c.Spec()
	if err != nil {
		return s, err
	}
	s.QKVBias = true
	return s, Window(c, &s)
}

// Window applies Qwen's rule: with use_sliding_window, the layers from
// max_window_layers (default 28) on.
func Window(c *hfconfig.Config, s *decoder.Spec) error {
	if c.UseSlidingWindow == nil || !*c.UseSlidingWindow {
		return nil
	}
	from := 28
	if c.MaxWindowLayers != nil {
		from = *c.MaxWindowLayers
	}
	return c.Window(s, func(l int) bool { return l >= from })
}
