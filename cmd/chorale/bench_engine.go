package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"chorale/bench/kernels"
	"chorale/bench/shape"
	"chorale/bench/steps"
)

// benchEngineCmd times an engine's steps.
type benchEngineCmd struct {
	Shape    string   `group:"Shapes" default:"llama-3-8b" help:"The model, of noise: llama-3-8b, llama-3-70b, qwen3-8b, smollm2-135m, tiny, or a config.json."`
	Batch    []int    `group:"Shapes" default:"1,64,256" help:"Rows that decode together."`
	Adapters []int    `group:"Shapes" default:"0,1,8,32,64" help:"Distinct adapters that they share; 0 is the base alone."`
	Rank     []string `group:"Shapes" default:"16,64" help:"LoRA ranks, all seven modules; R+R+… mixes them over the adapters."`
	Context  []int    `group:"Shapes" default:"512" help:"Tokens in each row's cache."`
	Prefill  []int    `group:"Shapes" placeholder:"N" help:"Also the time to the first token of prompts of so many tokens."`
	Chunk    int      `group:"Shapes" default:"2048" help:"Most tokens of one step."`

	Steps  int           `group:"Measure" default:"64" help:"Steps that are measured."`
	Warmup int           `group:"Measure" default:"16" help:"Steps before them."`
	Repeat int           `group:"Measure" default:"7" help:"Prompts of each length."`
	Time   time.Duration `group:"Measure" default:"8ms" help:"Time of one repetition of the products that are measured for the floor."`
	Seed   uint64        `group:"Measure" default:"1" help:"Same seed, same prompts."`

	computeFlags
	floorFlags
	reportFlags
}

// Run measures, prints and writes.
func (b *benchEngineCmd) Run(ctx context.Context) error {
	cfg, err := b.config()
	if err != nil {
		return err
	}
	dev, err := b.open()
	if err != nil {
		return err
	}
	defer dev.Close()
	cfg.Probes = b.probes(dev)
	res, err := steps.Run(ctx, dev, cfg)
	if err != nil {
		return err
	}
	res.Command, res.Version = commandLine(os.Args), version
	b.versions(res.Device)
	return b.write(res, res.WriteTable, func(path string) error { return res.Page().WriteFile(path) })
}

func (b *benchEngineCmd) config() (steps.Config, error) {
	c := steps.Config{
		Batches: b.Batch, Adapters: b.Adapters, Contexts: b.Context, Steps: b.Steps, Warmup: b.Warmup, Prefill: b.Prefill, Repeat: b.Repeat,
		Chunk: b.Chunk, ProductTime: b.Time, Bandwidth: b.Bandwidth * 1e9, Seed: b.Seed, Progress: b.progress(),
	}
	if err := b.check(); err != nil {
		return c, err
	}
	var err error
	if c.Model, err = shape.Find(b.Shape); err != nil {
		return c, fmt.Errorf("--shape: %w", err)
	}
	c.Ranks, err = parseRanks(b.Rank)
	return c, err
}

// parseRanks reads --rank.
func parseRanks(list []string) ([]kernels.Ranks, error) {
	var out []kernels.Ranks
	for _, s := range list {
		r, err := kernels.ParseRanks(s)
		if err != nil {
			return nil, fmt.Errorf("--rank: %w", err)
		}
		out = append(out, r)
	}
	return out, nil
}
