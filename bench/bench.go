package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chorale/bench/figure"
)

// ErrAllFailed marks a measurement in which no request succeeded.
var ErrAllFailed = errors.New("bench: no request succeeded")

// Result is a whole measurement.
type Result struct {
	figure.Head
	Config  Config       `json:"config"`
	Targets []TargetInfo `json:"targets"`
	Cells   []Cell       `json:"cells"`
	Ratios  []Ratio      `json:"ratios,omitempty"`
}

// TargetInfo is what a target told of itself, and what was named of it.
type TargetInfo struct {
	Name string `json:"name"`
	Info
	Used []string `json:"used_adapters,omitempty"`
}

// Cell is one target in one mode.
type Cell struct {
	Target string `json:"target"`
	Mode   Mode   `json:"mode"`
	Rounds []Run  `json:"rounds"`
	// Pooled has percentiles over the requests of all rounds.
	Pooled Metrics `json:"pooled"`
	// Output tokens and CPU seconds over the rounds.
	OutputPerSecond Spread  `json:"output_tokens_per_second"`
	CPU             *Spread `json:"cpu_seconds,omitempty"`
	// PerAdapter is sorted by number of requests.
	PerAdapter []AdapterMetrics `json:"per_adapter,omitempty"`
	// Errors are the distinct messages, at most 5.
	Errors []string `json:"errors,omitempty"`
	// last are the samples of the last round, for plots.
	last []Sample
	all  [][]Sample
}

// Run is one round of a cell.
type Run struct {
	Round   int       `json:"round"`
	Started time.Time `json:"started"`
	// Cut is set when the measurement's end cut the round short.
	Cut     bool     `json:"cut,omitempty"`
	Metrics Metrics  `json:"metrics"`
	Samples []Sample `json:"samples,omitempty"`
}

// AdapterMetrics are one adapter's requests in a cell.
type AdapterMetrics struct {
	Adapter string  `json:"adapter"` // "" is the base model
	Metrics Metrics `json:"metrics"`
}

// Measure runs everything that c asks for. When ctx ends or MaxDuration
// passes, it returns what there is, with Stopped set; the error is for
// measurements that cannot be made at all.
func Measure(ctx context.Context, c Config) (*Result, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	head := figure.Begin(figure.KindServe)
	if c.MaxDuration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.MaxDuration, fmt.Errorf("the limit of %v", c.MaxDuration))
		defer cancel()
	}
	m := &measurement{config: &c}
	defer m.close()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	res := &Result{Head: head, Config: c, Targets: m.infos()}
	if err := m.rounds(ctx); err != nil {
		return nil, err
	}
	res.Stopped = stopped(ctx)
	res.End()
	res.Cells = m.summary()
	res.Ratios = ratios(&c, res.Cells)
	return res, failed(res)
}

// measurement is a Measure that runs.
type measurement struct {
	config  *Config
	targets []*target
	cells   []*Cell
	of      []*target // of each cell
	prompts *prompts
}

func (m *measurement) close() {
	for _, t := range m.targets {
		t.client.CloseIdleConnections()
	}
}

func (m *measurement) open(ctx context.Context) error {
	vocab := m.config.Vocab
	for _, spec := range m.config.Targets {
		t, err := openTarget(ctx, spec, m.config)
		if err != nil {
			return err
		}
		m.targets = append(m.targets, t)
		if v := t.info.Vocab; m.config.Vocab == 0 && v > 0 && (vocab == 0 || v < vocab) {
			vocab = v // the least that all have
		}
		for _, mode := range m.config.Modes {
			m.cells = append(m.cells, &Cell{Target: spec.Name, Mode: mode})
			m.of = append(m.of, t)
		}
	}
	if vocab == 0 {
		vocab = defaultVocab
	}
	m.config.Vocab = vocab
	m.prompts = newPrompts(vocab, m.config.Texts)
	return nil
}

// defaultVocab is the least of common models, Llama 2's.
const defaultVocab = 32000

func (m *measurement) infos() []TargetInfo {
	var out []TargetInfo
	for _, t := range m.targets {
		out = append(out, TargetInfo{Name: t.spec.Name, Info: t.info, Used: t.adapters})
	}
	return out
}

// rounds runs the warm-ups, then all cells of each round, in an order that
// turns around from round to round.
func (m *measurement) rounds(ctx context.Context) error {
	order := make([]int, len(m.cells))
	for i := range order {
		order[i] = i
	}
	for w := range m.config.Warmup {
		for _, i := range order {
			if err := m.warm(ctx, i, w); err != nil {
				return err
			}
		}
	}
	for r := range m.config.Repeat {
		for _, i := range order {
			if ctx.Err() != nil {
				return nil
			}
			if err := m.round(ctx, i, r); err != nil {
				return err
			}
		}
		slices.Reverse(order)
	}
	return nil
}

