package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// groups order the help text.
var groups = []kong.Group{
	{Key: "model", Title: "Model"},
	{Key: "lora", Title: "LoRA adapters"},
	{Key: "http", Title: "Addresses and keys"},
	{Key: "compute", Title: "Compute"},
	{Key: "ranks", Title: "Tensor parallel"},
	{Key: "log", Title: "Logging"},
}

// modelFlags say which model.
type modelFlags struct {
	ModelPath       string `required:"" group:"model" placeholder:"PATH" help:"The base model: a Hugging Face folder, a .gguf file, or ORG/NAME on a Hugging Face hub."`
	Revision        string `group:"model" default:"main" help:"Revision of an ORG/NAME model."`
	ServedModelName string `group:"model" placeholder:"NAME" help:"Name under which clients ask for the base model (default: the model path)."`
	ContextLength   int    `group:"model" placeholder:"N" help:"Most tokens of prompt and answer together (default: the model's)."`
}

// textFlags are the router's half of the model.
type textFlags struct {
	TokenizerPath string `group:"model" placeholder:"PATH" help:"Folder or .gguf file with the tokenizer and chat template (default: the model's)."`
	ChatTemplate  string `group:"model" placeholder:"FILE" type:"existingfile" help:"Jinja chat template to use instead of the model's."`

	SkipTokenizerInit bool `group:"model" help:"Serve without a tokenizer: requests give token ids, answers are token ids."`
}

// weightFlags are the worker's half of the model.
type weightFlags struct {
	Dtype      string `group:"model" default:"auto" enum:"auto,bfloat16,bf16,float32,float" help:"Arithmetic: bfloat16 (= auto, fast) or float32 (parity with PyTorch to 1e-4)."`
	LoadFormat string `group:"model" default:"auto" enum:"auto,safetensors,gguf,dummy" help:"Kind of model files; auto looks, dummy takes noise for weights and needs a config.json only."`
	Device     string `group:"compute" default:"auto" placeholder:"DEVICE" help:"Device to compute on: cpu, cuda or cuda:NUMBER; auto takes a GPU where there is one. Ranks take GPUs from the one named on, or those of a list: cuda:0,cuda:2."`
	Threads    int    `group:"compute" placeholder:"N" help:"Compute threads (default: all cores)."`
	CPUKernel  string `name:"cpu-kernel" group:"compute" default:"auto" enum:"auto,amxbf16,avx512bf16,avx512f32,avx2,go" help:"CPU kernels; auto measures at start."`

	Deterministic    bool `group:"compute" help:"On GPUs: an answer does not depend on the others in its batch, bit for bit, at some cost in speed. CPUs are always so."`
	DisableCudaGraph bool `group:"compute" help:"On GPUs: launch each operation of a decode step by itself."`
	// SGLang's name; its schedule overlaps in the same way.
	DisableOverlapSchedule bool `group:"compute" help:"On GPUs: prepare a step only when the one before it has ended."`
	SkipServerWarmup       bool `group:"compute" help:"On GPUs: take requests before kernels are chosen and graphs recorded for every size of a step."`

	MaxRunningRequests int     `group:"compute" placeholder:"N" help:"Most sequences computed at once per worker (default: 64, on GPUs 256)."`
	ChunkedPrefillSize int     `group:"compute" placeholder:"N" help:"Most tokens of one step; longer prompts are cut into chunks between decode steps (default: 512, on GPUs 2048, which -1 is too)."`
	MaxTotalTokens     int     `group:"compute" placeholder:"N" help:"Most tokens in the key/value cache (default: on CPUs what 1 GiB holds, at least one full context; on GPUs what the memory allows)."`
	MemFractionStatic  float64 `aliases:"mem-fraction" group:"compute" placeholder:"F" help:"On GPUs: share of the memory that weights, buffers, cache and adapters take together (default: 0.9). On CPUs: share of the free memory for weights and cache."`
}

// loraFlags bound adapters.
type loraFlags struct {
	EnableLora         bool     `group:"lora" default:"true" negatable:"" help:"Serve LoRA adapters. Off, loads say that LoRA is not enabled."`
	MaxLorasPerBatch   int      `group:"lora" default:"8" help:"Most distinct adapters in one step; the base model is free."`
	MaxResidentLoras   int      `group:"lora" placeholder:"N" help:"Most adapters in device memory, whatever their size (default: as many as the memory holds)."`
	MaxLoadedLoraBytes int64    `group:"lora" placeholder:"BYTES" help:"Most host memory for adapters; more push out others (default: half of what is available at the start)."`
	MaxLoraRank        int      `group:"lora" placeholder:"N" help:"Largest rank that may be loaded (default: that of --lora-paths, else 512)."`
	LoraEvictionPolicy string   `group:"lora" default:"lru" enum:"lru,lfu" help:"Which adapter makes room, in device memory and among the loaded: lru, the one used longest ago, or lfu, the one used least of late. Pinned ones never do."`
	LoraTargetModules  []string `group:"lora" sep:"none" placeholder:"MODULE" help:"Modules that adapters may target, or all (default: those of --lora-paths, else all)."`
}

