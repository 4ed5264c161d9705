package steps

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"chorale/bench/figure"
	"chorale/bench/kernels"
	"chorale/bench/local"
	"chorale/bench/shape"
	"chorale/worker/engine"
	"chorale/worker/kv"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
)

// How products are measured for the floor.
const (
	rotate        = 256 << 20
	productRepeat = 5
)

// run is a measurement on its way.
type run struct {
	b    tensor.Backend
	c    *Config
	res  *Result
	gemm map[int]float64 // of the layers, by rows
	head map[int]float64 // of the head, by rows
	m    *decoder.Model
	e    *local.Engine
	// files of noise by rank.
	files map[int]local.Files
	// pages that the cache can have beside the adapters.
	pages int
	base  map[[2]int]float64 // the step without adapters, by batch and context
	ttft  map[int]float64    // without an adapter, by prompt
	seed  uint64
}

func (r *run) all(ctx context.Context) (err error) {
	if err := r.products(ctx); err != nil {
		return err
	}
	r.c.say("loading %s: %.1f GB of noise", r.c.Model.Name, float64(r.c.Model.Bytes)/1e9)
	if r.m, err = local.Load(r.b, &r.c.Model); err != nil {
		return err
	}
	defer r.m.Free()
	if r.e, err = local.Open(r.b, r.m, r.options()); err != nil {
		return err
	}
	defer func() {
		if e := r.e.Close(); err == nil {
			err = e
		}
	}()
	if err := r.room(ctx); err != nil {
		return err
	}
	r.files, r.base, r.ttft = map[int]local.Files{}, map[[2]int]float64{}, map[int]float64{}
	if err := r.group(ctx, nil); err != nil {
		return err
	}
	for _, ranks := range r.c.Ranks {
		if err := r.group(ctx, ranks); err != nil {
			return fmt.Errorf("rank %v: %w", ranks, err)
		}
	}
	return nil
}

// most is the largest number of distinct adapters.
func (r *run) most() int {
	n := 1
	for _, d := range r.c.Adapters {
		n = max(n, d)
	}
	return n
}

// options make the engine as large as the grid needs; on a device with memory of
// its own, as large as it allows.
func (r *run) options() engine.Options {
	o := engine.Options{
		MaxBatchTokens: r.c.Chunk, MaxRunning: 1, MaxAdapters: r.most(), MaxResident: r.most(), StarveSteps: 64,
	}
	pages := 2
	for _, b := range r.c.Batches {
		o.MaxRunning = max(o.MaxRunning, b)
		for _, ctx := range r.c.Contexts {
			pages = max(pages, r.need(b, ctx))
		}
	}
	for _, n := range r.c.Prefill {
		pages = max(pages, n/kv.PageSize+2)
	}
	if !r.ownMemory() {
		o.Pages = pages
	}
	return o
}

func (r *run) ownMemory() bool {
	_, ok := r.b.(interface {
		Memory() (free, total int64, err error)
	})
	return ok
}

// room finds out how many pages there are beside the largest batch's adapters.
func (r *run) room(ctx context.Context) error {
	st, err := r.e.Status(ctx)
	if err != nil {
		return err
	}
	if !r.ownMemory() {
		r.pages = st.Pages
		return nil
	}
	rank := 0
	for _, ranks := range r.c.Ranks {
		rank = max(rank, ranks.Sum(r.most()))
	}
	adapters := 2*int64(rank)*shape.PerRank(&r.c.Model.Spec) + int64(r.most())*rounding
	// The engine keeps a part of the pool for what comes next.
	r.pages = int(max(0, st.Memory.Total-st.Memory.Total/16-adapters) / (r.perToken() * kv.PageSize))
	return nil
}

// rounding is what an adapter may take beyond its bytes.
const rounding = 4 << 20

// perToken is the cache's bytes per token.
func (r *run) perToken() int64 {
	s, size := &r.c.Model.Spec, int64(2)
	if r.b.Precision() == tensor.F32 {
		size = 4
	}
	return 2 * int64(s.Layers) * int64(s.KVHeads) * int64(s.HeadDim) * size
}

// window is how many tokens each answer has: measured ones, those before, and
// as many as come while the prompts of others are still computed.
func (r *run) window(b, ctx int) int {
	filling := (b*ctx + r.c.Chunk - b - 1) / (r.c.Chunk - b)
	return r.c.Warmup + r.c.Steps + 2 + filling
}

