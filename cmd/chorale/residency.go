package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr"
	"chorale/internal/eviction"
)

// eviction is which adapter makes room.
func (f *loraFlags) eviction() eviction.Policy {
	p, err := eviction.Parse(f.LoraEvictionPolicy)
	if err != nil { // left empty: the parser knows no other values
		return eviction.LRU
	}
	return p
}

var errPreloading = errors.New("adapters are not preloaded yet")

func (r *managerRole) notReady(err error) { r.unready.Store(&err) }

// ready is nil once --preload's adapters were on the devices.
func (r *managerRole) ready() error {
	if err := r.unready.Load(); err != nil {
		return *err
	}
	return nil
}

// preloadOnce brings --preload's adapters onto the workers' devices.
func (r *managerRole) preloadOnce(ctx context.Context) error {
	if len(r.preload) == 0 {
		return nil
	}
	start := time.Now()
	if err := r.m.Preload(ctx, r.preload); err != nil {
		return fmt.Errorf("--preload %s: %w", join(r.preload), err)
	}
	r.unready.Store(nil)
	r.log.Info("adapters preloaded", zap.Strings("preload", r.preload), zap.Duration("took", time.Since(start).Round(time.Millisecond)))
	return nil
}

// preloadAll is preloadOnce for workers that may come late: only what no waiting
// helps against is an error. Until it is done the manager is not ready.
func (r *managerRole) preloadAll(ctx context.Context) error {
	for {
		err := r.preloadOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, adaptermgr.ErrUnavailable):
			return err
		}
		r.notReady(err)
		r.log.Warn("adapters are not preloaded yet", zap.Error(err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}