// registryFlags are the adapter manager's.
type registryFlags struct {
	LoraPaths          []string `group:"lora" sep:"none" placeholder:"NAME=PATH" help:"Adapters to load at start: NAME=PATH, PATH, or {\"lora_name\":…,\"lora_path\":…,\"pinned\":…}."`
	Preload            []string `group:"lora" sep:"none" placeholder:"NAME" help:"Adapters to bring into device memory before the first request: names, or the word all, or pinned for the pinned ones. The server is ready when they are there."`
	AdapterRoot        []string `group:"lora" sep:"none" placeholder:"DIR" help:"Folders below which clients may load adapters."`
	MaxLoadedLoras     int      `group:"lora" placeholder:"N" help:"Most adapters registered as loaded; more push out others (default: no limit)."`
	MaxAdapterVersions int      `group:"lora" placeholder:"N" help:"Versions of an adapter that stay stored, to roll back to (default: 8)."`
	LoraReloadUnloaded bool     `group:"lora" help:"Bring an explicitly unloaded adapter back on its next use, as SGLang does."`
	DataDir            string   `group:"lora" placeholder:"DIR" help:"Registry and stored adapters (default: $XDG_DATA_HOME/chorale)."`
	sourceFlags
	patienceFlags
}

// faceFlags are where clients come.
type faceFlags struct {
	Host        string `group:"http" default:"127.0.0.1" help:"Address for HTTP and gRPC."`
	Port        int    `group:"http" default:"30000" help:"HTTP port: OpenAI, SGLang, REST, metrics."`
	GrpcPort    int    `group:"http" placeholder:"PORT" help:"gRPC port (default: port + 1)."`
	APIKey      string `name:"api-key" group:"http" placeholder:"KEY" help:"Key that inference needs."`
	AdminAPIKey string `name:"admin-api-key" group:"http" placeholder:"KEY" help:"Key that loading and unloading adapters needs."`
	AdminListen string `group:"http" placeholder:"HOST:PORT" help:"Address of its own for what changes adapters (gRPC: the next port); --host then serves only the rest."`

	MetricsMaxAdapters int `group:"http" default:"100" placeholder:"N" help:"Most adapters with metrics of their own, those used most; all others are summed up as _other."`

	AllowedOrigins []string `group:"http" sep:"none" placeholder:"ORIGIN" help:"Origins of web pages that may ask for answers, or *. None may change adapters."`
}

// logFlags say how loud.
type logFlags struct {
	LogLevel  string `group:"log" default:"info" enum:"debug,info,warn,warning,error" help:"debug, info, warn or error."`
	LogFormat string `group:"log" default:"console" enum:"console,json" help:"console or json."`
}

func (f *logFlags) logger() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(strings.TrimSuffix(f.LogLevel, "ing"))
	if err != nil {
		return nil, err
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	cfg := zap.Config{
		Level: zap.NewAtomicLevelAt(level), Encoding: f.LogFormat, EncoderConfig: enc,
		OutputPaths: []string{"stderr"}, ErrorOutputPaths: []string{"stderr"}, DisableStacktrace: true, DisableCaller: true,
	}
	if f.LogFormat == "console" {
		cfg.EncoderConfig.EncodeLevel = zapcore.CapitalLevelEncoder
		cfg.EncoderConfig.ConsoleSeparator = "  "
	}
	return cfg.Build()
}

// initial is an adapter named on the command line.
type initial struct {
	Name   string `json:"lora_name"`
	Path   string `json:"lora_path"`
	Pinned bool   `json:"pinned"`
}

// initials reads --lora-paths.
func (f *registryFlags) initials() ([]initial, error) {
	var out []initial
	for _, s := range f.LoraPaths {
		a, err := parseInitial(s)
		if err != nil {
			return nil, fmt.Errorf("--lora-paths %s: %w", s, err)
		}
		if i := slices.IndexFunc(out, func(o initial) bool { return o.Name == a.Name }); i >= 0 {
			return nil, fmt.Errorf("--lora-paths: name %q is given twice", a.Name)
		}
		out = append(out, a)
	}
	return out, nil
}

func parseInitial(s string) (initial, error) {
	if strings.HasPrefix(s, "{") {
		var a initial
		d := json.NewDecoder(strings.NewReader(s))
		d.DisallowUnknownFields()
		if err := d.Decode(&a); err != nil {
			return a, err
		}
		if a.Name == "" || a.Path == "" {
			return a, errors.New("lora_name and lora_path are needed")
		}
		return a, nil
	}
	name, path, ok := strings.Cut(s, "=")
	name, path = strings.TrimSpace(name), strings.TrimSpace(path)
	if !ok {
		return initial{Name: s, Path: s}, nil // the path is the name
	}
	if name == "" || path == "" {
		return initial{}, errors.New("want NAME=PATH")
	}
	return initial{Name: name, Path: path}, nil
}

// dataDir is where the registry lives.
func (f *registryFlags) dataDir() (string, error) {
	if f.DataDir != "" {
		return f.DataDir, nil
	}
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no --data-dir and %w", err)
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "chorale"), nil
}

func (f *weightFlags) threads() int {
	if f.Threads > 0 {
		return f.Threads
	}
	return runtime.GOMAXPROCS(0)
}

// configFlag reads a YAML file of flags.
type configFlag string

// BeforeResolve makes the file's values known to the parser.
func (c configFlag) BeforeResolve(k *kong.Kong, ctx *kong.Context, trace *kong.Path) error {
	path := string(ctx.FlagValue(trace.Flag).(configFlag))
	conf := koanf.New("\x00") // keys hold no separator
	if err := conf.Load(file.Provider(path), yaml.Parser()); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	known := map[string]bool{}
	for _, f := range ctx.Flags() {
		known[f.Name] = true
	}
	var unknown []string
	for key := range conf.Raw() {
		if !known[key] {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return fmt.Errorf("--config %s: unknown keys: %s", path, join(unknown))
	}
	ctx.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
		for _, env := range f.Envs {
			if _, set := os.LookupEnv(env); set {
				return nil, nil // the environment beats the file
			}
		}
		return conf.Raw()[f.Name], nil
	}))
	return nil
}
