package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"chorale/bench/figure"
)

// Sweep is an open loop over a grid: numbers of adapters, their popularity, the
// burstiness of arrivals, and rates as shares of what the first target does
// without adapters, which is measured first.
type Sweep struct {
	// Config gives targets, lengths, seed, SLO, duration and rounds; its modes,
	// loop, rate, cv and alpha are set by the grid.
	Config
	// Counts are how many adapters requests are drawn from, the first so many of
	// a target's; 0 is the base model, AllAdapters all that every target has.
	Counts []int `json:"counts"`
	// Alphas are the power law's exponents, CVs the gaps' variation, Loads the
	// shares of the capacity.
	Alphas []float64 `json:"alphas"`
	CVs    []float64 `json:"cvs"`
	Loads  []float64 `json:"loads"`
	// Capacity in requests a second, if it is known; 0 measures it with Clients
	// clients that always ask.
	Capacity float64 `json:"capacity,omitempty"`
}

// AllAdapters stands for as many adapters as every target has.
const AllAdapters = -1

// SweepResult is a whole sweep.
type SweepResult struct {
	figure.Head
	Config   Sweep        `json:"config"`
	Targets  []TargetInfo `json:"targets"`
	Capacity Capacity     `json:"capacity"`
	Points   []Point      `json:"points"`
}

// Capacity is what the first target does without adapters.
type Capacity struct {
	RequestsPerSecond float64 `json:"requests_per_second"`
	TokensPerSecond   float64 `json:"output_tokens_per_second"`
	// Seconds of the window that was counted; 0: it was given.
	Seconds float64 `json:"seconds,omitempty"`
}

// Point is one place of the grid.
type Point struct {
	Target   string  `json:"target"`
	Adapters int     `json:"adapters"`
	Alpha    float64 `json:"alpha,omitempty"` // without adapters there is none
	CV       float64 `json:"cv"`
	Load     float64 `json:"load"`
	Rate     float64 `json:"rate"`
	// Asked counts the distinct adapters that requests named.
	Asked    int      `json:"asked_adapters"`
	Metrics  Metrics  `json:"metrics"`
	Fairness Fairness `json:"fairness"`
	Errors   []string `json:"errors,omitempty"`
	// Cut is set when the measurement's end cut it short.
	Cut bool `json:"cut,omitempty"`
}

func (s *Sweep) check() error {
	var bad []string
	need := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	need(len(s.Counts) > 0 && len(s.Alphas) > 0 && len(s.CVs) > 0 && len(s.Loads) > 0, "an empty grid")
	for _, n := range s.Counts {
		need(n >= 0 || n == AllAdapters, "%d adapters", n)
	}
	for _, a := range s.Alphas {
		need(a > 0, "alpha %g is not above 0", a)
	}
	for _, v := range s.CVs {
		need(v >= 0 && v <= 100, "cv %g is not in [0, 100]", v)
	}
	for _, l := range s.Loads {
		need(l > 0, "load %g is not above 0", l)
	}
	need(s.Duration > 0, "a sweep needs a duration")
	need(s.Capacity >= 0, "capacity %g is below 0", s.Capacity)
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(bad, "; "))
	}
	c := s.at(Point{Rate: 1, CV: s.CVs[0], Alpha: 1})
	return c.check()
}

// at is the measurement of a point.
func (s *Sweep) at(p Point) Config {
	c := s.Config
	c.Rate, c.CV, c.Total, c.Clients, c.Requests, c.Repeat = p.Rate, p.CV, 0, 0, 0, 1
	c.Alpha, c.Modes = 1, []Mode{ModeNone}
	if p.Adapters > 0 {
		c.Alpha, c.Modes = p.Alpha, []Mode{ModePower}
	}
	return c
}

// points is the grid; without adapters alpha says nothing.
func (s *Sweep) points() []Point {
	var out []Point
	for _, n := range s.Counts {
		alphas := s.Alphas
		if n == 0 {
			alphas = []float64{0}
		}
		for _, a := range alphas {
			for _, v := range s.CVs {
				for _, l := range s.Loads {
					for _, t := range s.Targets {
						out = append(out, Point{Target: t.Name, Adapters: n, Alpha: a, CV: v, Load: l})
					}
				}
			}
		}
	}
	return out
}

