package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"chorale/bench/chart"
	"chorale/bench/figure"
	"chorale/bench/kernels"
	"chorale/worker/device"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

// benchCmd are the benchmarks, from the matrix product to the whole server.
type benchCmd struct {
	Serve     benchServeCmd     `cmd:"" help:"Put load on running servers and measure what their clients see."`
	Engine    benchEngineCmd    `cmd:"" help:"Time an engine's steps in this process, on weights of noise."`
	Kernels   benchKernelsCmd   `cmd:"" help:"Time a layer's matrix products and what LoRA adds to them."`
	Coldstart benchColdstartCmd `cmd:"" help:"Time the first use of an adapter, and what those wait that run beside."`
	Adapters  benchAdaptersCmd  `cmd:"" help:"Measure many registered adapters: lists, starts, memory, requests beside loads."`
	Plot      benchPlotCmd      `cmd:"" help:"Draw results that were written with --json."`
}

// reportFlags say where a result goes.
type reportFlags struct {
	JSON  string `name:"json" group:"Report" placeholder:"FILE" help:"Write everything as JSON; - is standard output instead of the table."`
	Plot  string `group:"Report" placeholder:"FILE" help:"Draw the result: FILE.svg or FILE.png."`
	Quiet bool   `group:"Report" help:"No progress lines."`
}

func (f *reportFlags) check() error {
	if p := f.Plot; p != "" && !chart.CanWrite(p) {
		return fmt.Errorf("--plot %s: want a name that ends in .svg or .png", p)
	}
	return nil
}

func (f *reportFlags) progress() func(string) {
	if f.Quiet {
		return nil
	}
	return func(s string) { fmt.Fprintln(os.Stderr, s) }
}

// write puts a result where it was asked for.
func (f *reportFlags) write(res any, table func(io.Writer) error, plot func(path string) error) error {
	var errs []error
	if f.JSON != "" {
		errs = append(errs, f.writeJSON(res))
	}
	if f.JSON != "-" {
		errs = append(errs, table(os.Stdout))
	}
	if f.Plot != "" {
		errs = append(errs, plot(f.Plot))
	}
	return errors.Join(errs...)
}

func (f *reportFlags) writeJSON(res any) error {
	text, err := json.MarshalIndent(res, "", " ")
	if err != nil {
		return fmt.Errorf("--json: %w", err)
	}
	text = append(text, '\n')
	if f.JSON == "-" {
		_, err = os.Stdout.Write(text)
		return err
	}
	if dir := filepath.Dir(f.JSON); dir != "." {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("--json: %w", err)
		}
	}
	return os.WriteFile(f.JSON, text, 0o644)
}

// commandLine is the command line without keys.
func commandLine(args []string, keys ...string) []string {
	out := append([]string{"chorale"}, args[1:]...)
	for i, a := range out {
		for _, key := range keys {
			if key != "" {
				a = strings.ReplaceAll(a, key, "…")
			}
		}
		out[i] = a
	}
	return out
}

// computeFlags say what computes in this process.
type computeFlags struct {
	Device    string `group:"compute" default:"auto" placeholder:"DEVICE" help:"cpu, cuda or cuda:NUMBER; auto takes a GPU where there is one."`
	Threads   int    `group:"compute" placeholder:"N" help:"Compute threads of the CPU (default: all cores)."`
	CPUKernel string `name:"cpu-kernel" group:"compute" default:"auto" enum:"auto,avx512bf16,avx512f32,avx2,go" help:"CPU kernels; auto measures at start."`

	DisableOverlapSchedule bool `group:"compute" help:"On GPUs: prepare a step only when the one before it has ended."`
}

// floorFlags are for those who compare with a floor of bytes.
type floorFlags struct {
	Bandwidth float64 `group:"compute" placeholder:"GB/S" help:"The memory's bandwidth, for the floors (default: measured first)."`
}

func (f *computeFlags) open() (tensor.Backend, error) {
	wf := weightFlags{Device: f.Device, Threads: f.Threads, CPUKernel: f.CPUKernel, DisableOverlapSchedule: f.DisableOverlapSchedule}
	return openBackend(&wf, tensor.BF16, zap.NewNop())
}

// versions adds to what a backend tells of its device what the driver does.
func (f *computeFlags) versions(d *figure.Device) {
	if !strings.HasPrefix(d.Name, "cuda") {
		return
	}
	driver, err := device.Open("")
	if err != nil {
		return
	}
	defer driver.Close()
	d.Versions["driver"], d.Versions["driver_cuda"] = driver.Version, driver.CUDA
}

// probes know more of bandwidth than tensor.Backend does.
func (f *computeFlags) probes(b tensor.Backend) []kernels.Probe {
	if _, gpu := b.(ownMemory); gpu {
		return nil
	}
	wf := weightFlags{Threads: f.Threads}
	return []kernels.Probe{{Name: "reading by all threads", Run: func() (float64, error) {
		l, err := cpu.MeasureLimits(wf.threads())
		if errors.Is(err, tensor.ErrUnsupported) {
			return 0, nil // another probe will do
		}
		return l.Read, err
	}}}
}