func (m *measurement) warm(ctx context.Context, i, w int) error {
	cell, t := m.cells[i], m.of[i]
	if ctx.Err() != nil {
		return nil
	}
	items, err := m.config.warmup(m.prompts, cell.Mode, len(t.adapters), w, i)
	if err != nil {
		return err
	}
	m.config.say("%s %s: warm-up %d of %d", cell.Target, cell.Mode, w+1, m.config.Warmup)
	c := *m.config
	c.Rate = 0
	for _, s := range t.run(ctx, &c, items) {
		if s.Error != "" {
			return fmt.Errorf("target %s, mode %s, warm-up: %s", cell.Target, cell.Mode, s.Error)
		}
	}
	return nil
}

func (m *measurement) round(ctx context.Context, i, r int) error {
	cell, t := m.cells[i], m.of[i]
	items, err := m.config.items(m.prompts, cell.Mode, len(t.adapters), r, i)
	if err != nil {
		return err
	}
	run := Run{Round: r, Started: time.Now()}
	used, usedErr := CPUSeconds(t.spec.PID)
	samples := t.run(ctx, m.config, items)
	run.Metrics = measure([][]Sample{samples}, m.config.SLO)
	if after, err := CPUSeconds(t.spec.PID); err == nil && usedErr == nil && t.spec.PID > 0 {
		d := after - used
		run.Metrics.CPU = &d
	}
	run.Cut = ctx.Err() != nil
	if m.config.Raw {
		run.Samples = samples
	}
	cell.Rounds, cell.last, cell.all = append(cell.Rounds, run), samples, append(cell.all, samples)
	m.config.say("%s %s: round %d of %d: %.1f tokens/s, TTFT p95 %s", cell.Target, cell.Mode, r+1, m.config.Repeat,
		run.Metrics.OutputPerSecond, figure.Seconds(run.Metrics.TTFT.P95))
	return nil
}

// summary pools the rounds. Rounds that were cut count only where there is no
// other.
func (m *measurement) summary() []Cell {
	var out []Cell
	for _, c := range m.cells {
		var whole [][]Sample
		var rates, cpus []float64
		only := len(c.Rounds) == 1
		for i, r := range c.Rounds {
			c.note(c.all[i])
			if r.Cut && !only {
				continue
			}
			whole = append(whole, c.all[i])
			rates = append(rates, r.Metrics.OutputPerSecond)
			if r.Metrics.CPU != nil {
				cpus = append(cpus, *r.Metrics.CPU)
			}
		}
		c.Pooled, c.OutputPerSecond = measure(whole, m.config.SLO), figure.SpreadOf(rates)
		if len(cpus) > 0 {
			s := figure.SpreadOf(cpus)
			c.CPU = &s
		}
		c.PerAdapter = perAdapter(whole, m.config.SLO)
		out = append(out, *c)
	}
	return out
}

// note keeps the first distinct errors.
func (c *Cell) note(samples []Sample) {
	const most = 5
	for i := range samples {
		if e := samples[i].Error; e != "" && len(c.Errors) < most && !slices.Contains(c.Errors, e) {
			c.Errors = append(c.Errors, e)
		}
	}
}

func perAdapter(runs [][]Sample, slo SLO) []AdapterMetrics {
	split := map[string][][]Sample{}
	for i, run := range runs {
		for _, s := range run {
			if split[s.Adapter] == nil {
				split[s.Adapter] = make([][]Sample, len(runs))
			}
			split[s.Adapter][i] = append(split[s.Adapter][i], s)
		}
	}
	var out []AdapterMetrics
	for name, rs := range split {
		out = append(out, AdapterMetrics{Adapter: name, Metrics: measure(rs, slo)})
	}
	slices.SortFunc(out, func(a, b AdapterMetrics) int {
		if d := b.Metrics.Requests - a.Metrics.Requests; d != 0 {
			return d
		}
		return compare(a.Adapter, b.Adapter)
	})
	return out
}

// failed is an error when not one request succeeded.
func failed(res *Result) error {
	why := ""
	if res.Stopped != "" {
		why = ": ended early by " + res.Stopped
	}
	for i := range res.Cells {
		c := &res.Cells[i]
		if c.Pooled.E2E.N > 0 {
			return nil
		}
		if len(c.Errors) > 0 && res.Stopped == "" && why == "" {
			why = fmt.Sprintf(": %s %s: %s", c.Target, c.Mode, c.Errors[0])
		}
	}
	return fmt.Errorf("%w%s", ErrAllFailed, why)
}
