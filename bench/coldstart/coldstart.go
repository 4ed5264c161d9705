package coldstart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"chorale/bench/figure"
)

// ErrConfig marks settings that cannot be measured with.
var ErrConfig = errors.New("bench coldstart: bad setting")

// State is where the trial's adapter is when the request comes.
type State string

// The states.
const (
	Resident State = "resident"
	Host     State = "host"
	File     State = "file"
)

// States lists them; the first is what the others are compared with.
var States = []State{Resident, Host, File}

// Config says what to measure.
type Config struct {
	// Subject describes what is measured.
	Subject string  `json:"subject"`
	States  []State `json:"states"`
	// Trials of each state, in turn, after Warmup rounds of all that do not
	// count.
	Trials int `json:"trials"`
	Warmup int `json:"warmup"`
	// Prompt and Output are a trial's tokens.
	Prompt int `json:"prompt"`
	Output int `json:"output"`
	// Background requests run meanwhile; Quiet is how long they are watched
	// before each trial.
	Background int           `json:"background"`
	Quiet      time.Duration `json:"quiet_ns"`
	Seed       uint64        `json:"seed"`
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
	need(slices.Contains(c.States, Resident), "the resident state must be measured: the others are compared with it")
	for _, s := range c.States {
		need(slices.Contains(States, s), "state %q is none of resident, host, file", s)
	}
	need(c.Trials >= 1 && c.Warmup >= 0, "trials %d, warmup %d", c.Trials, c.Warmup)
	need(c.Prompt >= 1 && c.Output >= 1, "prompt %d, output %d", c.Prompt, c.Output)
	need(c.Background >= 0, "background %d is below 0", c.Background)
	need(c.Quiet >= 0, "quiet %v is below 0", c.Quiet)
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(bad, "; "))
	}
	return nil
}

// Subject is what is measured.
type Subject interface {
	// Keep sees to it that so many requests run in the background and go on for a
	// while; it returns when each has a token.
	Keep(ctx context.Context, n int) error
	// Pulse has the background's tokens.
	Pulse() *Pulse
	// Ready brings an adapter into the state.
	Ready(ctx context.Context, s State) error
	// Ask makes the trial's request and returns when it is answered: first is
	// when its first token came, begun when it began, loading included.
	Ask(ctx context.Context, s State) (begun, first time.Time, err error)
	// Forget takes the adapter away again.
	Forget(ctx context.Context, s State) error
}

// Pulse keeps the times of tokens of streams that run. It is safe for
// concurrent use.
type Pulse struct {
	mu      sync.Mutex
	streams map[int][]time.Time
}

// Beat notes a token of a stream.
func (p *Pulse) Beat(stream int, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == nil {
		p.streams = map[int][]time.Time{}
	}
	p.streams[stream] = append(p.streams[stream], at)
}

// Gaps are the times between tokens, of all streams, of which some part lies in
// [from, to].
func (p *Pulse) Gaps(from, to time.Time) []float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []float64
	for _, times := range p.streams {
		for i := 1; i < len(times); i++ {
			if gap := times[i].Sub(times[i-1]); gap > 0 && !times[i].Before(from) && !times[i-1].After(to) {
				out = append(out, gap.Seconds())
			}
		}
	}
	return out
}

// Result is a whole measurement; times are seconds.
type Result struct {
	figure.Head
	Config Config  `json:"config"`
	States []Group `json:"states"`
	// Step is the background's typical time between tokens, before trials.
	Step figure.Dist `json:"step_seconds"`
}

// Group are a state's trials.
type Group struct {
	State  State       `json:"state"`
	Trials []Trial     `json:"trials"`
	TTFT   figure.Dist `json:"ttft_seconds"`
	// Delta is the median over the resident one.
	Delta float64 `json:"delta_ttft_seconds"`
	// Longest are the trials' longest steps of others, Excess their median over
	// the resident one, Worst the largest of all over the resident median.
	Longest figure.Dist `json:"longest_step_seconds"`
	Excess  float64     `json:"longest_step_excess_seconds"`
	Worst   float64     `json:"longest_step_worst_excess_seconds"`
}

// Trial is one cold start.
type Trial struct {
	TTFT float64 `json:"ttft_seconds"`
	// Step is the median time between tokens before it, Longest the longest
	// while it waited for its first token; 0 without a background.
	Step    float64 `json:"step_seconds,omitempty"`
	Longest float64 `json:"longest_step_seconds,omitempty"`
}

// Run measures everything that c asks for. When ctx ends it returns what there
// is, with Stopped set.
func Run(ctx context.Context, s Subject, c Config) (*Result, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	res := &Result{Head: figure.Begin(figure.KindColdstart), Config: c}
	for _, st := range c.States {
		res.States = append(res.States, Group{State: st})
	}
	var quiet []float64
	for i := range c.Warmup + c.Trials {
		for j := range res.States {
			t, before, err := trial(ctx, s, &c, res.States[j].State)
			if ctx.Err() != nil {
				res.Stopped = "an interrupt"
				res.sum(quiet)
				return res, nil
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", res.States[j].State, err)
			}
			if i >= c.Warmup {
				res.States[j].Trials = append(res.States[j].Trials, t)
				quiet = append(quiet, before...)
			}
		}
		if c.Progress != nil {
			c.Progress(fmt.Sprintf("round %d of %d", i+1, c.Warmup+c.Trials))
		}
	}
	res.sum(quiet)
	return res, nil
}

// trial makes one cold start, and gives the steps before it.
func trial(ctx context.Context, s Subject, c *Config, st State) (Trial, []float64, error) {
	if err := s.Ready(ctx, st); err != nil {
		return Trial{}, nil, err
	}
	if err := s.Keep(ctx, c.Background); err != nil {
		return Trial{}, nil, fmt.Errorf("background: %w", err)
	}
	calm := time.Now()
	select {
	case <-time.After(c.Quiet):
	case <-ctx.Done():
		return Trial{}, nil, ctx.Err()
	}
	begun, first, err := s.Ask(ctx, st)
	if err != nil {
		return Trial{}, nil, err
	}
	t := Trial{TTFT: first.Sub(begun).Seconds()}
	before := s.Pulse().Gaps(calm, begun)
	if c.Background > 0 {
		for _, gap := range s.Pulse().Gaps(begun, first) {
			t.Longest = max(t.Longest, gap)
		}
		if len(before) > 0 {
			t.Step = figure.Median(before)
		}
	}
	return t, before, s.Forget(ctx, st)
}

// sum computes the figures of all states.
func (r *Result) sum(quiet []float64) {
	r.Step = figure.Summary(quiet)
	for i := range r.States {
		g := &r.States[i]
		var ttft, longest []float64
		for _, t := range g.Trials {
			ttft, longest = append(ttft, t.TTFT), append(longest, t.Longest)
		}
		g.TTFT, g.Longest = figure.Summary(ttft), figure.Summary(longest)
	}
	base := r.group(Resident)
	for i := range r.States {
		g := &r.States[i]
		if g.TTFT.N > 0 && base.TTFT.N > 0 {
			g.Delta, g.Excess, g.Worst = g.TTFT.P50-base.TTFT.P50, g.Longest.P50-base.Longest.P50, g.Longest.Max-base.Longest.P50
		}
	}
	r.End()
}

func (r *Result) group(s State) *Group {
	i := slices.IndexFunc(r.States, func(g Group) bool { return g.State == s })
	return &r.States[i]
}