// MeasureSweep runs a sweep. When ctx ends or MaxDuration passes, it returns
// what there is, with Stopped set.
func MeasureSweep(ctx context.Context, s Sweep) (*SweepResult, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	res := &SweepResult{Head: figure.Begin(figure.KindSweep)}
	if s.MaxDuration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.MaxDuration, fmt.Errorf("the limit of %v", s.MaxDuration))
		defer cancel()
	}
	s.Modes = []Mode{ModeNone} // what targets have is checked below
	m := &measurement{config: &s.Config}
	defer m.close()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	if err := s.count(m.targets); err != nil {
		return nil, err
	}
	res.Config, res.Targets = s, m.infos()
	if err := s.run(ctx, m, res); err != nil {
		return nil, err
	}
	res.stop(ctx)
	return res, res.failed()
}

// count puts a number in the place of AllAdapters and checks that every target
// has as many adapters as the grid wants.
func (s *Sweep) count(targets []*target) error {
	all := math.MaxInt
	for _, t := range targets {
		all = min(all, len(t.adapters))
	}
	var out []int
	for _, n := range s.Counts {
		if n == AllAdapters {
			n = all
		}
		if n > all {
			return fmt.Errorf("%w: a target has %d adapters, the sweep wants %d", ErrConfig, all, n)
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	s.Counts = out
	return nil
}

func (r *SweepResult) stop(ctx context.Context) {
	r.Stopped = stopped(ctx)
	r.End()
}

func (s *Sweep) run(ctx context.Context, m *measurement, res *SweepResult) error {
	res.Capacity = Capacity{RequestsPerSecond: s.Capacity}
	if s.Capacity == 0 {
		var err error
		if res.Capacity, err = s.capacity(ctx, m); err != nil {
			return err
		}
		s.say("capacity without adapters: %.2f requests/s, %.0f tokens/s", res.Capacity.RequestsPerSecond, res.Capacity.TokensPerSecond)
	}
	for i, p := range s.points() {
		if ctx.Err() != nil {
			return nil
		}
		p.Rate = p.Load * res.Capacity.RequestsPerSecond
		if err := s.point(ctx, m, &p, i); err != nil {
			return err
		}
		res.Points = append(res.Points, p)
		s.say("%s: %.2f requests/s, TTFT p95 %s, SLO %.0f%%", p.name(), p.Metrics.RequestsPerSecond, figure.Seconds(p.Metrics.TTFT.P95), 100*p.Metrics.SLO)
	}
	return nil
}

func (p *Point) name() string {
	if p.Adapters == 0 {
		return fmt.Sprintf("%s: no adapter, cv %g, load %g", p.Target, p.CV, p.Load)
	}
	return fmt.Sprintf("%s: %d adapters, alpha %g, cv %g, load %g", p.Target, p.Adapters, p.Alpha, p.CV, p.Load)
}

// Rounds of random streams that points and capacity use, apart from each other.
const capacityRound, firstPoint = 1 << 21, 1 << 22

// capacity keeps Clients clients asking for the duration, after a warm-up, and
// counts tokens while all of them are being answered.
func (s *Sweep) capacity(ctx context.Context, m *measurement) (Capacity, error) {
	c := s.Config
	c.Rate, c.Modes, c.Requests = 0, []Mode{ModeNone}, capacityRequests
	s.say("measuring the capacity: %d clients for %v", c.Clients, c.Duration)
	warm, err := c.warmup(m.prompts, ModeNone, 0, capacityRound, 0)
	if err != nil {
		return Capacity{}, err
	}
	for _, sample := range m.targets[0].run(ctx, &c, warm) {
		if sample.Error != "" {
			return Capacity{}, fmt.Errorf("target %s, capacity: %s", s.Targets[0].Name, sample.Error)
		}
	}
	items, err := c.items(m.prompts, ModeNone, 0, capacityRound, 0)
	if err != nil {
		return Capacity{}, err
	}
	limited, cancel := context.WithTimeout(ctx, c.Duration)
	defer cancel()
	got := capacityOf(m.targets[0].run(limited, &c, items), c.Clients, items)
	if got.RequestsPerSecond == 0 {
		if ctx.Err() != nil {
			return got, nil
		}
		return got, fmt.Errorf("%w: no answer while the capacity was measured for %v", ErrAllFailed, c.Duration)
	}
	return got, nil
}

// capacityRequests is more than a client asks while the capacity is measured.
const capacityRequests = 64

// capacityOf counts the tokens between the time when every client had one and
// the time when the first client had no more to ask.
func capacityOf(samples []Sample, clients int, items []item) Capacity {
	first, last, asked := make([]float64, clients), make([]float64, clients), make([]int, clients)
	for i := range first {
		first[i] = math.Inf(1)
	}
	for i := range samples {
		s := &samples[i]
		asked[s.Client]++
		if len(s.Tokens) > 0 {
			first[s.Client] = min(first[s.Client], s.Tokens[0])
			last[s.Client] = max(last[s.Client], s.last())
		}
	}
	from, to := slices.Max(first), 0.0
	for i := range samples {
		to = max(to, samples[i].Done)
	}
	for i := range last {
		if asked[i]*clients >= len(items) { // it was through before the end
			to = min(to, last[i])
		}
	}
	if math.IsInf(from, 1) || to <= from {
		return Capacity{}
	}
	tokens := 0
	for i := range samples {
		for _, at := range samples[i].Tokens {
			if at > from && at <= to {
				tokens++
			}
		}
	}
	mean := 0.0
	for i := range items {
		mean += float64(items[i].output) / float64(len(items))
	}
	rate := float64(tokens) / (to - from)
	return Capacity{RequestsPerSecond: rate / mean, TokensPerSecond: rate, Seconds: to - from}
}

// point measures one place of the grid.
func (s *Sweep) point(ctx context.Context, m *measurement, p *Point, i int) error {
	c := s.at(*p)
	t := m.targets[slices.IndexFunc(m.targets, func(t *target) bool { return t.spec.Name == p.Target })]
	mode := c.Modes[0]
	if i == 0 || s.Warmup > 0 {
		if err := s.warm(ctx, m, t, &c, mode, p, i); err != nil {
			return err
		}
	}
	// All targets and loads of a place have the same requests.
	items, err := c.items(m.prompts, mode, p.Adapters, firstPoint, i)
	if err != nil {
		return err
	}
	samples := t.run(ctx, &c, items)
	p.Metrics, p.Fairness, p.Cut = measure([][]Sample{samples}, s.SLO), fairness(samples), ctx.Err() != nil
	cell := Cell{}
	cell.note(samples)
	p.Errors = cell.Errors
	seen := map[string]bool{}
	for j := range samples {
		if a := samples[j].Adapter; a != "" {
			seen[a] = true
		}
	}
	p.Asked = len(seen)
	return nil
}

func (s *Sweep) warm(ctx context.Context, m *measurement, t *target, c *Config, mode Mode, p *Point, i int) error {
	items, err := c.warmup(m.prompts, mode, p.Adapters, firstPoint, i)
	if err != nil {
		return err
	}
	w := *c
	w.Rate = 0
	for _, sample := range t.run(ctx, &w, items) {
		if sample.Error != "" {
			return fmt.Errorf("%s, warm-up: %s", p.name(), sample.Error)
		}
	}
	return nil
}

// failed is an error when not one request succeeded.
func (r *SweepResult) failed() error {
	why := ""
	if r.Stopped != "" {
		why = ": ended early by " + r.Stopped
	}
	for i := range r.Points {
		if r.Points[i].Metrics.E2E.N > 0 {
			return nil
		}
		if e := r.Points[i].Errors; len(e) > 0 && why == "" {
			why = ": " + e[0]
		}
	}
	return fmt.Errorf("%w%s", ErrAllFailed, why)
}

// stopped tells why a context ended; empty when it did not.
func stopped(ctx context.Context) string {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return ""
	case errors.Is(cause, context.Canceled):
		return "an interrupt"
	default:
		return cause.Error()
	}
}
