package kernels

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chorale/bench/figure"
	"chorale/bench/shape"
	"chorale/worker/tensor"
)

// ErrConfig marks settings that cannot be measured with.
var ErrConfig = errors.New("bench kernels: bad setting")

// Config says what to measure.
type Config struct {
	Products []shape.Product `json:"products"`
	// Heads, KVHeads and HeadDim shape what follows the qkv product.
	Heads   int     `json:"heads,omitempty"`
	KVHeads int     `json:"kv_heads,omitempty"`
	HeadDim int     `json:"head_dim,omitempty"`
	Batches []int   `json:"batches"`
	Ranks   []Ranks `json:"ranks,omitempty"`
	Mixes   []Mix   `json:"mixes,omitempty"`
	// Alone leaves out what follows a product.
	Alone bool `json:"alone,omitempty"`
	// Rotate is how many bytes lie between two uses of the same weight.
	Rotate int64 `json:"rotate_bytes"`
	// Time is how long one repetition should take, Repeat how many there are.
	Time   time.Duration `json:"time_ns"`
	Repeat int           `json:"repeat"`
	// Bandwidth in bytes a second, if it is known; 0 measures it.
	Bandwidth float64 `json:"bandwidth,omitempty"`
	// Probes find the bandwidth in ways that this package does not know.
	Probes []Probe `json:"-"`
	// Progress, if set, is told what runs.
	Progress func(string) `json:"-"`
}

func (c *Config) check() error {
	var bad []string
	need := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	need(len(c.Products) > 0, "no product")
	for _, p := range c.Products {
		need(p.In > 0 && p.Out() > 0 && len(p.Parts) > 0, "product %v", p)
	}
	need(len(c.Batches) > 0, "no batch size")
	for _, b := range c.Batches {
		need(b >= 1 && b <= 1<<16, "batch %d is not in [1, 65536]", b)
	}
	for _, m := range c.Mixes {
		need(slices.Contains(Mixes, m), "mix %q is none of distinct, uniform, skewed, identical", m)
	}
	need(c.Repeat >= 1, "repeat %d is below 1", c.Repeat)
	need(c.Time > 0, "time %v is not above 0", c.Time)
	need(c.Rotate >= 0, "rotate %d is below 0", c.Rotate)
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(bad, "; "))
	}
	return nil
}

func (c *Config) say(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(fmt.Sprintf(format, args...))
	}
}

// Result is a whole measurement; times are seconds of one operation.
type Result struct {
	figure.Head
	Config Config `json:"config"`
	// Submit is what a submission of next to nothing costs; it was taken off.
	Submit   float64   `json:"submit_seconds"`
	Products []Product `json:"products"`
	Cells    []Cell    `json:"cells"`
}

// Product is one product at one batch size, without LoRA.
type Product struct {
	Name  string `json:"name"`
	In    int    `json:"in"`
	Out   int    `json:"out"`
	Batch int    `json:"batch"`
	// Time of the product alone and with what follows it.
	Time     float64 `json:"seconds"`
	Followed float64 `json:"followed_seconds"`
	// Bytes of the weight, and the time that reading them takes at least.
	Bytes int64   `json:"bytes"`
	Floor float64 `json:"floor_seconds"`
	Ratio float64 `json:"roofline_ratio"`
	// FLOPS is multiplications and additions a second.
	FLOPS float64 `json:"flops"`
}

// Cell is one product with LoRA.
type Cell struct {
	Name  string `json:"name"`
	In    int    `json:"in"`
	Out   int    `json:"out"`
	Batch int    `json:"batch"`
	Ranks Ranks  `json:"ranks"`
	Mix   Mix    `json:"mix"`
	// Adapters are distinct; SumRank is Σ of their ranks.
	Adapters int `json:"adapters"`
	SumRank  int `json:"sum_rank"`
	// Without and With LoRA, what follows the product included; Added is the
	// difference of the medians.
	Without figure.Spread `json:"without_seconds"`
	With    figure.Spread `json:"with_seconds"`
	Added   float64       `json:"added_seconds"`
	// Bytes of the distinct adapters, the time that reading them takes at least,
	// and Added over that.
	Bytes int64   `json:"lora_bytes"`
	Floor float64 `json:"floor_seconds"`
	Ratio float64 `json:"roofline_ratio"`
}

// Run measures everything that c asks for. When ctx ends it returns what there
// is, with Stopped set.
func Run(ctx context.Context, b tensor.Backend, c Config) (*Result, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	res := &Result{Head: figure.Begin(figure.KindKernels), Config: c}
	res.Device = figure.DeviceOf(b)
	most := slices.Max(c.Batches)
	r, err := newRig(b, &c, most)
	if err != nil {
		return nil, err
	}
	defer r.free()
	if res.Submit, err = r.submit(); err != nil {
		return nil, err
	}
	c.say("measuring the bandwidth")
	if res.Device.BytesPerSecond, res.Device.Probe, err = Bandwidth(b, c.Bandwidth, c.Probes); err != nil {
		return nil, err
	}
	for i := range c.Products {
		if ctx.Err() != nil {
			break
		}
		if err := r.product(ctx, &c.Products[i], res); err != nil {
			return nil, fmt.Errorf("%v: %w", c.Products[i], err)
		}
	}
	if ctx.Err() != nil {
		res.Stopped = "an interrupt"
	}
	res.End()
	return res, nil
}
