package peft

import (
	"fmt"
	"strings"
)

// Limits of a config, far above what real adapters hold.
const (
	maxConfig   = 4 << 20 // bytes of adapter_config.json
	maxPatterns = 16384   // entries of rank_pattern, alpha_pattern and layers_pattern
	maxRegexps  = 1024    // of those that are more than a literal name
	maxRegexp   = 64 << 10
)

// Bias modes of a Config.
const (
	BiasNone     = "none"      // no biases in the file
	BiasAll      = "all"       // every bias of the base model, trained
	BiasLoRAOnly = "lora_only" // the biases of the target modules, trained
)

// Rule is one entry of rank_pattern or alpha_pattern.
type Rule struct {
	Key   string // regular expression, matched as (.*\.)?(Key)$ from the name's start
	Value float64
}

// Selector is target_modules or exclude_modules: one of three ways to choose.
// The zero value chooses nothing.
type Selector struct {
	List      []string // names, or their suffixes after a dot
	Regexp    string   // Python regular expression for the whole name
	AllLinear bool     // every linear layer except the output head
}

// IsZero reports whether s chooses nothing.
func (s Selector) IsZero() bool { return len(s.List) == 0 && s.Regexp == "" && !s.AllLinear }

// Config is what adapter_config.json says about the forward pass. Fields that
// only matter to training (dropout, initialisation that leaves the base alone)
// are not kept.
type Config struct {
	BaseModel   string // base_model_name_or_path, "" when absent
	Revision    string // of the base model, "" when absent
	PEFTVersion string // "" when absent

	R      int     // rank of modules without a rank rule, > 0
	Alpha  float64 // lora_alpha of modules without an alpha rule, finite
	RSLoRA bool    // scale is alpha/√r instead of alpha/r

	RankPattern  []Rule // in file order; values are integers > 0
	AlphaPattern []Rule // in file order

	TargetModules  Selector // never zero
	ExcludeModules Selector

	LayersToTransform []int    // nil: all layers
	LayersPattern     []string // name of the layer list before the index; nil: any

	Bias              string // BiasNone, BiasAll or BiasLoRAOnly
	LoRABias          bool   // B has a bias
	FanInFanOut       bool   // no effect, see the package comment
	EnsureWeightTying bool   // refused by Targets when embedding or head are targets
}

// unsupported are the fields that change what the adapter computes, or which
// tensors it has, in ways that are not served. Set means other than null,
// false, 0, "" or [].
var unsupported = []struct{ field, what string }{
	{"use_dora", "DoRA"},
	{"modules_to_save", "fully trained modules"},
	{"trainable_token_indices", "trained token embeddings"},
	{"target_parameters", "LoRA on bare parameters"},
	{"layer_replication", "replicated layers"},
	{"megatron_config", "Megatron layers"},
	{"alora_invocation_tokens", "activated LoRA"},
	{"use_qalora", "QALoRA"},
	{"use_bdlora", "block-diagonal LoRA"},
	{"arrow_config", "Arrow routing"},
	{"kasa_config", "KaSA"},
	{"monteclora_config", "MonteCLoRA"},
	{"velora_config", "VeLoRA"},
}

// ParseConfig reads adapter_config.json. Fields unknown to it are ignored,
// except that a true "use_…" switch is taken for an unknown variant. Errors are
// ErrConfig, with the field's path, or ErrUnsupported, with its name.
func ParseConfig(b []byte) (*Config, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrConfig, len(b), maxConfig)
	}
	f, err := parseFields(b)
	if err != nil {
		return nil, err
	}
	if err := f.checkSupported(); err != nil {
		return nil, err
	}
	c := &Config{
		BaseModel:         f.str("base_model_name_or_path", ""),
		Revision:          f.str("revision", ""),
		PEFTVersion:       f.str("peft_version", ""),
		R:                 f.integer("r", 8),
		Alpha:             f.number("lora_alpha", 8),
		RSLoRA:            f.boolean("use_rslora"),
		RankPattern:       f.rules("rank_pattern", true),
		AlphaPattern:      f.rules("alpha_pattern", false),
		TargetModules:     f.selector("target_modules"),
		ExcludeModules:    f.selector("exclude_modules"),
		LayersToTransform: f.integers("layers_to_transform"),
		LayersPattern:     f.strs("layers_pattern"),
		Bias:              f.str("bias", BiasNone),
		LoRABias:          f.boolean("lora_bias"),
		FanInFanOut:       f.boolean("fan_in_fan_out"),
		EnsureWeightTying: f.boolean("ensure_weight_tying"),
	}
	c.check(f)
	if f.err != nil {
		return nil, f.err
	}
	if _, err := newMatcher(c); err != nil {
		return nil, err
	}
	return c, nil
}

// check holds the rules between fields, most of them PEFT's own.
func (c *Config) check(f *fields) {
	// "all-linear" is a value of target_modules only, in any case.
	c.TargetModules.AllLinear = strings.EqualFold(c.TargetModules.Regexp, "all-linear")
	if c.TargetModules.AllLinear {
		c.TargetModules.Regexp = ""
	}
	byName := len(c.TargetModules.List) > 0
	switch {
	case c.TargetModules.IsZero():
		f.fail("target_modules", "is empty; PEFT would choose by architecture")
	case !byName && f.present("layers_to_transform"):
		f.fail("layers_to_transform", "needs target_modules to be a list")
	case !byName && f.present("layers_pattern"):
		f.fail("layers_pattern", "needs target_modules to be a list")
	case len(c.LayersPattern) > 0 && !f.present("layers_to_transform"):
		f.fail("layers_pattern", "needs layers_to_transform")
	case c.R <= 0:
		f.fail("r", fmt.Sprintf("is %d, want a positive integer", c.R))
	case c.Bias != BiasNone && c.Bias != BiasAll && c.Bias != BiasLoRAOnly:
		f.fail("bias", fmt.Sprintf("is %s, want none, all or lora_only", quote(c.Bias)))
	}
}

// checkSupported refuses what cannot be served, before anything else is read.
func (f *fields) checkSupported() error {
	if t := f.str("peft_type", ""); f.err == nil && t != "LORA" {
		if t == "" {
			return fmt.Errorf("%w: peft_type: missing", ErrConfig)
		}
		return fmt.Errorf("%w: peft_type %s", ErrUnsupported, quote(t))
	}
	known := map[string]bool{"use_rslora": true}
	for _, u := range unsupported {
		known[u.field] = true
		if truthy(f.raw[u.field]) {
			return fmt.Errorf("%w: %s (%s)", ErrUnsupported, u.field, u.what)
		}
	}
	for _, name := range f.names {
		if strings.HasPrefix(name, "use_") && !known[name] && string(f.raw[name]) == "true" {
			return fmt.Errorf("%w: %s", ErrUnsupported, quote(name))
		}
	}
	return f.checkInit()
}

// checkInit refuses initialisations that moved part of the base weights into
// the adapter: saved without conversion, such an adapter is only right on the
// changed base. PEFT's conversion sets the field to true, so a name that is
// still there means that none was done.
func (f *fields) checkInit() error {
	const field = "init_lora_weights"
	switch string(f.raw[field]) {
	case "", "null", "true", "false":
		return f.err
	}
	name := f.stringAt(field, f.raw[field])
	switch strings.ToLower(name) {
	case "gaussian", "eva", "orthogonal", "mica":
		return f.err
	}
	if f.err != nil {
		return f.err
	}
	return fmt.Errorf("%w: %s %s: may need a changed base model; "+
		"convert when saving (path_initial_model_for_weight_conversion)", ErrUnsupported, field, quote(name))
}
