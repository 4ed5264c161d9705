// Command chorale serves many LoRA adapters over one base model.
//
// One binary holds all roles: serve runs them in one process, router,
// adaptermgr and worker run one each; the rest are clients and tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/alecthomas/kong"
)

// version is set by the linker.
var version = "dev"

// cli is the command line. Every flag may also stand in the environment as
// CHORALE_<FLAG> and in a file given by --config; flag beats environment beats
// file.
type cli struct {
	Config configFlag `help:"Read flags from this YAML file, keys being flag names." placeholder:"FILE" type:"existingfile"`

	Serve      serveCmd      `cmd:"" help:"Serve a model and its adapters on this machine, everything in one process."`
	Router     routerCmd     `cmd:"" help:"Run the router: clients come here, worker groups compute."`
	Adaptermgr adaptermgrCmd `cmd:"" help:"Run the adapter manager: registry of adapters, pushes them to workers."`
	Worker     workerCmd     `cmd:"" help:"Run a worker group: one replica of the model."`

	Drain drainCmd `cmd:"" help:"Take a worker group out of service in good order, or back (also: worker drain)."`

	Certs    certsCmd    `cmd:"" help:"Make certificates for a cluster: an authority, the roles, the server."`
	Adapter  adapterCmd  `cmd:"" help:"List, load, unload and validate adapters of a running server."`
	Chat     chatCmd     `cmd:"" help:"Talk to a running server, one voice or several side by side."`
	Generate generateCmd `cmd:"" help:"Complete a prompt on a running server."`
	Bench    benchCmd    `cmd:"" help:"Measure: servers under load, kernels, the engine, cold adapters."`
	Pull     pullCmd     `cmd:"" help:"Fetch a model or adapter from a Hugging Face hub into the local cache."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

const description = `Chorale: hundreds of fine-tuned voices, one set of weights, one batch.

Start with:
  chorale serve --model-path FILE.gguf --lora-paths json=examples/adapters/json
  chorale chat --voice base --voice json "The shop in Porto sold 3 lamps."`

func main() {
	args, ignored, err := compatible(os.Args[1:])
	if err != nil {
		fatal(err)
	}
	var c cli
	parser, err := kong.New(&c,
		kong.Name("chorale"), kong.Description(description), kong.UsageOnError(),
		kong.DefaultEnvars("CHORALE"), kong.ExplicitGroups(groups),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Vars{"version": version},
		kong.ValueFormatter(func(v *kong.Value) string { return v.OrigHelp }), // the flag itself shows its default
	)
	if err != nil {
		fatal(err)
	}
	ctx, err := parser.Parse(args)
	parser.FatalIfErrorf(err)
	if len(ignored) > 0 {
		fmt.Fprintf(os.Stderr, "chorale: these SGLang flags mean nothing here and are ignored: %s\n", join(ignored))
	}
	os.Exit(execute(ctx))
}

// execute runs the chosen command and gives the process's exit status.
func execute(ctx *kong.Context) int {
	run, stop := signals()
	defer stop()
	ctx.BindTo(run, (*context.Context)(nil))
	err := ctx.Run()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled) && run.Err() != nil:
		return 130
	case errors.Is(err, errTold):
		return 1
	}
	fmt.Fprintf(os.Stderr, "chorale: %v\n", err)
	return 1
}

func fatal(err error) {
	fmt.Fprintf(os.Stderr, "chorale: %v\n", err)
	os.Exit(1)
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("chorale", version)
	return nil
}
