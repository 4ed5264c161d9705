package peft

import (
	"fmt"
	"slices"
	"strings"

	"chorale/internal/safetensors"
)

// Limits is what a server accepts.
type Limits struct {
	MaxRank int // of any module; 0: no limit
	// TargetModules are the modules that adapters may change, by the last part
	// of their name ("q_proj") or in full; nil: all.
	TargetModules []string
}

// LoRA is the change to one module. The tensors alias the file.
type LoRA struct {
	Target
	A safetensors.Tensor // [r, in]; of an embedding [r, vocab]
	B safetensors.Tensor // [out, r]; of an embedding [hidden, r]
	// BBias is B's own bias [out] with lora_bias, else its Data is nil. It is
	// scaled like the rest: y += Scale · BBias.
	BBias safetensors.Tensor
}

// Bias is a trained bias [out]. Value replaces the base layer's bias; it is
// not a difference. The module need not be a LoRA target (bias "all").
type Bias struct {
	Module Module
	Value  safetensors.Tensor
}

// FullEmbedding is a base weight that PEFT saved with the adapter because the
// module is a target: [vocab, hidden], for an embedding as for a head. PEFT
// would replace the base weight by it. Its shape fits the base, its content is
// not checked: whoever has the base weights should compare them and refuse an
// adapter that changed them, if it cannot serve its own copy.
type FullEmbedding struct {
	Module Module
	Weight safetensors.Tensor
}

// Adapter is an adapter whose tensors have all been found and checked.
type Adapter struct {
	Config         *Config
	LoRAs          []LoRA // in the order of the base's modules, at least one
	Biases         []Bias
	FullEmbeddings []FullEmbedding
}

// MaxRank returns the largest rank of any module.
func (a *Adapter) MaxRank() int {
	r := 0
	for _, l := range a.LoRAs {
		r = max(r, l.R)
	}
	return r
}

// Bind finds c's tensors in f for the base model's modules and checks names,
// shapes, dtypes and values. Every tensor of f must have its place and every
// place its tensor. Errors name the tensor or module: ErrTarget, ErrRank,
// ErrUnsupported, ErrUnmatched, ErrMissing, ErrDuplicate, ErrShape,
// ErrNonFinite, ErrConfig. The result aliases f, which must stay open.
func Bind(c *Config, f *safetensors.File, base []Module, limits Limits) (*Adapter, error) {
	targets, err := c.Targets(base)
	if err != nil {
		return nil, err
	}
	if err := limits.check(targets); err != nil {
		return nil, err
	}
	b := newBinder(c, targets, base)
	for _, name := range f.Names() {
		t, _ := f.Tensor(name)
		if err := b.add(t); err != nil {
			return nil, err
		}
	}
	if len(b.unmatched) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnmatched, some(b.unmatched))
	}
	if err := b.checkMissing(); err != nil {
		return nil, err
	}
	if err := b.checkTensors(); err != nil {
		return nil, err
	}
	return b.adapter, nil
}

func (l Limits) check(targets []Target) error {
	for _, t := range targets {
		if l.MaxRank > 0 && t.R > l.MaxRank {
			return fmt.Errorf("%w: module %s has rank %d, at most %d", ErrRank, quote(t.Module.Name), t.R, l.MaxRank)
		}
		last := t.Module.Name[strings.LastIndexByte(t.Module.Name, '.')+1:]
		if l.TargetModules != nil && !slices.Contains(l.TargetModules, last) && !slices.Contains(l.TargetModules, t.Module.Name) {
			return fmt.Errorf("%w: %s is not among those that this server adapts (%s)",
				ErrTarget, quote(t.Module.Name), strings.Join(l.TargetModules, ", "))
		}
	}
	return nil
}

// binder puts tensors in their places.
type binder struct {
	c         *Config
	adapter   *Adapter
	base      map[string]Module
	lora      map[string]int // module → index in adapter.LoRAs
	taken     map[place]string
	unmatched []string
}

func newBinder(c *Config, targets []Target, base []Module) *binder {
	b := &binder{
		c: c, adapter: &Adapter{Config: c, LoRAs: make([]LoRA, len(targets))},
		base: make(map[string]Module, len(base)), lora: make(map[string]int, len(targets)), taken: map[place]string{},
	}
	for _, m := range base {
		b.base[m.Name] = m
	}
	for i, t := range targets {
		b.adapter.LoRAs[i].Target = t
		b.lora[t.Module.Name] = i
	}
	return b
}

