package hfconfig

import (
	"fmt"
	"math"

	"chorale/worker/model/decoder"
)

// Spec fills what all families of the Llama kind share. Families then set
// their variations.
func (c *Config) Spec() (decoder.Spec, error) {
	switch c.HiddenAct {
	case "silu", "swish", "":
	default:
		return decoder.Spec{}, fmt.Errorf("%w: hidden_act %q is not supported (silu is)", ErrConfig, c.HiddenAct)
	}
	s := decoder.Spec{
		Vocab: c.VocabSize, Hidden: c.HiddenSize, Layers: c.NumHiddenLayers, Heads: c.NumAttentionHeads,
		KVHeads: c.NumAttentionHeads, FFN: c.IntermediateSize, Context: c.MaxPositionEmbeddings,
		Eps: float32(c.RMSNormEps),
	}
	if c.NumKeyValueHeads != nil {
		s.KVHeads = *c.NumKeyValueHeads
	}
	if c.TieWordEmbeddings != nil {
		s.Tied = *c.TieWordEmbeddings
	}
	if s.Layers <= 0 || s.Layers > 1<<12 || s.Heads <= 0 || s.KVHeads <= 0 {
		return s, fmt.Errorf("%w: %d layers, %d heads, %d key/value heads", ErrConfig, s.Layers, s.Heads, s.KVHeads)
	}
	s.HeadDim = s.Hidden / s.Heads
	if c.HeadDim != nil {
		s.HeadDim = *c.HeadDim
	}
	if s.HeadDim <= 0 || s.HeadDim > 1<<12 {
		return s, fmt.Errorf("%w: head_dim %d", ErrConfig, s.HeadDim)
	}
	if s.Eps <= 0 {
		s.Eps = 1e-6
	}
	if math.IsInf(float64(s.Eps), 0) {
		return s, fmt.Errorf("%w: rms_norm_eps is %v", ErrConfig, c.RMSNormEps)
	}
	s.Windows = make([]int, s.Layers)
	var err error
	s.Rope, err = c.Rope(s.HeadDim)
	return s, err
}

// Window gives every layer for which on is true the sliding window, if there
// is one. layer_types, where present, decides instead of on.
func (c *Config) Window(s *decoder.Spec, on func(layer int) bool) error {
	if c.SlidingWindow == nil || *c.SlidingWindow <= 0 {
		return nil
	}
	if n := len(c.LayerTypes); n > 0 && n != s.Layers {
		return fmt.Errorf("%w: %d layer_types for %d layers", ErrConfig, n, s.Layers)
	}
	for l := range s.Windows {
		use := on(l)
		if len(c.LayerTypes) > 0 {
			switch t := c.LayerTypes[l]; t {
			case "sliding_attention":
				use = true
			case "full_attention":
				use = false
			default:
				return fmt.Errorf("%w: layer_types[%d] %q is not supported", ErrConfig, l, t)
			}
		}
		if use {
			s.Windows[l] = *c.SlidingWindow
		}
	}
	return nil
}
