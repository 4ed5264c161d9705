package engine

import (
	"context"
	"errors"
	"fmt"

	"chorale/worker/kv"
)

// Warm says which steps WarmUp runs.
type Warm struct {
	// Prefill and Decode are numbers of rows: prompts of so many tokens, and so
	// many sequences that decode together. What does not fit is left out.
	Prefill, Decode []int
	// Adapters are digests in host memory. The first prompt and all of Decode are
	// run with their rows spread over them, and then everything without.
	Adapters []string
	// Progress, when not nil, is told how many of the steps' sizes are done.
	Progress func(done, total int)
}

// WarmUp runs steps of all sizes before others do, so that a backend that
// chooses kernels, records or allocates at the first sight of a size has done
// so. Run must be under way, and nobody else should use the engine meanwhile.
// The prefixes that it leaves in the cache are forgotten.
func (e *Engine) WarmUp(ctx context.Context, w Warm) error {
	c := e.Connect()
	defer c.Close()
	u := &warmer{e: e, c: c, progress: w.Progress}
	if u.progress == nil {
		u.progress = func(int, int) {}
	}
	groups := [][]string{nil}
	if len(w.Adapters) > 0 {
		// With adapters first: room that grows for them makes what was recorded
		// void.
		groups = [][]string{w.Adapters, nil}
	}
	first := w.Prefill[:min(1, len(w.Prefill))]
	u.total = len(w.Prefill) + len(w.Decode)
	if len(groups) > 1 {
		u.total += len(first) + len(w.Decode)
	}
	for _, adapters := range groups {
		prompts := w.Prefill
		if len(adapters) > 0 {
			prompts = first
		}
		for _, n := range prompts {
			if err := u.run(ctx, adapters, 1, min(n, e.opts.MaxBatchTokens), 1); err != nil {
				return fmt.Errorf("prompt of %d tokens: %w", n, err)
			}
		}
		for _, n := range w.Decode {
			// One step to choose, one to record, one to see it run.
			if err := u.run(ctx, adapters, min(n, e.opts.MaxRunning), 1, 3); err != nil {
				return fmt.Errorf("%d sequences: %w", n, err)
			}
		}
	}
	return e.FlushCache(ctx)
}

type warmer struct {
	e           *Engine
	c           *Conn
	progress    func(done, total int)
	done, total int
	id          uint64
}

// run computes n sequences of prompt tokens and answer tokens each.
func (u *warmer) run(ctx context.Context, adapters []string, n, prompt, answer int) error {
	u.done++
	defer u.progress(u.done, u.total)
	if prompt+answer > u.e.Capacity() || n*(1+(prompt+answer)/kv.PageSize) > u.e.opts.Pages {
		return nil
	}
	reqs := make([]Request, n)
	for i := range reqs {
		u.id++
		reqs[i] = Request{ID: u.id, Tokens: u.tokens(prompt), MaxTokens: answer, IgnoreEOS: true}
		if len(adapters) > 0 {
			reqs[i].Adapter = adapters[i*len(adapters)/n]
		}
	}
	u.c.Submit(reqs)
	for open := n; open > 0; {
		m, err := u.c.Recv(ctx)
		if err != nil {
			return err
		}
		for _, o := range m.Outputs {
			if o.Err != nil {
				return o.Err
			}
			if o.Reason == Abort {
				return errors.New("aborted")
			}
			if o.Reason != Running {
				open--
			}
		}
	}
	return nil
}

// tokens differ from those of all other sequences early on, so that no prefix is
// shared.
func (u *warmer) tokens(n int) []int32 {
	vocab := uint64(u.e.model.Spec.Vocab)
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32((u.id*7919 + uint64(i)*31) % vocab)
	}
	return ids
}
