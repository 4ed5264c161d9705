package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"chorale/bench"
)

// benchServeCmd measures servers under load.
type benchServeCmd struct {
	Target  []string `group:"Targets" sep:"none" placeholder:"NAME=URL,…" help:"A server: NAME=URL[,api=A][,pid=N][,adapters=a:b]. Several are measured alternately, with ratios to the first. Default: --server."`
	Compare bool     `group:"Targets" help:"Insist on at least two targets."`
	API     string   `name:"api" group:"Targets" default:"chorale" enum:"chorale,sglang,openai,llama" help:"What targets speak that do not say: chorale, sglang, openai or llama."`
	PID     int      `name:"pid" group:"Targets" placeholder:"N" help:"The server's process, to report its CPU seconds."`

	Lora           []string  `group:"Adapters" default:"none" placeholder:"MODE" help:"none, same (one for all), each (client i, adapter i), power; several are measured alternately."`
	Adapters       []string  `group:"Adapters" placeholder:"NAME" help:"Adapters to draw from (default: all that the server lists)."`
	AdapterPattern string    `group:"Adapters" placeholder:"r16-%d" help:"Instead: a pattern of names."`
	NumAdapters    int       `group:"Adapters" placeholder:"N" help:"How many the pattern names, from 0."`
	Alpha          []float64 `group:"Adapters" default:"1" help:"Power law: adapter floor(n * U^(1/alpha)); 1 is uniform, less is more skewed."`

	Clients     int            `group:"Load" default:"8" help:"Closed loop: clients that start together."`
	Requests    int            `group:"Load" placeholder:"N" help:"Closed loop: requests in a row by each client (default: 1). Open loop: all requests."`
	Rate        float64        `group:"Load" placeholder:"R" help:"Open loop instead: requests per second."`
	Cv          []float64      `group:"Load" default:"1" help:"Open loop: coefficient of variation of the gaps; 1 is a Poisson process."`
	Duration    time.Duration  `group:"Load" placeholder:"TIME" help:"Open loop: time of one round (default: 30s, unless --requests; of a sweep 60s)."`
	MaxInFlight int            `group:"Load" placeholder:"N" help:"Open loop: hold requests back beyond so many."`
	Repeat      int            `group:"Load" default:"1" help:"Measured rounds."`
	Warmup      int            `group:"Load" default:"1" help:"Unmeasured bursts of each target and mode."`
	MaxDuration *time.Duration `group:"Load" placeholder:"TIME" help:"End of the whole measurement; 0 is none (default: 10m; of a sweep none)."`

	Load     []float64 `group:"Sweep" placeholder:"SHARE" help:"Open loops at these shares of what the server does without adapters, which is measured first with --clients, for each of --alpha, --cv and --count."`
	Count    []int     `group:"Sweep" placeholder:"N" help:"Requests are drawn from the first N adapters; 0 is the base model (default: 0 and all)."`
	Capacity float64   `group:"Sweep" placeholder:"R" help:"Requests per second that are load 1, if they are known."`

	PromptLen   string  `group:"Requests" placeholder:"N|LO:HI" help:"Prompt tokens: N, or uniform in LO:HI, HI excluded (default: 128; of a sweep 8:512)."`
	OutputLen   string  `group:"Requests" placeholder:"N|LO:HI" help:"Answer tokens, likewise (default: 64; of a sweep 8:512)."`
	Lengths     string  `group:"Requests" type:"existingfile" placeholder:"FILE" help:"Draw both from this file's lines PROMPT OUTPUT."`
	Prompts     string  `group:"Requests" type:"existingfile" placeholder:"FILE" help:"Send this file's lines instead of random token ids."`
	Vocab       int     `group:"Requests" placeholder:"N" help:"Random token ids are below this (default: the server's)."`
	Temperature float64 `group:"Requests" default:"0" help:"0 takes the most likely token."`
	StopAtEOS   bool    `name:"stop-at-eos" group:"Requests" help:"Let answers end early."`
	Seed        uint64  `group:"Requests" default:"1" help:"Same seed, same load."`

	SloTTFT    time.Duration `name:"slo-ttft" group:"Report" default:"6s" help:"A good request's first token comes within this."`
	SloTPOT    time.Duration `name:"slo-tpot" group:"Report" placeholder:"TIME" help:"A good request's time per token is at most this."`
	PerAdapter int           `group:"Report" placeholder:"N" help:"Show the N most asked adapters."`
	Raw        bool          `group:"Report" help:"Keep every token's time in the JSON."`

	reportFlags
	clientFlags
}

