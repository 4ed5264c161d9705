package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"chorale/internal/checkpoint"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
)

// adapterDummyCmd writes adapters of noise, for benchmarks: real PEFT folders,
// so that they go the way of every adapter.
type adapterDummyCmd struct {
	Dir     string   `arg:"" name:"DIR" help:"Folder to write; with --count, the folders DIR/0, DIR/1, ..."`
	Base    string   `required:"" placeholder:"PATH" help:"The base model, or just its config.json."`
	Rank    []int    `default:"16" help:"Rank; of several, each adapter takes the next in turn."`
	Modules []string `placeholder:"MODULE" help:"Kinds of linear modules, such as q_proj (default: all)."`
	Count   int      `placeholder:"N" help:"How many adapters to write, each with other values."`
	Seed    uint64   `default:"1" help:"Same seed, same adapters."`
}

// Run writes the folders and prints their paths.
func (a *adapterDummyCmd) Run(context.Context) error {
	spec, err := specOf(a.Base)
	if err != nil {
		return err
	}
	if len(a.Rank) == 0 || a.Count < 0 {
		return fmt.Errorf("--rank %v --count %d: want at least one rank and no negative count", a.Rank, a.Count)
	}
	for i := range max(a.Count, 1) {
		dir := a.Dir
		if a.Count > 0 {
			dir = filepath.Join(a.Dir, strconv.Itoa(i))
		}
		d := model.DummyLoRA{Base: a.Base, Rank: a.Rank[i%len(a.Rank)], Modules: split(a.Modules), Seed: a.Seed + uint64(i)}
		if err := writeDummy(dir, spec, d); err != nil {
			return err
		}
		fmt.Println(dir)
	}
	return nil
}

// split cuts comma-separated values apart; "all" is the default.
func split(list []string) []string {
	var out []string
	for _, s := range list {
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" && part != "all" {
				out = append(out, part)
			}
		}
	}
	return out
}

// specOf reads the shape of a model.
func specOf(path string) (*decoder.Spec, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cfg, err := hfconfig.Parse(c.Config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, err := model.Spec(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}

func writeDummy(dir string, spec *decoder.Spec, d model.DummyLoRA) error {
	config, tensors, err := model.DummyAdapter(spec, d)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, peft.ConfigFile), config, 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, peft.WeightsFile), func(w io.Writer) error {
		return safetensors.Write(w, tensors, map[string]string{"format": "pt"})
	})
}

// writeFile writes a file through a buffer and tells what went wrong.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
