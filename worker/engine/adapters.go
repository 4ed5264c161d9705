package engine

import (
	"context"
	"time"

	"chorale/worker/lora"
)

// PutAdapter puts an adapter into host memory. When it fails the adapter is the
// caller's still, with what was set aside for it; memory.ErrTooLarge tells that
// it could never come onto the device.
func (e *Engine) PutAdapter(ctx context.Context, h lora.Host) error {
	// Not given up half way: the caller must know whose the adapter is.
	err, closed := query(context.WithoutCancel(ctx), e, func() error { return e.store.Add(h) })
	if closed != nil {
		return closed
	}
	return err
}

// ReserveAdapter sets host memory aside for an adapter that is on its way, for
// PutAdapter or UnreserveAdapter. lora.ErrHostFull tells that there is none.
func (e *Engine) ReserveAdapter(ctx context.Context, bytes int64) error {
	err, closed := query(context.WithoutCancel(ctx), e, func() error { return e.store.Reserve(bytes) })
	if closed != nil {
		return closed
	}
	return err
}

// UnreserveAdapter gives back what ReserveAdapter set aside.
func (e *Engine) UnreserveAdapter(bytes int64) { e.do(func() { e.store.Unreserve(bytes) }) }

// AdoptAdapter sets the pin of an adapter that is in host memory, keeping it
// from being dropped; false when it is not there. memory.ErrTooLarge tells that
// its pin would leave too little to others.
func (e *Engine) AdoptAdapter(ctx context.Context, digest string, pinned bool) (bool, error) {
	type answer struct {
		ok  bool
		err error
	}
	got, err := query(ctx, e, func() answer {
		ok, err := e.store.Adopt(digest, pinned)
		return answer{ok, err}
	})
	if err != nil {
		return false, err
	}
	return got.ok, got.err
}

// DropAdapter removes an adapter and returns when it is gone: after its last
// sequence ended, or at once with force, which aborts them.
func (e *Engine) DropAdapter(ctx context.Context, digest string, force bool) error {
	return e.ask(ctx, func(done func()) {
		e.store.Drop(digest, done)
		if force {
			e.abortAdapter(digest, ErrUnloaded)
		}
	})
}

// PreloadAdapters brings adapters of host memory onto the device together and
// returns when all have come. lora.ErrTogether tells that they could not be there
// at once. What has come is an adapter like any: others may take its place later.
func (e *Engine) PreloadAdapters(ctx context.Context, digests []string) error {
	end := make(chan error, 1)
	if !e.do(func() { e.store.Preload(digests, func(err error) { end <- err }) }) {
		return ErrClosed
	}
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-e.done:
		return ErrClosed
	}
}

// AdapterCounts tells what has changed of the adapters' counts after a change that
// an earlier call returned, 0 for all.
func (e *Engine) AdapterCounts(ctx context.Context, after uint64) (changed []lora.Counts, last uint64, err error) {
	type answer struct {
		changed []lora.Counts
		last    uint64
	}
	got, err := query(ctx, e, func() answer {
		changed, last := e.store.Counts(after)
		return answer{changed, last}
	})
	return got.changed, got.last, err
}

// Adapters lists the adapters of both tiers.
func (e *Engine) Adapters(ctx context.Context) ([]lora.Info, error) {
	return query(ctx, e, func() []lora.Info { return e.store.List() })
}

// Status tells the engine's state.
func (e *Engine) Status(ctx context.Context) (Status, error) { return query(ctx, e, e.status) }

// Drain asks for no new sequences, or for new ones again. All connections are
// told at once.
func (e *Engine) Drain(on bool) {
	e.do(func() {
		if e.stats.Draining != on {
			e.stats.Draining = on
			e.publish()
		}
	})
}

// Idle waits until no sequence runs or waits. What a router sent before it heard
// of Drain may still be on its way: nothing must have run for a moment.
func (e *Engine) Idle(ctx context.Context) error {
	const moment, often = 10, 20 * time.Millisecond
	for quiet := 0; quiet < moment; quiet++ {
		st, err := e.Status(ctx)
		if err != nil {
			return err
		}
		if st.Running+st.Waiting > 0 {
			quiet = -1
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(often):
		}
	}
	return nil
}

// query reads the engine's state on its goroutine.
func query[T any](ctx context.Context, e *Engine, read func() T) (T, error) {
	answer := make(chan T, 1) // the engine never waits for who asked
	err := e.ask(ctx, func(done func()) {
		answer <- read()
		done()
	})
	if err != nil {
		var none T
		return none, err
	}
	return <-answer, nil
}

// FlushCache forgets all cached prefixes.
func (e *Engine) FlushCache(ctx context.Context) error {
	return e.ask(ctx, func(done func()) {
		e.pool.Flush()
		done()
	})
}

// ask runs f on the engine's goroutine and waits until it called done.
func (e *Engine) ask(ctx context.Context, f func(done func())) error {
	answered := make(chan struct{})
	if !e.do(func() { f(func() { close(answered) }) }) {
		return ErrClosed
	}
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.done:
		select {
		case <-answered:
			return nil
		default:
			return ErrClosed
		}
	}
}
