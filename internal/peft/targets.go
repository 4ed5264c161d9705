package peft

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ModuleKind says what a module is, as far as PEFT treats it differently.
type ModuleKind uint8

// The kinds of modules.
const (
	Linear    ModuleKind = iota
	Embedding            // input embedding: LoRA tensors are lora_embedding_A and _B
	Head                 // the output head: linear, but not part of "all-linear"
)

// Module is a module of the base model that LoRA can adapt.
type Module struct {
	Name string // as PEFT names it: "model.layers.3.self_attn.q_proj", "lm_head"
	// In and Out are the features; of an embedding, the vocabulary and the
	// hidden size.
	In, Out int
	Kind    ModuleKind
	HasBias bool
}

// Target is a module that an adapter changes.
type Target struct {
	Module Module
	R      int     // rank
	Alpha  float64 // lora_alpha
	Scale  float64 // Alpha/R, or Alpha/√R with rsLoRA
}

// Targets returns the modules of base that c adapts, in base's order, with
// their rank and scale. Names in target_modules that base lacks, or no target
// at all, are ErrTarget; a regular expression that takes too long is ErrConfig.
func (c *Config) Targets(base []Module) ([]Target, error) {
	m, err := newMatcher(c)
	if err != nil {
		return nil, err
	}
	var out []Target
	for _, mod := range base {
		ok, err := m.isTarget(mod)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if c.EnsureWeightTying && mod.Kind != Linear {
			return nil, fmt.Errorf("%w: ensure_weight_tying with target %s", ErrUnsupported, quote(mod.Name))
		}
		t, err := m.target(mod)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	if unused := m.unused(); len(unused) > 0 {
		return nil, fmt.Errorf("%w: the base model has no module %s", ErrTarget, some(unused))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: none of the base model's %d modules is chosen", ErrTarget, len(base))
	}
	return out, nil
}

// matcher is a Config with its expressions compiled.
type matcher struct {
	c            *Config
	chosen       chooser
	exclude      chooser
	layers       []pattern
	ranks, alpha []pattern
	budget       budget
}

// chooser is a compiled Selector.
type chooser struct {
	set    map[string]bool // value: some module matched
	regexp *pattern
}

func newMatcher(c *Config) (*matcher, error) {
	m := &matcher{c: c, budget: budget{slowBudget}}
	var err error
	if m.chosen, err = newChooser("target_modules", c.TargetModules); err != nil {
		return nil, err
	}
	if m.exclude, err = newChooser("exclude_modules", c.ExcludeModules); err != nil {
		return nil, err
	}
	if n := len(c.RankPattern) + len(c.AlphaPattern) + len(c.LayersPattern); n > maxPatterns {
		return nil, fmt.Errorf("%w: %d patterns, at most %d", ErrConfig, n, maxPatterns)
	}
	var regexps int
	if m.ranks, err = compileRules("rank_pattern", c.RankPattern, &regexps); err != nil {
		return nil, err
	}
	if m.alpha, err = compileRules("alpha_pattern", c.AlphaPattern, &regexps); err != nil {
		return nil, err
	}
	return m, m.compileLayers(regexps)
}

func newChooser(field string, s Selector) (chooser, error) {
	c := chooser{}
	if s.Regexp != "" {
		p, err := compilePattern(field, "(?:", s.Regexp, `)\z`)
		c.regexp = &p
		return c, err
	}
	if len(s.List) > 0 {
		c.set = make(map[string]bool, len(s.List))
		for _, n := range s.List {
			c.set[n] = false
		}
	}
	return c, nil
}

// compileRules compiles keys as re.match(rf"(.*\.)?({key})$", name).
func compileRules(field string, rules []Rule, regexps *int) ([]pattern, error) {
	out := make([]pattern, 0, len(rules))
	for _, r := range rules {
		if r.Key != "" && isLiteral(r.Key) {
			out = append(out, pattern{literal: r.Key})
			continue
		}
		if *regexps++; *regexps > maxRegexps {
			return nil, fmt.Errorf("%w: %s: more than %d regular expressions", ErrConfig, field, maxRegexps)
		}
		p, err := compilePattern(fmt.Sprintf("%s[%s]", field, quote(r.Key)), `(.*\.)?(`, r.Key, `)$`)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// compileLayers compiles what finds the layer index in a name: the first
// number that follows the name of a layer list.
func (m *matcher) compileLayers(regexps int) error {
	const anyList = `.*?\.[^.]*`
	patterns, prefix := m.c.LayersPattern, `(?:^|.*?\.)`
	if len(patterns) == 0 {
		patterns, prefix = []string{anyList}, ""
	}
	if regexps+len(patterns) > maxRegexps {
		return fmt.Errorf("%w: layers_pattern: more than %d regular expressions", ErrConfig, maxRegexps)
	}
	for _, source := range patterns {
		p, err := compilePattern("layers_pattern", prefix, source, `\.(?<idx>\d+)\.`)
		if err != nil {
			return err
		}
		m.layers = append(m.layers, p)
	}
	return nil
}

// isTarget is PEFT's check_target_module_exists.
func (m *matcher) isTarget(mod Module) (bool, error) {
	direct, found, err := m.chosen.choose(mod.Name, &m.budget)
	if err != nil {
		return false, err
	}
	if m.c.TargetModules.AllLinear {
		direct, found = true, mod.Kind == Linear
	}
	if !found {
		return false, nil
	}
	if _, excluded, err := m.exclude.choose(mod.Name, &m.budget); excluded || err != nil {
		return false, err
	}
	if direct || len(m.c.LayersToTransform) == 0 {
		return true, nil
	}
	return m.inLayers(mod.Name)
}

// choose reports whether the chooser takes name, and whether it does so by the
// whole name rather than a suffix.
func (c chooser) choose(name string, b *budget) (direct, found bool, err error) {
	if c.regexp != nil {
		_, ok, err := c.regexp.match(name, b)
		return ok, ok, err
	}
	if c.set == nil {
		return false, false, nil
	}
	if _, ok := c.set[name]; ok {
		c.set[name], direct, found = true, true, true
	}
	// All suffixes are marked as used, not only the first that matches.
	for rest, more := name, true; more; {
		if _, rest, more = strings.Cut(rest, "."); !more {
			break
		}
		if _, ok := c.set[rest]; ok {
			c.set[rest], found = true, true
		}
	}
	return direct, found, nil
}

// inLayers reports whether the layer index in name is one to transform.
func (m *matcher) inLayers(name string) (bool, error) {
	for _, p := range m.layers {
		idx, ok, err := p.match(name, &m.budget)
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		n, err := strconv.Atoi(idx)
		return err == nil && slices.Contains(m.c.LayersToTransform, n), nil
	}
	return false, nil
}

// target applies the rank and alpha rules.
func (m *matcher) target(mod Module) (Target, error) {
	t := Target{Module: mod, R: m.c.R, Alpha: m.c.Alpha}
	if i, err := m.first(m.ranks, mod.Name); err != nil {
		return t, err
	} else if i >= 0 {
		t.R = int(m.c.RankPattern[i].Value)
	}
	if i, err := m.first(m.alpha, mod.Name); err != nil {
		return t, err
	} else if i >= 0 {
		t.Alpha = m.c.AlphaPattern[i].Value
	}
	if t.R <= 0 {
		return t, fmt.Errorf("%w: rank %d for module %s", ErrConfig, t.R, quote(mod.Name))
	}
	t.Scale = t.Alpha / float64(t.R)
	if m.c.RSLoRA {
		t.Scale = t.Alpha / math.Sqrt(float64(t.R))
	}
	return t, nil
}

// first returns the index of the first pattern that matches, or -1.
func (m *matcher) first(patterns []pattern, name string) (int, error) {
	for i, p := range patterns {
		if _, ok, err := p.match(name, &m.budget); ok || err != nil {
			return i, err
		}
	}
	return -1, nil
}

// unused returns the entries of target_modules that matched no module, sorted.
func (m *matcher) unused() []string {
	var out []string
	for name, used := range m.chosen.set {
		if !used {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
