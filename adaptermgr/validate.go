package adaptermgr

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"chorale/adaptermgr/source"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
)

// Module is one adapted module.
type Module struct {
	Name  string
	Rank  int
	Scale float64
}

// Report is what Validate found.
type Report struct {
	// Problems is empty when the adapter could be loaded.
	Problems []string
	// The rest is filled as far as the check came.
	Digest  string
	MaxRank int
	// Ranks are the distinct ranks of its modules, SumRanks is over all modules.
	Ranks         []int
	SumRanks      int
	TargetModules []string
	Modules       []Module
	SizeBytes     int64
	BaseModel     string
	Cost          Cost
}

// Cost is what an adapter takes of a worker group.
type Cost struct {
	// HostBytes are in the group's own memory, DeviceBytes on its device while it
	// is resident.
	HostBytes, DeviceBytes int64
	// StepBytes are read of it in each step that has a row for it; a row of an
	// embedding is not counted.
	StepBytes int64
	// StepTime is how long reading them takes at the device's bandwidth; 0 where
	// no worker has told that.
	StepTime time.Duration
}

// draft is an artifact that has been copied: two temporary files and what was
// found in them.
type draft struct {
	config, weights Staged
	digest          string
	parsed          *peft.Config
	bound           Report // as check left it
}

func (d *draft) discard() error {
	var errs []error
	for _, s := range []Staged{d.config, d.weights} {
		if s != nil {
			errs = append(errs, s.Discard())
		}
	}
	return errors.Join(errs...)
}

func (d *draft) commit() error {
	return classify(errors.Join(d.config.Commit(), d.weights.Commit()))
}

// baseInfo returns the description of the base model, and waits for a first
// worker group if none has ever been there.
func (m *Manager) baseInfo(ctx context.Context) (WorkerInfo, error) {
	var base *WorkerInfo
	err := m.await(ctx, m.o.WorkerTimeout, func() (bool, bool) {
		base = m.base
		return base != nil, false
	})
	switch {
	case errors.Is(err, ErrUnavailable):
		return WorkerInfo{}, fmt.Errorf("%w: adapters cannot be checked before the first worker group is there%s", ErrUnavailable, m.linkErrors())
	case err != nil:
		return WorkerInfo{}, err
	case !base.LoRAEnabled:
		return WorkerInfo{}, ErrDisabled
	}
	return *base, nil
}

// linkErrors tells why groups are not connected, for messages.
func (m *Manager) linkErrors() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, g := range m.groups {
		if g.link != linkUp && g.linkErr != nil {
			fmt.Fprintf(&b, "; %s: %v", g.w.Address(), g.linkErr)
		}
	}
	return b.String()
}

// limits joins the server's limits with the workers'.
func (m *Manager) limits(base WorkerInfo) peft.Limits {
	l := *m.limit.Load()
	if base.MaxLoRARank > 0 && (l.MaxRank == 0 || base.MaxLoRARank < l.MaxRank) {
		l.MaxRank = base.MaxLoRARank
	}
	return l
}

// Restrict sets the limits of loads from now on; what is loaded stays. SGLang
// infers them from the adapters that a server starts with.
func (m *Manager) Restrict(l peft.Limits) { m.limit.Store(&l) }

// checkTokens refuses adapters that add tokens to the vocabulary.
func checkTokens(a *source.Artifact, base WorkerInfo) error {
	if a.AddedTokens == nil {
		return nil
	}
	var ids map[string]int
	if err := json.Unmarshal(a.AddedTokens, &ids); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, source.AddedTokensFile, err)
	}
	for token, id := range ids {
		if base.VocabSize > 0 && id >= base.VocabSize {
			return fmt.Errorf("%w: it adds tokens to the vocabulary (%q is %d, the vocabulary has %d)",
				ErrUnsupported, token, id, base.VocabSize)
		}
	}
	return nil
}

// parse checks what can be told from the small files: tokens, then the config.
func parse(a *source.Artifact, base WorkerInfo) (*peft.Config, error) {
	if err := checkTokens(a, base); err != nil {
		return nil, err
	}
	c, err := peft.ParseConfig(a.Config)
	if err != nil {
		return nil, classify(fmt.Errorf("%s: %w", peft.ConfigFile, err))
	}
	return c, nil
}