// add puts t in its place, or notes that it has none.
func (b *binder) add(t safetensors.Tensor) error {
	p, ok, err := parseKey(t.Name)
	if err != nil {
		return err
	}
	if !ok || !b.fits(p) {
		b.unmatched = append(b.unmatched, t.Name)
		return nil
	}
	if other, dup := b.taken[p]; dup {
		return fmt.Errorf("%w: %s and %s", ErrDuplicate, quote(other), quote(t.Name))
	}
	b.taken[p] = t.Name
	switch p.role {
	case roleA:
		b.adapter.LoRAs[b.lora[p.module]].A = t
	case roleB:
		b.adapter.LoRAs[b.lora[p.module]].B = t
	case roleBBias:
		b.adapter.LoRAs[b.lora[p.module]].BBias = t
	case roleBias:
		b.adapter.Biases = append(b.adapter.Biases, Bias{b.base[p.module], t})
	case roleWeight:
		b.adapter.FullEmbeddings = append(b.adapter.FullEmbeddings, FullEmbedding{b.base[p.module], t})
	}
	return nil
}

// fits reports whether the config and base have the place.
func (b *binder) fits(p place) bool {
	_, isTarget := b.lora[p.module]
	m, inBase := b.base[p.module]
	switch p.role {
	case roleBias:
		return inBase && m.HasBias && (b.c.Bias == BiasAll || b.c.Bias == BiasLoRAOnly && isTarget)
	case roleWeight:
		return inBase && m.Kind != Linear
	case roleBBias:
		return isTarget && b.c.LoRABias && m.Kind != Embedding
	}
	return isTarget && p.embedding == (m.Kind == Embedding)
}

// checkMissing demands A and B of every target, and B's bias with lora_bias.
// Trained biases may be absent: older PEFT versions do not save them, and its
// loader then keeps the base's.
func (b *binder) checkMissing() error {
	var missing []string
	for _, l := range b.adapter.LoRAs {
		keyA, keyB := l.keys()
		if l.A.Name == "" {
			missing = append(missing, keyA)
		}
		if l.B.Name == "" {
			missing = append(missing, keyB)
		}
		if b.c.LoRABias && l.BBias.Name == "" {
			missing = append(missing, strings.TrimSuffix(keyB, "weight")+"bias")
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", ErrMissing, some(missing))
	}
	return nil
}

// checkTensors checks shapes, then values. Resized vocabularies come first,
// for they explain the shapes that follow from them.
func (b *binder) checkTensors() error {
	for _, e := range b.adapter.FullEmbeddings {
		if err := checkEmbedding(e); err != nil {
			return err
		}
	}
	type check struct {
		t     safetensors.Tensor
		shape []int
	}
	var all []check
	for _, l := range b.adapter.LoRAs {
		m := l.Module
		all = append(all, check{l.A, []int{l.R, m.In}}, check{l.B, []int{m.Out, l.R}})
		if l.BBias.Name != "" {
			all = append(all, check{l.BBias, []int{m.Out}})
		}
	}
	for _, v := range b.adapter.Biases {
		all = append(all, check{v.Value, []int{v.Module.Out}})
	}
	for _, c := range all {
		if err := checkShape(c.t, c.shape); err != nil {
			return err
		}
	}
	for _, e := range b.adapter.FullEmbeddings {
		all = append(all, check{t: e.Weight})
	}
	tensors := make([]safetensors.Tensor, len(all))
	for i, c := range all {
		tensors[i] = c.t
	}
	return checkAllFinite(tensors)
}

func checkShape(t safetensors.Tensor, want []int) error {
	if !slices.Equal(t.Shape, want) {
		return fmt.Errorf("%w: tensor %s is %v, want %v", ErrShape, quote(t.Name), t.Shape, want)
	}
	if !t.DType.IsFloat() {
		return fmt.Errorf("%w: tensor %s is of type %v", ErrUnsupported, quote(t.Name), t.DType)
	}
	return nil
}

// checkEmbedding compares a full embedding or head with the base's shape.
func checkEmbedding(e FullEmbedding) error {
	vocab, hidden := e.Module.In, e.Module.Out
	if e.Module.Kind == Head {
		vocab, hidden = hidden, vocab
	}
	shape := e.Weight.Shape
	if len(shape) == 2 && shape[1] == hidden && shape[0] > vocab {
		return fmt.Errorf("%w: tensor %s is %v: the adapter adds tokens to the vocabulary of %d",
			ErrUnsupported, quote(e.Weight.Name), shape, vocab)
	}
	return checkShape(e.Weight, []int{vocab, hidden})
}
