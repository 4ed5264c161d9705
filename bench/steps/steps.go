package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chorale/bench/figure"
	"chorale/bench/kernels"
	"chorale/bench/shape"
	"chorale/worker/tensor"
)

// ErrConfig marks settings that cannot be measured with.
var ErrConfig = errors.New("bench engine: bad setting")

// Config says what to measure.
type Config struct {
	Model shape.Model `json:"model"`
	// The grid: rows, distinct adapters (0 is the base alone), ranks, and tokens
	// in the cache.
	Batches  []int           `json:"batches"`
	Adapters []int           `json:"adapters"`
	Ranks    []kernels.Ranks `json:"ranks,omitempty"`
	Contexts []int           `json:"contexts"`
	// Steps are measured after Warmup others.
	Steps  int `json:"steps"`
	Warmup int `json:"warmup"`
	// Prefill are prompt lengths, each asked Repeat times.
	Prefill []int `json:"prefill,omitempty"`
	Repeat  int   `json:"repeat,omitempty"`
	// Chunk is the most tokens of a step.
	Chunk int `json:"chunk"`
	// ProductTime is how long one repetition of a product should take.
	ProductTime time.Duration `json:"product_time_ns"`
	// Bandwidth in bytes a second, if it is known; 0 measures it.
	Bandwidth float64         `json:"bandwidth,omitempty"`
	Probes    []kernels.Probe `json:"-"`
	Seed      uint64          `json:"seed"`
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
	need(len(c.Batches) > 0 && len(c.Adapters) > 0 && len(c.Contexts) > 0 || len(c.Prefill) > 0, "nothing to measure: no batches, adapters or contexts, and no prefill")
	for _, b := range c.Batches {
		need(b >= 1 && b < c.Chunk, "batch %d is not in [1, chunk %d)", b, c.Chunk)
	}
	for _, d := range c.Adapters {
		need(d >= 0, "adapters %d is below 0", d)
		need(d == 0 || len(c.Ranks) > 0, "%d adapters of no rank", d)
	}
	need(c.Steps >= 1 && c.Warmup >= 0, "steps %d, warmup %d", c.Steps, c.Warmup)
	need(c.ProductTime > 0, "product time %v is not above 0", c.ProductTime)
	need(c.Repeat >= 1 || len(c.Prefill) == 0, "repeat %d is below 1", c.Repeat)
	for _, n := range c.Contexts {
		need(n > c.Warmup+c.Steps, "context %d has no room for %d warm-up and %d measured steps", n, c.Warmup, c.Steps)
		need(n+c.Warmup+c.Steps <= c.Model.Spec.Context, "context %d and %d steps are more than the model's %d", n, c.Warmup+c.Steps, c.Model.Spec.Context)
	}
	for _, n := range c.Prefill {
		need(n >= 1 && n < c.Model.Spec.Context, "prefill %d is not in [1, the model's %d)", n, c.Model.Spec.Context)
	}
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

// Result is a whole measurement; times are seconds.
type Result struct {
	figure.Head
	Config  Config    `json:"config"`
	Cells   []Cell    `json:"cells"`
	Prefill []Prefill `json:"prefill,omitempty"`
	// Skipped are the cells that do not fit the device's memory.
	Skipped []string `json:"skipped,omitempty"`
}

// Cell is one point of the grid.
type Cell struct {
	Batch    int           `json:"batch"`
	Adapters int           `json:"adapters"`
	Ranks    kernels.Ranks `json:"ranks,omitempty"`
	SumRank  int           `json:"sum_rank"`
	// Context is the mean number of cached tokens a row while it was measured.
	Context float64 `json:"context"`
	// Asked is the grid's.
	Asked int `json:"asked_context"`
	// Step is from one token to the next, Engine what the engine counted of it:
	// since the step's launch, or since the one before ended.
	Step   figure.Dist `json:"step_seconds"`
	Engine float64     `json:"engine_seconds"`
	// Host is Step less Engine, both medians: the time with no step under way.
	Host float64 `json:"host_seconds"`
	// CPU seconds of this process per step, a driver's waiting included.
	CPU             float64 `json:"cpu_seconds"`
	TokensPerSecond float64 `json:"tokens_per_second"`
	// Overhead is the step over the one without adapters, less 1.
	Overhead *float64 `json:"overhead,omitempty"`
	Floor    Floor    `json:"floor"`
	// Ratio is the median step over the floor.
	Ratio float64 `json:"roofline_ratio"`
}

// Floor is what a step must take, in seconds.
type Floor struct {
	// GEMM is measured, KV and LoRA are bytes over bandwidth.
	GEMM  float64 `json:"gemm_seconds"`
	KV    float64 `json:"kv_seconds"`
	LoRA  float64 `json:"lora_seconds"`
	Total float64 `json:"total_seconds"`
}

// Prefill is one prompt on an idle engine.
type Prefill struct {
	Tokens int           `json:"tokens"`
	Ranks  kernels.Ranks `json:"ranks,omitempty"` // of the one adapter; empty: none
	TTFT   figure.Dist   `json:"ttft_seconds"`
	// TokensPerSecond at the median.
	TokensPerSecond float64  `json:"tokens_per_second"`
	Overhead        *float64 `json:"overhead,omitempty"`
	// GEMM is the matrix products of its chunks, measured, and Ratio TTFT's
	// median over that.
	GEMM  float64 `json:"gemm_seconds"`
	Ratio float64 `json:"roofline_ratio"`
}

// Run measures everything that c asks for. When ctx ends it returns what there
// is, with Stopped set.
func Run(ctx context.Context, b tensor.Backend, c Config) (*Result, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	res := &Result{Head: figure.Begin(figure.KindEngine), Config: c}
	res.Device = figure.DeviceOf(b)
	r := &run{b: b, c: &c, res: res, gemm: map[int]float64{}}
	err := r.all(ctx)
	if ctx.Err() != nil {
		res.Stopped, err = "an interrupt", nil
	}
	res.End()
	return res, err
}

// products measures the matrix products of a step at each number of rows that
// steps will have.
func (r *run) products(ctx context.Context) error {
	rows := slices.Clone(r.c.Batches)
	for _, n := range r.c.Prefill {
		rows = append(rows, r.chunks(n)...)
	}
	rows = append(rows, 1)
	slices.Sort(rows)
	rows = slices.Compact(rows)
	s := &r.c.Model.Spec
	layer := kernels.Config{
		Products: shape.Products(s), Heads: s.Heads, KVHeads: s.KVHeads, HeadDim: s.HeadDim, Batches: rows, Alone: true,
		Rotate: rotate, Time: r.c.ProductTime, Repeat: productRepeat, Bandwidth: r.c.Bandwidth, Probes: r.c.Probes,
	}
	r.c.say("measuring the matrix products of %v rows", rows)
	k, err := kernels.Run(ctx, r.b, layer)
	if err != nil {
		return err
	}
	r.res.Device.BytesPerSecond, r.res.Device.Probe = k.Device.BytesPerSecond, k.Device.Probe
	for i := range k.Products {
		r.gemm[k.Products[i].Batch] += float64(s.Layers) * k.Products[i].Time
	}
	// The head computes only rows that somebody waits for.
	head := layer
	head.Products, head.Bandwidth = []shape.Product{{Name: "head", In: s.Hidden, Parts: []int{s.Vocab}}}, k.Device.BytesPerSecond
	head.Batches = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(r.c.Batches), 1))))
	if k, err = kernels.Run(ctx, r.b, head); err != nil {
		return err
	}
	r.head = map[int]float64{}
	for i := range k.Products {
		r.head[k.Products[i].Batch] = k.Products[i].Time
	}
	return ctx.Err()
}

// chunks are the rows of the steps that a prompt takes.
func (r *run) chunks(n int) []int {
	var out []int
	for ; n > r.c.Chunk; n -= r.c.Chunk {
		out = append(out, r.c.Chunk)
	}
	return append(out, n)
}