// Run measures, prints and writes.
func (b *benchServeCmd) Run(ctx context.Context) error {
	if len(b.Load) > 0 {
		return b.sweep(ctx)
	}
	cfg, err := b.config()
	if err != nil {
		return err
	}
	res, err := bench.Measure(ctx, cfg)
	if res == nil {
		return explain(ctx, err)
	}
	res.Command, res.Version = commandLine(os.Args, b.APIKey, b.AdminAPIKey), version
	return errors.Join(b.write(res), explain(ctx, err))
}

// sweep measures a grid of open loops.
func (b *benchServeCmd) sweep(ctx context.Context) error {
	cfg, err := b.sweepConfig()
	if err != nil {
		return err
	}
	res, err := bench.MeasureSweep(ctx, cfg)
	if res == nil {
		return explain(ctx, err)
	}
	res.Command, res.Version = commandLine(os.Args, b.APIKey, b.AdminAPIKey), version
	return errors.Join(b.reportFlags.write(res, res.WriteTable, func(path string) error { return res.Page().WriteFile(path) }), explain(ctx, err))
}

// sweepConfig turns flags into a sweep.
func (b *benchServeCmd) sweepConfig() (bench.Sweep, error) {
	if b.Rate != 0 || b.Requests != 0 || b.Repeat != 1 {
		return bench.Sweep{}, errors.New("--load sets the rate and runs each point once, for --duration: no --rate, --requests or --repeat with it")
	}
	c, err := b.common()
	if err != nil {
		return bench.Sweep{}, err
	}
	c.Clients, c.Duration, c.MaxInFlight = b.Clients, cmp.Or(b.Duration, time.Minute), b.MaxInFlight
	s := bench.Sweep{Config: c, Alphas: b.Alpha, CVs: b.Cv, Loads: b.Load, Capacity: b.Capacity, Counts: b.Count}
	if s.Counts == nil {
		s.Counts = []int{0, bench.AllAdapters}
	}
	return s, nil
}

// config turns flags into a measurement.
func (b *benchServeCmd) config() (bench.Config, error) {
	if len(b.Alpha) != 1 || len(b.Cv) != 1 || b.Count != nil || b.Capacity != 0 {
		return bench.Config{}, errors.New("several --alpha or --cv, --count and --capacity are for sweeps: say --load too")
	}
	c, err := b.common()
	if err != nil {
		return c, err
	}
	c.Requests, c.Repeat, c.Alpha = max(1, b.Requests), b.Repeat, b.Alpha[0]
	c.Clients = b.Clients
	if b.Rate != 0 {
		c.Rate, c.CV, c.Total, c.Duration, c.MaxInFlight = b.Rate, b.Cv[0], b.Requests, b.Duration, b.MaxInFlight
		c.Clients, c.Requests = 0, 0
		if c.Total == 0 && c.Duration == 0 {
			c.Duration = 30 * time.Second
		}
	}
	for _, m := range b.Lora {
		c.Modes = append(c.Modes, bench.Mode(m))
	}
	return c, nil
}

