package hfconfig

import (
	"fmt"
	"math"

	"chorale/worker/tensor"
)

// Rope computes the rotary frequencies of heads of dim channels, as
// transformers' modeling_rope_utils does: default, linear, llama3 and yarn
// (Peng et al. 2023, arXiv:2309.00071).
func (c *Config) Rope(dim int) (tensor.RopeSpec, error) {
	p := c.RopeScaling
	if c.RopeParameters != nil {
		p = c.RopeParameters
	}
	if f := c.PartialRotaryFactor; f != nil && *f != 1 || p != nil && p.PartialRotaryFactor != nil && *p.PartialRotaryFactor != 1 {
		return tensor.RopeSpec{}, fmt.Errorf("%w: partial_rotary_factor other than 1 is not supported", ErrConfig)
	}
	theta := 10000.0
	if p != nil && p.RopeTheta != nil {
		theta = *p.RopeTheta
	} else if c.RopeTheta != nil {
		theta = *c.RopeTheta
	}
	if !(theta > 0) || math.IsInf(theta, 0) {
		return tensor.RopeSpec{}, fmt.Errorf("%w: rope_theta is %v", ErrConfig, theta)
	}
	inv := make([]float64, dim/2)
	for i := range inv {
		inv[i] = 1 / math.Pow(theta, float64(2*i)/float64(dim))
	}
	scale, err := c.scaleRope(inv, p, theta, dim)
	if err != nil {
		return tensor.RopeSpec{}, err
	}
	if n := len(c.RopeFreqFactors); n > 0 {
		if n != len(inv) {
			return tensor.RopeSpec{}, fmt.Errorf("%w: %d rope_freqs for head_dim %d", ErrConfig, n, dim)
		}
		for i, f := range c.RopeFreqFactors {
			inv[i] /= float64(f)
		}
	}
	out := tensor.RopeSpec{InvFreq: make([]float32, len(inv)), Scale: float32(scale)}
	for i, f := range inv {
		out.InvFreq[i] = float32(f)
		if v := out.InvFreq[i]; !(v >= 0) || math.IsInf(float64(v), 0) {
			return tensor.RopeSpec{}, fmt.Errorf("%w: rope_theta %v and rope_scaling %q give channel %d the frequency %v", ErrConfig, theta, p.Kind(), i, v)
		}
	}
	if !(out.Scale > 0) || math.IsInf(float64(out.Scale), 0) {
		return tensor.RopeSpec{}, fmt.Errorf("%w: rope_scaling %q has the attention_factor %v", ErrConfig, p.Kind(), scale)
	}
	return out, nil
}

// scaleRope changes inv in place and returns the factor of cos and sin.
func (c *Config) scaleRope(inv []float64, p *Rope, theta float64, dim int) (float64, error) {
	kind := p.Kind()
	if kind == "default" {
		return 1, nil
	}
	if p.Factor == nil || !(*p.Factor > 0) {
		return 0, fmt.Errorf("%w: rope_scaling %q needs a positive factor", ErrConfig, kind)
	}
	switch kind {
	case "linear":
		for i := range inv {
			inv[i] /= *p.Factor
		}
		return 1, nil
	case "llama3":
		return 1, llama3Rope(inv, p)
	case "yarn":
		return c.yarnRope(inv, p, theta, dim)
	}
	return 0, fmt.Errorf("%w: rope_scaling %q is not supported (default, linear, llama3, yarn are)", ErrConfig, kind)
}

func llama3Rope(inv []float64, p *Rope) error {
	if p.LowFreqFactor == nil || p.HighFreqFactor == nil || p.OriginalMaxPositionEmbeddings == nil {
		return fmt.Errorf("%w: rope_scaling llama3 needs low_freq_factor, high_freq_factor and original_max_position_embeddings", ErrConfig)
	}
	lo, hi, old := *p.LowFreqFactor, *p.HighFreqFactor, float64(*p.OriginalMaxPositionEmbeddings)
	if !(lo > 0) || !(hi > lo) || !(old > 0) {
		return fmt.Errorf("%w: rope_scaling llama3 with low_freq_factor %v, high_freq_factor %v, original_max_position_embeddings %v", ErrConfig, lo, hi, old)
	}
	for i, f := range inv {
		wavelen := 2 * math.Pi / f
		switch {
		case wavelen > old/lo:
			inv[i] = f / *p.Factor
		case wavelen >= old/hi:
			smooth := (old/wavelen - lo) / (hi - lo)
			inv[i] = (1-smooth)*f / *p.Factor + smooth*f
		}
	}
	return nil
}

func (c *Config) yarnRope(inv []float64, p *Rope, theta float64, dim int) (float64, error) {
	factor := *p.Factor
	original := float64(c.MaxPositionEmbeddings)
	if p.OriginalMaxPositionEmbeddings != nil && *p.OriginalMaxPositionEmbeddings != 0 {
		original = float64(*p.OriginalMaxPositionEmbeddings)
	}
	fast, slow := or(p.BetaFast, 32), or(p.BetaSlow, 1)
	// The channel whose wavelength makes rot turns over the original context.
	channel := func(rot float64) float64 {
		return float64(dim) * math.Log(original/(rot*2*math.Pi)) / (2 * math.Log(theta))
	}
	low, high := channel(fast), channel(slow)
	if p.Truncate == nil || *p.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(dim-1))
	if low == high {
		high += 0.001
	}
	for i, f := range inv {
		ramp := min(max((float64(i)-low)/(high-low), 0), 1)
		inv[i] = f/factor*ramp + f*(1-ramp)
	}
	return yarnAttention(p, factor), nil
}

// yarnAttention is the factor by which cos and sin grow with the context.
func yarnAttention(p *Rope, factor float64) float64 {
	mscale := func(m float64) float64 {
		if factor <= 1 {
			return 1
		}
		return 0.1*m*math.Log(factor) + 1
	}
	switch {
	case p.AttentionFactor != nil:
		return *p.AttentionFactor
	case p.MScale != nil && p.MScaleAllDim != nil && *p.MScale != 0 && *p.MScaleAllDim != 0:
		return mscale(*p.MScale) / mscale(*p.MScaleAllDim)
	}
	return mscale(1)
}

// or gives *p, or v when it is absent or 0, as Python's "or" does.
func or(p *float64, v float64) float64 {
	if p != nil && *p != 0 {
		return *p
	}
	return v
}
