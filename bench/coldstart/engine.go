package coldstart

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"chorale/bench/local"
	"chorale/bench/shape"
	"chorale/internal/mapfile"
	"chorale/internal/peft"
	"chorale/worker/engine"
	"chorale/worker/kv"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
)

// Local is an engine in this process.
type Local struct {
	c     Config
	model *decoder.Model
	e     *local.Engine
	rng   *rand.Rand
	dir   string
	files local.Files

	pulse Pulse
	back  []*background
	next  int
	name  string // of the trial's adapter
	kept  bool   // the resident one is there
}

// background is a request that runs beside trials; seen of its tokens are in
// the pulse.
type background struct {
	*local.Stream
	id, seen int
}

// ErrState marks an adapter that is not where a trial wants it.
var ErrState = errors.New("bench coldstart: the adapter is in another state")

// Tokens of a background request, and those that one must have left when a
// trial begins.
const backgroundTokens, backgroundLeft, backgroundPrompt = 2048, 512, 64

// OpenLocal loads a model of noise and writes an adapter of the rank into a
// folder of its own.
func OpenLocal(b tensor.Backend, m *shape.Model, rank int, c Config) (_ *Local, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	l := &Local{c: c, rng: rand.New(rand.NewPCG(c.Seed, 0))}
	defer func() {
		if err != nil {
			_ = l.Close() // the cause is err
		}
	}()
	if l.dir, err = os.MkdirTemp("", "chorale-coldstart-"); err != nil {
		return nil, err
	}
	if l.files, err = local.Noise(&m.Spec, rank); err != nil {
		return nil, err
	}
	for name, text := range map[string][]byte{peft.ConfigFile: l.files.Config, peft.WeightsFile: l.files.Weights} {
		if err := os.WriteFile(filepath.Join(l.dir, name), text, 0o644); err != nil {
			return nil, err
		}
	}
	if l.model, err = local.Load(b, m); err != nil {
		return nil, err
	}
	tokens := (c.Background+1)*(backgroundPrompt+backgroundTokens) + c.Prompt + c.Output
	l.e, err = local.Open(b, l.model, engine.Options{
		MaxBatchTokens: 2048, MaxRunning: c.Background + 2, MaxAdapters: 4, MaxResident: 4, StarveSteps: 64, Pages: tokens/kv.PageSize + c.Background + 4,
	})
	return l, err
}

// Close ends the engine and removes the folder; the backend stays the caller's.
func (l *Local) Close() error {
	var errs []error
	if l.e != nil {
		errs = append(errs, l.e.Close())
	}
	if l.model != nil {
		l.model.Free()
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// Pulse implements Subject.
func (l *Local) Pulse() *Pulse {
	l.collect()
	return &l.pulse
}

// collect takes over the background's new tokens.
func (l *Local) collect() {
	_ = l.e.Wait(context.Background(), func() bool { // never waits
		for _, b := range l.back {
			for ; b.seen < len(b.Times); b.seen++ {
				l.pulse.Beat(b.id, b.Times[b.seen])
			}
		}
		return true
	})
}

// Keep implements Subject: those that are near their end are replaced.
func (l *Local) Keep(ctx context.Context, n int) error {
	l.collect()
	var left []*background
	_ = l.e.Wait(ctx, func() bool { // never waits
		left = nil
		for _, b := range l.back {
			if !b.Done && len(b.Times) < l.tokens()-min(backgroundLeft, l.tokens()/2) {
				left = append(left, b)
			}
		}
		return true
	})
	var old []*local.Stream
	for _, b := range l.back {
		if !slices.Contains(left, b) {
			old = append(old, b.Stream)
		}
	}
	l.e.Abort(old)
	if err := l.e.Wait(ctx, func() bool { return local.All(old, func(s *local.Stream) bool { return s.Done }) }); err != nil {
		return err
	}
	l.back = left
	asks := make([]local.Ask, max(0, n-len(left)))
	for i := range asks {
		asks[i] = local.Ask{Prompt: backgroundPrompt, Output: l.tokens()}
	}
	for _, s := range l.e.Submit(l.rng, asks...) {
		l.next++
		l.back = append(l.back, &background{Stream: s, id: l.next})
	}
	return l.e.Wait(ctx, func() bool {
		for _, b := range l.back {
			if b.Err == nil && len(b.Times) == 0 {
				return false
			}
		}
		return true
	})
}

// tokens is how long a background's answer is.
func (l *Local) tokens() int { return min(backgroundTokens, l.e.Capacity()-backgroundPrompt) }

// Ready implements Subject.
func (l *Local) Ready(ctx context.Context, s State) error {
	if s == Resident && !l.kept {
		if err := l.e.Put(ctx, string(Resident), l.files); err != nil {
			return err
		}
		if err := l.e.Finish(ctx, l.e.Submit(l.rng, local.Ask{Prompt: l.c.Prompt, Output: 1, Adapter: string(Resident)})); err != nil {
			return err
		}
		l.kept = true
	}
	l.next++
	l.name = fmt.Sprintf("%s-%d", s, l.next)
	if s == Resident {
		l.name = string(Resident)
	}
	if s == Host {
		if err := l.e.Put(ctx, l.name, l.files); err != nil {
			return err
		}
	}
	in, err := l.e.Resident(ctx, l.name)
	if err == nil && in != (s == Resident) {
		err = fmt.Errorf("%w: on the device %v, want %s", ErrState, in, s)
	}
	return err
}

// Ask implements Subject.
func (l *Local) Ask(ctx context.Context, s State) (begun, first time.Time, err error) {
	begun = time.Now()
	if s == File {
		var f local.Files
		if f.Config, err = os.ReadFile(filepath.Join(l.dir, peft.ConfigFile)); err != nil {
			return begun, first, err
		}
		weights, err := mapfile.Open(filepath.Join(l.dir, peft.WeightsFile), false) // as a worker does beside its manager
		if err != nil {
			return begun, first, err
		}
		f.Weights = weights.Data
		err = l.e.Put(ctx, l.name, f)
		if cerr := weights.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return begun, first, err
		}
	}
	streams := l.e.Submit(l.rng, local.Ask{Prompt: l.c.Prompt, Output: l.c.Output, Adapter: l.name})
	if err := l.e.Finish(ctx, streams); err != nil {
		return begun, first, err
	}
	return begun, streams[0].Times[0], nil
}

// Forget implements Subject.
func (l *Local) Forget(ctx context.Context, s State) error {
	if s == Resident {
		return nil
	}
	return l.e.DropAdapter(ctx, l.name, true)
}
