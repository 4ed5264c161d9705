package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"chorale/bench/client"
	"chorale/bench/coldstart"
	"chorale/bench/figure"
	"chorale/bench/shape"
)

// benchColdstartCmd measures adapters that are not on the device yet.
type benchColdstartCmd struct {
	Target      string   `group:"Subject" placeholder:"URL" help:"A running server (default: an engine in this process, on weights of noise)."`
	Adapter     []string `group:"Subject" sep:"none" placeholder:"DIR" help:"With --target: adapter folders below the server's --adapter-root, at least two of different content (chorale adapter make-dummy)."`
	APIKey      string   `name:"api-key" group:"Subject" placeholder:"KEY" help:"With --target: key that inference needs."`
	AdminAPIKey string   `name:"admin-api-key" group:"Subject" placeholder:"KEY" help:"With --target: key that adapters need (default: the api-key)."`
	Shape       string   `group:"Subject" default:"llama-3-8b" help:"In this process: the model's shape, llama-3-8b, llama-3-70b, qwen3-8b, smollm2-135m, tiny, or a config.json."`
	Rank        int      `group:"Subject" default:"16" help:"In this process: the adapter's rank, all seven modules."`

	State      []string      `group:"Measure" default:"resident,host,file" enum:"resident,host,file" help:"Where the adapter is: resident on the device, in host memory, only a file."`
	Trials     int           `group:"Measure" default:"20" help:"Cold starts of each."`
	Warmup     int           `group:"Measure" default:"3" help:"Unmeasured ones before."`
	PromptLen  int           `group:"Measure" default:"128" help:"Prompt tokens."`
	OutputLen  int           `group:"Measure" default:"4" help:"Answer tokens."`
	Background int           `group:"Measure" default:"8" help:"Requests of the base model that run beside; 0 for none."`
	Settle     time.Duration `group:"Measure" default:"300ms" help:"Their steps are watched for so long before each trial."`
	Seed       uint64        `group:"Measure" default:"1" help:"Same seed, same prompts."`

	computeFlags
	reportFlags
}

// Run measures, prints and writes.
func (b *benchColdstartCmd) Run(ctx context.Context) error {
	cfg, err := b.config()
	if err != nil {
		return err
	}
	measure := b.here
	if b.Target != "" {
		measure = b.there
	}
	res, err := measure(ctx, cfg)
	if err != nil {
		return explain(ctx, err)
	}
	res.Command, res.Version = commandLine(os.Args, b.APIKey, b.AdminAPIKey), version
	return b.write(res, res.WriteTable, func(path string) error { return res.Page().WriteFile(path) })
}

func (b *benchColdstartCmd) config() (coldstart.Config, error) {
	c := coldstart.Config{
		Subject: b.Target, Trials: b.Trials, Warmup: b.Warmup, Prompt: b.PromptLen, Output: b.OutputLen,
		Background: b.Background, Quiet: b.Settle, Seed: b.Seed, Progress: b.progress(),
	}
	for _, s := range b.State {
		c.States = append(c.States, coldstart.State(s))
	}
	if b.Target == "" {
		c.Subject = fmt.Sprintf("%s of noise, rank %d", b.Shape, b.Rank)
		if len(b.Adapter) > 0 {
			return c, errors.New("--adapter names folders of a running server: say --target too")
		}
	}
	return c, b.check()
}

// here measures an engine in this process.
func (b *benchColdstartCmd) here(ctx context.Context, c coldstart.Config) (res *coldstart.Result, err error) {
	m, err := shape.Find(b.Shape)
	if err != nil {
		return nil, fmt.Errorf("--shape: %w", err)
	}
	dev, err := b.open()
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	l, err := coldstart.OpenLocal(dev, &m, b.Rank, c)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := l.Close(); err == nil {
			err = e
		}
	}()
	if res, err = coldstart.Run(ctx, l, c); err != nil {
		return nil, err
	}
	res.Device = figure.DeviceOf(dev)
	b.versions(res.Device)
	return res, nil
}

// there measures a server.
func (b *benchColdstartCmd) there(ctx context.Context, c coldstart.Config) (res *coldstart.Result, err error) {
	cl, err := client.New(client.Options{Server: b.Target, APIKey: b.APIKey, AdminKey: b.AdminAPIKey})
	if err != nil {
		return nil, fmt.Errorf("--target: %w", err)
	}
	defer cl.CloseIdleConnections()
	var folders []string
	for _, dir := range b.Adapter {
		folders = append(folders, absolute(dir))
	}
	s, err := coldstart.OpenServer(ctx, cl, folders, c)
	if err != nil {
		return nil, err
	}
	defer func() {
		// Also after an interrupt the server is left as it was found.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyLimit)
		defer cancel()
		if e := s.Close(end); err == nil {
			err = e
		}
	}()
	info, err := cl.Server(ctx)
	if err != nil {
		return nil, err
	}
	if res, err = coldstart.Run(ctx, s, c); err != nil {
		return nil, err
	}
	for _, g := range info.GetWorkerGroups() {
		res.Device = &figure.Device{Name: g.GetDevice(), Versions: map[string]string{"server": info.GetVersion()}}
	}
	return res, nil
}

// tidyLimit is how long unloading may take in the end.
const tidyLimit = 30 * time.Second
