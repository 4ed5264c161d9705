package adapters

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"chorale/bench/figure"
	"chorale/bench/shape"
)

// Config says what is measured.
type Config struct {
	// Binary is the program whose roles are started.
	Binary string `json:"-"`
	// Shape is the model's.
	Shape shape.Model `json:"shape"`
	// Threads of the worker, 0: its default.
	Threads int `json:"threads,omitempty"`
	// Registered adapters, of Rank on Modules (none: all).
	Registered int      `json:"registered"`
	Rank       int      `json:"rank"`
	Modules    []string `json:"modules,omitempty"`
	// Loads adapters of LoadRank on all modules are loaded at once beside requests,
	// at most Together at a time, in each of Rounds.
	Loads    int `json:"loads"`
	LoadRank int `json:"load_rank"`
	Together int `json:"together"`
	Rounds   int `json:"rounds"`
	// Clients make requests of Prompt and Output tokens, one after the other.
	Clients int `json:"clients"`
	Prompt  int `json:"prompt_tokens"`
	Output  int `json:"output_tokens"`
	// FirstTokens is how often the time to a first token is taken.
	FirstTokens int `json:"first_tokens"`
	// Seed draws prompts and adapters.
	Seed uint64 `json:"seed"`
	// Progress gets a line now and then; nil for none.
	Progress func(string) `json:"-"`
}

// ErrConfig marks a Config that makes no sense.
var ErrConfig = errors.New("bench: adapters")

func (c *Config) check() error {
	for what, n := range map[string]int{
		"registered": c.Registered, "rank": c.Rank, "load rank": c.LoadRank, "loads together": c.Together, "clients": c.Clients, "prompt tokens": c.Prompt, "output tokens": c.Output,
	} {
		if n < 1 {
			return fmt.Errorf("%w: %d %s: want at least 1", ErrConfig, n, what)
		}
	}
	if c.Loads < 0 || c.Rounds < 0 || c.FirstTokens < 0 {
		return fmt.Errorf("%w: a number is negative", ErrConfig)
	}
	return nil
}

func (c *Config) say(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(fmt.Sprintf(format, args...))
	}
}

// Result is what came of it; times are seconds, sizes bytes.
type Result struct {
	figure.Head
	Config Config `json:"config"`

	// AdapterBytes and LoadBytes are the weights files' sizes.
	AdapterBytes int64 `json:"adapter_bytes"`
	LoadBytes    int64 `json:"load_bytes"`

	// Register is one load, of all; First and Last of the first and the last tenth.
	Register      figure.Dist `json:"register"`
	RegisterFirst figure.Dist `json:"register_first"`
	RegisterLast  figure.Dist `json:"register_last"`
	// RegisterCPU is processor time of all roles per load, of the first and the last
	// tenth: steadier than the clock on a machine that others use too.
	RegisterCPU [2]float64 `json:"register_cpu"`
	// List is all pages of the list, ListCPU a list's processor time.
	List    figure.Dist `json:"list"`
	ListCPU float64     `json:"list_cpu"`
	// Snapshot is from the begin of a watch until it has told everything; News from
	// the begin of a change until a watch tells it.
	Snapshot figure.Dist `json:"snapshot"`
	News     figure.Dist `json:"news"`
	// ManagerStart and RouterStart are from the start of the process until it
	// answers a list, or serves.
	ManagerStart figure.Dist `json:"manager_start"`
	RouterStart  figure.Dist `json:"router_start"`
	// Memory is resident memory per registered adapter by role: of a process that
	// registered them all, and of one that found them at its start.
	Memory []Memory `json:"memory"`

	Rounds []Round `json:"rounds,omitempty"`
	// Alone and Beside are the requests of all rounds, P99 and P50 the ratios of the
	// rounds, Together that of all requests' p99.
	Alone    figure.Dist   `json:"alone"`
	Beside   figure.Dist   `json:"beside"`
	P50      figure.Spread `json:"p50_ratio"`
	P99      figure.Spread `json:"p99_ratio"`
	Together float64       `json:"p99_ratio_of_all"`
	Load     figure.Dist   `json:"load"`

	// FirstToken is from the call that loads an adapter until its first token,
	// LoadCall the load's part, Step the first token of an adapter that is resident.
	FirstToken figure.Dist `json:"first_token"`
	LoadCall   figure.Dist `json:"first_token_load"`
	Step       figure.Dist `json:"first_token_resident"`
	// FirstTokenCPU and StepCPU are the processor time of each.
	FirstTokenCPU float64 `json:"first_token_cpu"`
	StepCPU       float64 `json:"first_token_resident_cpu"`
}

// Memory is a role's.
type Memory struct {
	Role string `json:"role"`
	// Before and After are resident memory without and with the adapters, Again that
	// of a process that was started with them there.
	Before int64 `json:"before"`
	After  int64 `json:"after"`
	Again  int64 `json:"again,omitempty"`
	// PerAdapter is what each adapter adds, by After, and by Again.
	PerAdapter      float64 `json:"per_adapter"`
	PerAdapterAgain float64 `json:"per_adapter_again,omitempty"`
}

// Round is a pair of measurements.
type Round struct {
	Alone  figure.Dist `json:"alone"`
	Beside figure.Dist `json:"beside"`
	Load   figure.Dist `json:"load"`
	// Seconds is how long all the loads took.
	Seconds float64 `json:"seconds"`
}

// Run measures. When ctx ends early what was measured is returned, with Stopped
// set.
func Run(ctx context.Context, c Config) (res *Result, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "chorale-bench-")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	res = &Result{Head: figure.Begin(figure.KindAdapters), Config: c}
	defer res.End()
	s := &site{c: &c, dir: dir}
	defer s.stop()
	m := measurement{site: s, res: res}
	for _, step := range []func(context.Context) error{s.write, m.start, m.register, m.read, m.restart, m.loads, m.firstTokens} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				res.Stopped = context.Cause(ctx).Error()
				return res, nil
			}
			return nil, err
		}
	}
	return res, nil
}

// seconds since a time.
func since(t time.Time) float64 { return time.Since(t).Seconds() }
