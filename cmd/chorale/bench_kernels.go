package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"chorale/bench/kernels"
	"chorale/bench/shape"
)

// benchKernelsCmd times products and LoRA.
type benchKernelsCmd struct {
	Shape   string   `group:"Shapes" default:"llama-3-8b" help:"A model's layer: llama-3-8b, llama-3-70b, qwen3-8b, smollm2-135m, tiny, or a config.json."`
	Product []string `group:"Shapes" sep:"none" placeholder:"IN:OUT[+OUT]" help:"Only these products instead; each OUT has an adapter of its own."`
	Batch   []int    `group:"Shapes" default:"1,16,64,256" help:"Rows."`
	Rank    []string `group:"Shapes" default:"8,16,32,64,128,8+16+32+64+128" placeholder:"R" help:"LoRA ranks; R+R+… mixes them over the adapters (default: 8, 16, 32, 64, 128, and all mixed)."`
	Mix     []string `group:"Shapes" default:"distinct,uniform,skewed,identical" enum:"distinct,uniform,skewed,identical" placeholder:"MIX" help:"How rows share adapters: distinct, uniform (the root of N adapters), skewed (each 1.5 times the next), identical (default: all)."`
	NoLora  bool     `name:"no-lora" group:"Shapes" help:"The products alone."`
	Alone   bool     `group:"Shapes" help:"Leave out what follows a product in a layer."`

	Rotate int           `group:"Measure" default:"256" help:"MiB of weights between two uses of the same one, so that caches do not flatter."`
	Time   time.Duration `group:"Measure" default:"8ms" help:"Time of one repetition, in which a product runs many times."`
	Repeat int           `group:"Measure" default:"9" help:"Repetitions; the median counts."`

	computeFlags
	floorFlags
	reportFlags
}

// Run measures, prints and writes.
func (b *benchKernelsCmd) Run(ctx context.Context) error {
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
	res, err := kernels.Run(ctx, dev, cfg)
	if err != nil {
		return err
	}
	res.Command, res.Version = commandLine(os.Args), version
	b.versions(res.Device)
	return b.write(res, res.WriteTable, func(path string) error { return res.Page().WriteFile(path) })
}

func (b *benchKernelsCmd) config() (kernels.Config, error) {
	c := kernels.Config{
		Batches: b.Batch, Alone: b.Alone, Rotate: int64(b.Rotate) << 20, Time: b.Time, Repeat: b.Repeat,
		Bandwidth: b.Bandwidth * 1e9, Progress: b.progress(),
	}
	if err := b.check(); err != nil {
		return c, err
	}
	m, err := shape.Find(b.Shape)
	if err != nil {
		return c, fmt.Errorf("--shape: %w", err)
	}
	c.Heads, c.KVHeads, c.HeadDim = m.Spec.Heads, m.Spec.KVHeads, m.Spec.HeadDim
	c.Products = shape.Products(&m.Spec)
	if len(b.Product) > 0 {
		c.Products = nil
	}
	for _, s := range b.Product {
		p, err := parseProduct(s)
		if err != nil {
			return c, err
		}
		c.Products = append(c.Products, p)
	}
	if b.NoLora {
		return c, nil
	}
	if c.Ranks, err = parseRanks(b.Rank); err != nil {
		return c, err
	}
	for _, m := range b.Mix {
		c.Mixes = append(c.Mixes, kernels.Mix(m))
	}
	return c, nil
}

// parseProduct reads IN:OUT[+OUT].
func parseProduct(s string) (shape.Product, error) {
	bad := fmt.Errorf("--product %s: want IN:OUT or IN:OUT+OUT, each a number of columns", s)
	in, outs, ok := strings.Cut(s, ":")
	p := shape.Product{Name: s}
	var err error
	if p.In, err = strconv.Atoi(in); !ok || err != nil || p.In < 1 {
		return p, bad
	}
	for _, o := range strings.Split(outs, "+") {
		n, err := strconv.Atoi(o)
		if err != nil || n < 1 {
			return p, bad
		}
		p.Parts = append(p.Parts, n)
	}
	return p, nil
}