// prompt is the prompt's length that makes the context the mean.
func (r *run) prompt(ctx int) int { return max(1, ctx-r.c.Warmup-r.c.Steps/2) }

// need is how many pages a cell needs.
func (r *run) need(b, ctx int) int {
	return b*((r.prompt(ctx)+r.window(b, ctx))/kv.PageSize+1) + 1
}

// group measures everything at one kind of rank; nil is the base alone.
func (r *run) group(ctx context.Context, ranks kernels.Ranks) error {
	names, err := r.load(ctx, ranks)
	if err != nil {
		return err
	}
	defer func() {
		for _, n := range names {
			_ = r.e.DropAdapter(context.WithoutCancel(ctx), n, true) // the engine's end would do it too
		}
	}()
	for _, length := range r.c.Contexts {
		for _, b := range r.c.Batches {
			for _, d := range r.c.Adapters {
				if (d == 0) != (ranks == nil) || d > b || ctx.Err() != nil {
					continue
				}
				if err := r.cell(ctx, b, d, length, ranks, names); err != nil {
					return fmt.Errorf("batch %d, %d adapters, context %d: %w", b, d, length, err)
				}
			}
		}
	}
	for _, n := range r.c.Prefill {
		if err := r.prefill(ctx, n, ranks, names); err != nil {
			return fmt.Errorf("prefill %d: %w", n, err)
		}
	}
	return nil
}