// stage copies an artifact into temporary files and computes its digest.
func (m *Manager) stage(ctx context.Context, a *source.Artifact, c *peft.Config) (_ *draft, err error) {
	d := &draft{parsed: c}
	defer func() {
		if err != nil {
			err = classify(errors.Join(err, d.discard()))
		}
	}()
	if d.config, err = m.o.Blobs.Stage(ctx, bytes.NewReader(a.Config), int64(len(a.Config))); err != nil {
		d.config = nil
		return nil, err
	}
	// A file that grows while it is read is as wrong as one that is too large.
	if d.weights, err = m.o.Blobs.Stage(ctx, a.Weights, a.Size); err != nil {
		d.weights = nil
		return nil, err
	}
	f, err := os.Open(d.weights.Path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d.digest, err = peft.Digest(a.Config, f)
	return d, err
}

// weightsError is an error of the weights file under the name that its owner
// knows: a temporary path tells a client nothing, and is none of its business.
type weightsError struct {
	err  error
	text string
}

func (e *weightsError) Error() string { return e.text }
func (e *weightsError) Unwrap() error { return e.err }

// check binds the draft to the base model's modules.
func (m *Manager) check(d *draft, base WorkerInfo) error {
	f, err := safetensors.Open(d.weights.Path())
	if err != nil {
		return classify(&weightsError{err, strings.ReplaceAll(err.Error(), d.weights.Path(), source.WeightsFile)})
	}
	defer f.Close()
	a, err := peft.Bind(d.parsed, f, base.Modules, m.limits(base))
	if err != nil {
		return classify(err)
	}
	r := &d.bound
	r.Digest, r.SizeBytes, r.MaxRank, r.BaseModel = d.digest, d.weights.Size(), a.MaxRank(), d.parsed.BaseModel
	for _, l := range a.LoRAs {
		r.Modules = append(r.Modules, Module{l.Module.Name, l.R, l.Scale})
		r.TargetModules = append(r.TargetModules, l.Module.Name[strings.LastIndexByte(l.Module.Name, '.')+1:])
		r.Ranks = append(r.Ranks, l.R)
		r.SumRanks += l.R
	}
	slices.Sort(r.TargetModules)
	r.TargetModules = slices.Compact(r.TargetModules)
	slices.Sort(r.Ranks)
	r.Ranks = slices.Compact(r.Ranks)
	r.Cost = cost(a, base)
	return nil
}

// cost computes what an adapter takes on the groups of a base model.
func cost(a *peft.Adapter, base WorkerInfo) Cost {
	element := int64(cmp.Or(base.ElementBytes, 2))
	var held, read int64
	for _, l := range a.LoRAs {
		in, out := int64(l.R)*int64(l.Module.In), int64(l.R)*int64(l.Module.Out)
		if l.BBias.Data != nil {
			out += int64(l.Module.Out)
		}
		held += in + out
		read += out
		if l.Module.Kind != peft.Embedding {
			read += in
		}
	}
	for _, b := range a.Biases {
		held += int64(b.Module.Out)
		read += int64(b.Module.Out)
	}
	c := Cost{HostBytes: held * element, DeviceBytes: held * element, StepBytes: read * element}
	if u := base.ChunkBytes; u > 0 {
		c.DeviceBytes = (c.DeviceBytes + u - 1) / u * u
	}
	if base.Bandwidth > 0 {
		c.StepTime = time.Duration(float64(c.StepBytes) / base.Bandwidth * float64(time.Second))
	}
	return c
}

// Validate says whether the adapter at src could be loaded, without loading
// it. Only what keeps it from looking is an error.
func (m *Manager) Validate(ctx context.Context, src string) (Report, error) {
	if m.o.Disabled {
		return Report{}, ErrDisabled
	}
	base, err := m.baseInfo(ctx)
	if err != nil {
		return Report{}, err
	}
	r, err := m.validate(ctx, src, base)
	for _, fault := range []error{ErrInvalid, ErrUnsupported, ErrIncompatible, ErrRankTooLarge, ErrTooLarge} {
		if errors.Is(err, fault) {
			r.Problems = append(r.Problems, err.Error())
			return r, nil
		}
	}
	return r, err
}

func (m *Manager) validate(ctx context.Context, src string, base WorkerInfo) (Report, error) {
	a, err := m.o.Source.Fetch(ctx, src)
	if err != nil {
		return Report{}, classify(err)
	}
	defer a.Close()
	r := Report{SizeBytes: a.Size}
	c, err := parse(a, base)
	if err != nil {
		return r, err
	}
	r.BaseModel = c.BaseModel
	done, err := m.stagingSlot(ctx)
	if err != nil {
		return r, err
	}
	defer done()
	d, err := m.stage(ctx, a, c)
	if err != nil {
		return r, err
	}
	r.Digest = d.digest
	err = m.check(d, base)
	if err == nil {
		r = d.bound
	}
	return r, errors.Join(err, d.discard())
}

// stagingSlot waits for its turn to copy and check.
func (m *Manager) stagingSlot(ctx context.Context) (done func(), err error) {
	select {
	case m.staging <- struct{}{}:
		return func() { <-m.staging }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-m.closed:
		return nil, ErrClosed
	}
}
