package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/store"
)

// Words that Preload takes instead of names.
const (
	PreloadAll    = "all"
	PreloadPinned = "pinned"
)

// Preloader is a Worker that can bring adapters of its memory onto the device
// before they are asked for.
type Preloader interface {
	// Preload returns when all digests are there together. An error that wraps
	// ErrRejected says that they cannot be.
	Preload(ctx context.Context, digests []string) error
}

// preloading is what each worker group is to have on its device when it starts.
// Guarded by m.mu.
type preloading struct {
	which []string
	// groups are the attempts, by group.
	groups map[*group]*preloadTry
}

// preloadTry is an attempt on one process of a worker group.
type preloadTry struct {
	incarnation string
	running     bool
	done        bool
	err         error // of the last attempt; one that wraps ErrRejected is the last
}

func (t *preloadTry) refused() bool { return errors.Is(t.err, ErrRejected) }

// Preload brings adapters onto the device of every worker group, now and whenever
// one is started anew: those that are named, PreloadAll for all that are
// registered, PreloadPinned for the pinned ones. It returns when all connected
// groups have them there, at least one. Names that are not registered are
// ErrNotFound, what does not fit into device memory together ErrRejected.
func (m *Manager) Preload(ctx context.Context, which []string) error {
	m.mu.Lock()
	names, err := m.preloadNames(which)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if len(names) > 0 {
		if _, err := m.Ensure(ctx, names); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.preload = preloading{which: slices.Clone(which), groups: map[*group]*preloadTry{}}
	m.notify()
	m.mu.Unlock()
	var refused error
	err = m.await(ctx, m.o.WorkerTimeout, func() (done, progress bool) {
		have, pending := 0, false
		for _, g := range m.groups {
			if g.link == linkDown {
				continue
			}
			switch t := m.preload.groups[g]; {
			case g.link == linkNew || t == nil || t.incarnation != g.incarnation:
				pending = true
			case t.refused():
				refused = fmt.Errorf("worker %s: %w", g.w.Address(), t.err)
				return true, false
			case t.done:
				have++
			default:
				pending, progress = true, progress || t.running
			}
		}
		return have > 0 && !pending, progress
	})
	return errors.Join(err, refused)
}

// preloadNames resolves words and checks names. mu is held.
func (m *Manager) preloadNames(which []string) ([]string, error) {
	var out []string
	for _, w := range which {
		if w != PreloadAll && w != PreloadPinned {
			if _, v := m.find(w); v == nil {
				return nil, fmt.Errorf("%q %w%s", w, ErrNotFound, m.known())
			}
			out = append(out, w)
			continue
		}
		for _, name := range m.sortedNames() {
			if e := m.entries[name]; e.rec.State == store.StateLive && e.current() != nil && (w == PreloadAll || e.rec.Pinned) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// keepPreloaded preloads on each worker group that is new, until ctx ends.
func (m *Manager) keepPreloaded(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		m.mu.Lock()
		for _, g := range m.groups {
			m.startPreload(ctx, &running, g)
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// startPreload begins what a group lacks, once it holds all that it is to preload.
// mu is held.
func (m *Manager) startPreload(ctx context.Context, running *sync.WaitGroup, g *group) {
	w, can := g.w.(Preloader)
	if len(m.preload.which) == 0 || g.link != linkUp {
		return
	}
	t := m.preload.groups[g]
	if t == nil || t.incarnation != g.incarnation && !t.running {
		t = &preloadTry{incarnation: g.incarnation, done: !can}
	}
	if t.running || t.done || t.refused() {
		m.preload.groups[g] = t
		return
	}
	digests, ok := m.preloadDigests(g)
	if !ok {
		return // they are on their way
	}
	if t.done = len(digests) == 0; t.done {
		m.preload.groups[g] = t
		m.notify()
		return
	}
	again := t.err != nil
	t.running = true
	m.preload.groups[g] = t
	m.notify()
	running.Go(func() {
		if again {
			select {
			case <-time.After(m.o.RetryMax):
			case <-ctx.Done():
			}
		}
		err := w.Preload(ctx, digests)
		m.mu.Lock()
		defer m.mu.Unlock()
		t.running, t.done, t.err = false, err == nil, err
		if err != nil && ctx.Err() == nil {
			g.log.Warn("adapters could not be preloaded", zap.Int("adapters", len(digests)), zap.Error(err))
		}
		m.notify()
	})
}

// preloadDigests are those that a group is to preload, false while it lacks some.
// mu is held.
func (m *Manager) preloadDigests(g *group) (digests []string, ok bool) {
	var which []string // what was unloaded since is not missed
	for _, w := range m.preload.which {
		if _, v := m.find(w); v != nil || w == PreloadAll || w == PreloadPinned {
			which = append(which, w)
		}
	}
	names, err := m.preloadNames(which)
	if err != nil {
		return nil, false
	}
	for _, name := range names {
		_, v := m.find(name)
		if v == nil || !v.Loaded || m.faults[v.Digest] != nil || slices.Contains(digests, v.Digest) {
			continue // what made room for others since is not on the workers at all
		}
		if !g.has(v.Digest) {
			return nil, false
		}
		digests = append(digests, v.Digest)
	}
	return digests, true
}
