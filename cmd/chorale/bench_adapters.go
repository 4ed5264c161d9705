package main

import (
	"context"
	"fmt"
	"os"

	"chorale/bench/adapters"
	"chorale/bench/shape"
)

// benchAdaptersCmd measures many registered adapters.
type benchAdaptersCmd struct {
	Shape      string   `group:"Subject" default:"smollm2-135m" help:"The model's shape, llama-3-8b, qwen3-8b, smollm2-135m, tiny, or a config.json; its weights are noise."`
	Threads    int      `group:"Subject" placeholder:"N" help:"Compute threads of the worker (default: all cores)."`
	Registered int      `group:"Subject" default:"2000" help:"Registered adapters."`
	Rank       int      `group:"Subject" default:"1" help:"Their rank."`
	Modules    []string `group:"Subject" default:"q_proj" placeholder:"MODULE" help:"Their modules, or all."`
	LoadRank   int      `group:"Subject" default:"16" help:"Rank of the adapters that are loaded beside requests, all modules."`

	Loads       int    `group:"Measure" default:"50" help:"Adapters that are loaded beside requests in a round."`
	Together    int    `group:"Measure" default:"50" help:"How many of them at a time."`
	Rounds      int    `group:"Measure" default:"5" help:"Rounds of requests beside loads and alone."`
	Clients     int    `group:"Measure" default:"2" help:"Clients that make requests one after the other."`
	PromptLen   int    `group:"Measure" default:"16" help:"Prompt tokens."`
	OutputLen   int    `group:"Measure" default:"8" help:"Answer tokens."`
	FirstTokens int    `group:"Measure" default:"20" help:"Loads that are timed until the first token."`
	Seed        uint64 `group:"Measure" default:"1" help:"Same seed, same prompts."`

	JSON  string `name:"json" group:"Report" placeholder:"FILE" help:"Write everything as JSON; - is standard output instead of the table."`
	Quiet bool   `group:"Report" help:"No progress lines."`
}

// Run measures, prints and writes.
func (b *benchAdaptersCmd) Run(ctx context.Context) error {
	m, err := shape.Find(b.Shape)
	if err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("bench adapters: %w", err)
	}
	report := reportFlags{JSON: b.JSON, Quiet: b.Quiet}
	res, err := adapters.Run(ctx, adapters.Config{
		Binary: binary, Shape: m, Threads: b.Threads, Registered: b.Registered, Rank: b.Rank, Modules: split(b.Modules),
		Loads: b.Loads, LoadRank: b.LoadRank, Together: b.Together, Rounds: b.Rounds, Clients: b.Clients, Prompt: b.PromptLen, Output: b.OutputLen,
		FirstTokens: b.FirstTokens, Seed: b.Seed, Progress: report.progress(),
	})
	if err != nil {
		return explain(ctx, err)
	}
	res.Command, res.Version = commandLine(os.Args), version
	return report.write(res, res.WriteTable, nil)
}