// common is what all measurements share.
func (b *benchServeCmd) common() (bench.Config, error) {
	c := bench.Config{
		Warmup: b.Warmup, Vocab: b.Vocab, Temperature: b.Temperature, StopAtEOS: b.StopAtEOS, Seed: b.Seed,
		SLO: bench.SLO{TTFT: b.SloTTFT.Seconds(), TPOT: b.SloTPOT.Seconds()}, Raw: b.Raw, Progress: b.progress(),
	}
	switch {
	case b.MaxDuration != nil:
		c.MaxDuration = *b.MaxDuration
	case len(b.Load) == 0:
		c.MaxDuration = 10 * time.Minute
	}
	if b.Timeout > 0 && (c.MaxDuration == 0 || b.Timeout < c.MaxDuration) {
		c.MaxDuration = b.Timeout
	}
	var err error
	if c.Adapters, err = b.names(); err != nil {
		return c, err
	}
	if err := b.lengths(&c); err != nil {
		return c, err
	}
	if err := b.check(); err != nil {
		return c, err
	}
	c.Targets, err = b.targets()
	return c, err
}

func (b *benchServeCmd) targets() ([]bench.TargetSpec, error) {
	defaults := bench.TargetSpec{API: b.API, PID: b.PID, Key: b.APIKey}
	if len(b.Target) == 0 {
		if b.Compare {
			return nil, errors.New("--compare needs at least two --target")
		}
		defaults.Name, defaults.URL = b.API, b.Server
		return []bench.TargetSpec{defaults}, nil
	}
	if b.Compare && len(b.Target) < 2 {
		return nil, errors.New("--compare needs at least two --target")
	}
	if b.PID != 0 && len(b.Target) > 1 {
		return nil, errors.New("--pid names one process; with several targets give each its own: NAME=URL,pid=N")
	}
	var out []bench.TargetSpec
	for _, s := range b.Target {
		t, err := bench.ParseTarget(s, defaults)
		if err != nil {
			return nil, fmt.Errorf("--target: %w", err)
		}
		out = append(out, t)
	}
	return out, nil
}

// names are the adapters to draw from.
func (b *benchServeCmd) names() ([]string, error) {
	if b.AdapterPattern == "" {
		if b.NumAdapters != 0 {
			return nil, errors.New("--num-adapters needs --adapter-pattern")
		}
		return b.Adapters, nil
	}
	const most = 1 << 20
	if len(b.Adapters) > 0 || b.NumAdapters < 1 || b.NumAdapters > most || strings.Count(b.AdapterPattern, "%d") != 1 || strings.Count(b.AdapterPattern, "%") != 1 {
		return nil, fmt.Errorf("--adapter-pattern needs one %%d, --num-adapters in [1, %d] and no --adapters", most)
	}
	out := make([]string, b.NumAdapters)
	for i := range out {
		out[i] = fmt.Sprintf(b.AdapterPattern, i)
	}
	return out, nil
}

func (b *benchServeCmd) lengths(c *bench.Config) (err error) {
	prompt, output := "128", "64"
	if len(b.Load) > 0 {
		prompt, output = "8:512", "8:512"
	}
	if c.Prompt, err = bench.ParseLengths(cmp.Or(b.PromptLen, prompt)); err != nil {
		return fmt.Errorf("--prompt-len: %w", err)
	}
	if c.Output, err = bench.ParseLengths(cmp.Or(b.OutputLen, output)); err != nil {
		return fmt.Errorf("--output-len: %w", err)
	}
	if b.Lengths != "" {
		text, err := os.ReadFile(b.Lengths)
		if err != nil {
			return err
		}
		if c.Pairs, err = bench.ParsePairs(string(text)); err != nil {
			return fmt.Errorf("%s: %w", b.Lengths, err)
		}
	}
	if b.Prompts == "" {
		return nil
	}
	text, err := os.ReadFile(b.Prompts)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			c.Texts = append(c.Texts, line)
		}
	}
	if len(c.Texts) == 0 {
		return fmt.Errorf("%s: no prompts", b.Prompts)
	}
	return nil
}

// write puts the result where it was asked for.
func (b *benchServeCmd) write(res *bench.Result) error {
	return b.reportFlags.write(res,
		func(out io.Writer) error { return res.WriteTable(out, bench.Report{PerAdapter: b.PerAdapter}) }, res.WritePlot)
}
