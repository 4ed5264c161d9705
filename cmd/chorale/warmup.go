package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/engine"
	"chorale/worker/group"
	"chorale/worker/lora"
	"chorale/worker/model"
)

// bucketed is a backend whose first steps of each size are slow.
type bucketed interface{ Buckets(n int) []int }

// warmUp runs steps of every size once, so that no request meets the first.
func (w *workerRole) warmUp(ctx context.Context, wf *weightFlags, lf *loraFlags) error {
	b, ok := w.backend.(bucketed)
	if !ok || wf.SkipServerWarmup {
		return nil
	}
	o := w.engine.Options()
	warm := engine.Warm{Decode: b.Buckets(o.MaxRunning)}
	for _, n := range b.Buckets(o.MaxBatchTokens) {
		if len(warm.Prefill) == 0 || n > o.MaxRunning { // smaller ones are chosen for by Decode
			warm.Prefill = append(warm.Prefill, n)
		}
	}
	start := time.Now()
	told := start
	warm.Progress = func(done, total int) {
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			w.log.Info("warming up", zap.Int("done", done), zap.Int("of", total))
		}
	}
	w.log.Info("warming up", zap.Ints("decode", warm.Decode), zap.Ints("prefill", warm.Prefill))
	drop := func() error { return nil }
	if lf.EnableLora {
		var err error
		if warm.Adapters, drop, err = w.warmAdapters(ctx, targets(lf.LoraTargetModules), o.MaxAdapters); err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
	}
	err := w.engine.WarmUp(ctx, warm)
	if err == nil {
		err = drop()
	}
	if err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	w.log.Info("warm", zap.Int("sizes", len(warm.Decode)+len(warm.Prefill)), zap.Duration("took", time.Since(start).Round(time.Millisecond)))
	return nil
}

// warmAdapters puts n adapters of noise of rank 1 into host memory: what steps
// allocate depends on how many there are, hardly on their rank.
func (w *workerRole) warmAdapters(ctx context.Context, modules []string, n int) (digests []string, drop func() error, err error) {
	drop = func() error {
		for _, d := range digests {
			if err := w.engine.DropAdapter(ctx, d, false); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range n {
		digest := fmt.Sprintf("warm-up %d", i)
		h, err := w.noiseAdapter(digest, modules, uint64(i))
		if err != nil {
			return nil, drop, err
		}
		if h.Pack == nil { // adapters target nothing that is linear
			return nil, drop, nil
		}
		if err := w.engine.PutAdapter(ctx, h); err != nil {
			h.Release()
			return nil, drop, err
		}
		digests = append(digests, digest)
	}
	return digests, drop, nil
}

// noiseAdapter makes an adapter of noise for the modules that adapters may
// target; none when there are none that is known how to make.
func (w *workerRole) noiseAdapter(digest string, modules []string, seed uint64) (h lora.Host, err error) {
	spec := &w.model.Spec
	kinds := linearKinds(model.Modules(spec))
	if modules != nil {
		kinds = slices.DeleteFunc(kinds, func(k string) bool { return !slices.Contains(modules, k) })
	}
	if len(kinds) == 0 {
		return h, nil
	}
	config, tensors, err := model.DummyAdapter(spec, model.DummyLoRA{Rank: 1, Modules: kinds, Seed: seed})
	if err != nil {
		return h, err
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, tensors, nil); err != nil {
		return h, err
	}
	f, err := safetensors.Parse(b.Bytes())
	if err != nil {
		return h, err
	}
	cfg, err := peft.ParseConfig(config)
	if err != nil {
		return h, err
	}
	a, err := peft.Bind(cfg, f, model.Modules(spec), peft.Limits{})
	if err != nil {
		return h, err
	}
	im, err := model.NewImage(w.model, a)
	if err != nil {
		return h, err
	}
	h, err = group.Host(w.leader(), digest, config, b.Bytes(), im)
	if err != nil {
		im.Free()
	}
	return h, err
}

// linearKinds lists the last parts of the linear modules' names, each once.
func linearKinds(mods []peft.Module) []string {
	var out []string
	for _, m := range mods {
		if k := kindOf(m.Name); m.Kind == peft.Linear && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// kindOf is the last part of a module's name.
func kindOf(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			return name[i+1:]
		}
	}
	return name
}