// load puts as many adapters into host memory as cells will ask for.
func (r *run) load(ctx context.Context, ranks kernels.Ranks) ([]string, error) {
	if ranks == nil {
		return nil, nil
	}
	var names []string
	for i := range r.most() {
		rank := ranks.Of(i)
		f, ok := r.files[rank]
		if !ok {
			var err error
			if f, err = local.Noise(&r.c.Model.Spec, rank); err != nil {
				return nil, err
			}
			r.files[rank] = f
		}
		name := fmt.Sprintf("r%v-%d", ranks, i)
		if err := r.e.Put(ctx, name, f); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func (r *run) rng() *rand.Rand {
	r.seed++
	return rand.New(rand.NewPCG(r.c.Seed, r.seed))
}

// cell measures one point of the grid.
func (r *run) cell(ctx context.Context, b, d, length int, ranks kernels.Ranks, names []string) error {
	what := fmt.Sprintf("B=%d D=%d ctx=%d", b, d, length)
	if d > 0 {
		what += fmt.Sprintf(" r=%v", ranks)
	}
	if need := r.need(b, length); need > r.pages {
		r.res.Skipped = append(r.res.Skipped, fmt.Sprintf("%s: %d pages of cache, %d fit the device", what, need, r.pages))
		return nil
	}
	asks := make([]local.Ask, b)
	for i := range asks {
		asks[i] = local.Ask{Prompt: r.prompt(length), Output: r.window(b, length)}
		if d > 0 {
			asks[i].Adapter = names[i*d/b]
		}
	}
	streams := r.e.Submit(r.rng(), asks...)
	w, err := r.watch(ctx, streams)
	r.e.Abort(streams)
	if e := r.e.Finish(context.WithoutCancel(ctx), streams); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := r.e.FlushCache(ctx); err != nil {
		return err
	}
	c := w.cell()
	c.Batch, c.Adapters, c.Asked = b, d, length
	if d > 0 {
		c.Ranks, c.SumRank = ranks, ranks.Sum(d)
	}
	r.roofline(&c)
	r.res.Cells = append(r.res.Cells, c)
	r.c.say("%s: %.2f ms a step, %.2f of the roofline", what, c.Step.P50*1e3, c.Ratio)
	return nil
}

// watched is what was seen while all streams ran.
type watched struct {
	rows    int
	tokens  []time.Time // of the stream that began last
	context float64
	steps   []local.Step
	cpu     time.Duration
}

// watch waits until every stream runs and the one that began last has had its
// tokens.
func (r *run) watch(ctx context.Context, streams []*local.Stream) (*watched, error) {
	w := &watched{rows: len(streams)}
	failed := func(s *local.Stream) bool { return s.Err != nil }
	begun := func(s *local.Stream) bool { return len(s.Times) > 0 }
	var last *local.Stream
	before := time.Duration(0)
	err := r.e.Wait(ctx, func() bool {
		if slices.ContainsFunc(streams, failed) {
			return true
		}
		if last == nil && local.All(streams, begun) {
			for _, s := range streams {
				if last == nil || len(s.Times) < len(last.Times) {
					last = s
				}
			}
		}
		if last != nil && before == 0 && len(last.Times) > r.c.Warmup {
			before = cpuTime()
		}
		return last != nil && len(last.Times) > r.c.Warmup+r.c.Steps
	})
	w.cpu = cpuTime() - before
	if err != nil || last == nil {
		return w, err
	}
	total := 0
	for _, s := range streams {
		total += s.Prompt + len(s.Times)
	}
	w.context = float64(total)/float64(len(streams)) - float64(r.c.Steps)/2
	w.tokens = apart(last.Times)[r.c.Warmup : r.c.Warmup+r.c.Steps+1]
	w.steps = r.e.Steps()
	return w, nil
}

// apart spreads tokens that came in one message, because their steps were too
// short for it to be received each time, over the time since the one before.
func apart(times []time.Time) []time.Time {
	out := slices.Clone(times)
	for i := 0; i < len(out); {
		j := i
		for j < len(out) && times[j].Equal(times[i]) {
			j++
		}
		if i > 0 {
			from, gap := times[i-1], times[i].Sub(times[i-1])
			for k := i; k < j; k++ {
				out[k] = from.Add(gap * time.Duration(k-i+1) / time.Duration(j-i))
			}
		}
		i = j
	}
	return out
}

// cell sums up what was seen.
func (w *watched) cell() Cell {
	var gaps, inside []float64
	for i := 1; i < len(w.tokens); i++ {
		gaps = append(gaps, w.tokens[i].Sub(w.tokens[i-1]).Seconds())
	}
	for _, s := range w.steps {
		if s.At.After(w.tokens[0]) {
			inside = append(inside, s.Status.Duration.Seconds())
		}
	}
	c := Cell{Context: w.context, Step: figure.Summary(gaps), CPU: w.cpu.Seconds() / float64(len(gaps))}
	if len(inside) > 0 {
		c.Engine = figure.Median(inside)
		c.Host = max(0, c.Step.P50-c.Engine)
	}
	if c.Step.Mean > 0 {
		c.TokensPerSecond = float64(w.rows) / c.Step.Mean
	}
	return c
}

// roofline adds what a step must take, and the step without adapters.
func (r *run) roofline(c *Cell) {
	bw := r.res.Device.BytesPerSecond
	c.Floor = Floor{
		GEMM: r.gemm[c.Batch] + r.head[c.Batch],
		KV:   float64(c.Batch) * c.Context * float64(r.perToken()) / bw,
		LoRA: 2 * float64(c.SumRank) * float64(shape.PerRank(&r.c.Model.Spec)) / bw,
	}
	c.Floor.Total = c.Floor.GEMM + c.Floor.KV + c.Floor.LoRA
	c.Ratio = c.Step.P50 / c.Floor.Total
	key := [2]int{c.Batch, c.Asked}
	if c.Adapters == 0 {
		r.base[key] = c.Step.P50
	} else if base := r.base[key]; base > 0 {
		over := c.Step.P50/base - 1
		c.Overhead = &over
	}
}

// prefill measures the time to the first token of one prompt.
func (r *run) prefill(ctx context.Context, n int, ranks kernels.Ranks, names []string) error {
	p := Prefill{Tokens: n, Ranks: ranks}
	ask := local.Ask{Prompt: n, Output: 1}
	if ranks != nil {
		ask.Adapter = names[0]
	}
	var times []float64
	const unmeasured = 2
	for i := range r.c.Repeat + unmeasured {
		s := r.e.Submit(r.rng(), ask)
		if err := r.e.Finish(ctx, s); err != nil {
			return err
		}
		if i >= unmeasured {
			times = append(times, s[0].Times[0].Sub(s[0].Sent).Seconds())
		}
		if err := r.e.FlushCache(ctx); err != nil {
			return err
		}
	}
	r.e.Steps()
	p.TTFT = figure.Summary(times)
	p.TokensPerSecond = float64(n) / p.TTFT.P50
	for _, rows := range r.chunks(n) {
		p.GEMM += r.gemm[rows]
	}
	p.GEMM += r.head[1]
	p.Ratio = p.TTFT.P50 / p.GEMM
	if ranks == nil {
		r.ttft[n] = p.TTFT.P50
	} else if base := r.ttft[n]; base > 0 {
		over := p.TTFT.P50/base - 1
		p.Overhead = &over
	}
	r.res.Prefill = append(r.res.Prefill, p)
	r.c.say("prefill %d: %s", n, figure.Seconds(p.TTFT.P50))
	return nil
}
