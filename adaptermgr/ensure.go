package adaptermgr

import (
	"context"
	"fmt"
	"slices"
	"time"

	"chorale/adaptermgr/store"
)

// EnsureResult is what Ensure reached.
type EnsureResult struct {
	// Adapters in the order of the names asked for.
	Adapters []Adapter
	Revision uint64
	// Evicted are the names pushed out to make room.
	Evicted []string
}

// Touch notes that names are in use now, for the eviction order. Names that
// are not loaded are passed over. It never waits.
func (m *Manager) Touch(names []string) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range names {
		if e := m.entries[n]; e != nil {
			e.lastUsed = now
		}
	}
}

// Ensure makes the names that one request uses usable together: those that
// are loaded are touched first, those that MaxLoaded pushed out are brought
// back, pushing out the least recently used others. It returns like Load. More
// distinct names than MaxLoaded are ErrCapacity, unknown ones ErrNotFound.
func (m *Manager) Ensure(ctx context.Context, names []string) (EnsureResult, error) {
	if m.o.Disabled {
		return EnsureResult{}, ErrDisabled
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(names)))
	if m.o.MaxLoaded > 0 && len(distinct) > m.o.MaxLoaded {
		return EnsureResult{}, fmt.Errorf("request with %d distinct adapters: %w: %d", len(distinct), ErrCapacity, m.o.MaxLoaded)
	}
	if err := m.usable(distinct); err != nil {
		return EnsureResult{}, err
	}
	m.Touch(distinct)
	evicted, err := m.bringBack(distinct)
	if err != nil {
		return EnsureResult{}, err
	}
	r := EnsureResult{Evicted: evicted}
	for _, n := range names {
		m.mu.Lock()
		e, digest := m.entries[n], ""
		if e != nil {
			digest = e.rec.Digest
		}
		m.mu.Unlock()
		if e == nil {
			return EnsureResult{}, nameError(n, ErrNotFound)
		}
		if err := m.pushed(ctx, digest, ""); err != nil {
			return EnsureResult{}, nameError(n, err)
		}
		one, err := m.result(n, nil)
		if err != nil {
			return EnsureResult{}, nameError(n, err)
		}
		r.Adapters, r.Revision = append(r.Adapters, one.Adapter), one.Revision
	}
	return r, nil
}

// usable refuses names that are not loaded and cannot be brought back.
func (m *Manager) usable(names []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range names {
		e := m.entries[n]
		switch {
		case e == nil || e.rec.State == store.StateDraining:
			return nameError(n, fmt.Errorf("%w%s", ErrNotFound, m.known()))
		case e.rec.State == store.StateFetching:
			return nameError(n, fmt.Errorf("is still being fetched: %w", ErrUnavailable))
		case e.rec.State == store.StateFailed:
			return nameError(n, fmt.Errorf("has failed: %s: %w", e.rec.Message, ErrUnavailable))
		case e.fault != nil:
			return nameError(n, fmt.Errorf("has failed: %w: %w", e.fault, ErrUnavailable))
		}
	}
	return nil
}

// bringBack marks ready names as loaded in one transaction.
func (m *Manager) bringBack(names []string) (evicted []string, err error) {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	idle := !slices.ContainsFunc(names, func(n string) bool {
		e := m.entries[n]
		return e != nil && e.rec.State == store.StateReady
	})
	m.mu.Unlock()
	if idle {
		return nil, nil
	}
	_, err = m.commitLocked(func() ([]store.Record, []string, error) {
		keep := map[string]bool{}
		var put []store.Record
		for _, n := range names {
			keep[n] = true
			if e := m.entries[n]; e != nil && e.rec.State == store.StateReady {
				r := e.rec
				r.State, r.Updated, r.LastUsed = store.StateLoaded, time.Now().UTC(), time.Now().UTC()
				put = append(put, r)
			}
		}
		back := len(put)
		put, err := m.evict(put, keep)
		if err == nil {
			evicted = namesOf(put[back:])
		}
		return put, nil, err
	}, nil)
	return evicted, err
}
