package adaptermgr

import (
	"context"
	"fmt"
	"slices"

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

// Touch notes that names, or versions of them, are in use now, for the eviction
// order. Those that are not known are passed over. It never waits.
func (m *Manager) Touch(names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.nextUse()
	for _, n := range names {
		if e, v := m.find(n); v != nil {
			e.used[v.Number] = now
			m.countUse(e, v.Number)
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
	m.touchAhead(distinct)
	evicted, err := m.bringBack(distinct)
	if err != nil {
		return EnsureResult{}, err
	}
	r := EnsureResult{Evicted: evicted}
	for _, n := range names {
		m.mu.Lock()
		e, v := m.find(n)
		var name, digest string
		if v != nil {
			name, digest = e.rec.Name, v.Digest
		}
		m.mu.Unlock()
		if v == nil {
			return EnsureResult{}, nameError(n, ErrNotFound)
		}
		if err := m.pushed(ctx, digest, ""); err != nil {
			return EnsureResult{}, nameError(n, err)
		}
		one, err := m.result(name, nil)
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
		e, v := m.find(n)
		switch {
		case e == nil || e.rec.State == store.StateDraining:
			return nameError(n, fmt.Errorf("%w%s", ErrNotFound, m.known()))
		case e.rec.State == store.StateFetching:
			return nameError(n, fmt.Errorf("is still being fetched: %w", ErrUnavailable))
		case e.rec.State == store.StateFailed:
			return nameError(n, fmt.Errorf("has failed: %s: %w", e.rec.Message, ErrUnavailable))
		case v == nil:
			return nameError(n, fmt.Errorf("%w%s", ErrVersionNotFound, numbers(&e.rec)))
		case m.faults[v.Digest] != nil:
			return nameError(n, fmt.Errorf("has failed: %w: %w", m.faults[v.Digest], ErrUnavailable))
		}
	}
	return nil
}

// bringBack marks names, or versions of them, as loaded in one transaction.
func (m *Manager) bringBack(names []string) (evicted []string, err error) {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	idle := !slices.ContainsFunc(names, func(n string) bool {
		e, v := m.find(n)
		return v != nil && e.rec.State == store.StateLive && !v.Loaded
	})
	m.mu.Unlock()
	if idle {
		return nil, nil
	}
	err = m.commitLocked(func() (change, error) {
		c := change{why: "a request used it, or it made room for one"}
		keep := map[unit]bool{}
		at := map[string]int{}
		for _, n := range names {
			e, v := m.find(n)
			if v == nil || e.rec.State != store.StateLive {
				continue
			}
			keep[unit{e.rec.Name, v.Number}] = true
			if v.Loaded {
				continue
			}
			i, ok := at[e.rec.Name]
			if !ok {
				i = len(c.put)
				at[e.rec.Name] = i
				c.put = append(c.put, editable(e.rec))
			}
			w := versionOf(&c.put[i], v.Number)
			w.Loaded, c.put[i].Updated = true, m.now()
			m.nextUse().of(w)
		}
		var err error
		c.put, evicted, err = m.evict(c.put, keep)
		return c, err
	}, nil)
	return evicted, err
}
