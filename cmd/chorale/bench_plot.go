package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"chorale/bench"
	"chorale/bench/chart"
	"chorale/bench/coldstart"
	"chorale/bench/figure"
	"chorale/bench/kernels"
	"chorale/bench/steps"
)

// benchPlotCmd draws kept results.
type benchPlotCmd struct {
	Files  []string `arg:"" name:"FILE" type:"existingfile" help:"Results of any of the benchmarks."`
	Format string   `default:"svg" enum:"svg,png" help:"svg or png."`
	Dir    string   `placeholder:"DIR" help:"Write the drawings here (default: beside each file)."`
}

// Run draws each file.
func (b *benchPlotCmd) Run() error {
	for _, f := range b.Files {
		to := strings.TrimSuffix(f, filepath.Ext(f)) + "." + b.Format
		if b.Dir != "" {
			to = filepath.Join(b.Dir, filepath.Base(to))
		}
		if err := plotFile(f, to); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		fmt.Println(to)
	}
	return nil
}

// paged are the results that draw themselves as a page.
type paged interface{ Page() *chart.Page }

// plotFile draws one result.
func plotFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var head figure.Head
	if err := json.Unmarshal(text, &head); err != nil {
		return err
	}
	var res paged
	switch head.Kind {
	case figure.KindKernels:
		res = &kernels.Result{}
	case figure.KindEngine:
		res = &steps.Result{}
	case figure.KindColdstart:
		res = &coldstart.Result{}
	case figure.KindSweep:
		res = &bench.SweepResult{}
	case figure.KindServe, "":
		var r bench.Result
		if err := json.Unmarshal(text, &r); err != nil {
			return err
		}
		return r.WritePlot(to)
	case figure.KindAdapters:
		return fmt.Errorf("a result of kind %q is a table, nothing to draw", head.Kind)
	default:
		return fmt.Errorf("a result of kind %q: no benchmark of this program writes that", head.Kind)
	}
	if err := json.Unmarshal(text, res); err != nil {
		return err
	}
	return res.Page().WriteFile(to)
}
