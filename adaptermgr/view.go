package adaptermgr

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"chorale/adaptermgr/store"
)

// view makes the public form of an entry. mu is held.
func (m *Manager) view(e *entry) Adapter {
	r := e.rec
	a := Adapter{
		Name: r.Name, Digest: r.Digest, Message: r.Message, Source: r.Source, Pinned: r.Pinned, Labels: r.Labels,
		MaxRank: r.MaxRank, TargetModules: r.TargetModules, SizeBytes: r.SizeBytes,
		Created: r.Created, Updated: r.Updated, Version: r.Version, BaseModel: r.BaseModel,
	}
	switch r.State {
	case store.StateFetching:
		a.State = cmp.Or(e.phase, Fetching)
	case store.StateReady:
		a.State = Ready
	case store.StateFailed:
		a.State = Failed
	case store.StateDraining:
		a.State, a.Placements = Draining, m.placements(r.Digest)
	case store.StateLoaded:
		a.Placements = m.placements(r.Digest)
		a.State, a.Message = m.loadState(e, a.Placements)
	}
	if e.fault != nil {
		a.State, a.Message = Failed, e.fault.Error()
	}
	return a
}

// loadState tells what a wanted adapter is from where it is. mu is held.
func (m *Manager) loadState(e *entry, placements []Placement) (State, string) {
	var errs []string
	for _, p := range placements {
		if p.Loaded {
			return Loaded, ""
		}
		if p.Error != "" {
			errs = append(errs, p.Worker+": "+p.Error)
		}
	}
	message := strings.Join(errs, "; ")
	if st := m.pushStatus(e.rec.Digest, ""); st.refused > 0 && st.refused == len(m.groups) {
		return Failed, message
	}
	if len(placements) == 0 || !slices.ContainsFunc(m.groups, func(g *group) bool { return g.link == linkUp }) {
		message = strings.TrimSuffix("no worker group is connected; "+message, "; ")
	}
	return Loading, message
}

func (m *Manager) placements(digest string) []Placement {
	out := make([]Placement, 0, len(m.groups))
	for _, g := range m.groups {
		p := Placement{Worker: g.w.Address(), Loaded: g.has(digest)}
		switch {
		case g.link != linkUp && g.linkErr != nil:
			p.Error = g.linkErr.Error()
		case !p.Loaded && g.tries[digest] != nil:
			p.Error = g.tries[digest].err.Error()
		}
		out = append(out, p)
	}
	return out
}

// catalogue is an immutable picture of all adapters.
type catalogue struct {
	seq, revision uint64
	adapters      []Adapter // by name
}

// catalogue returns the picture of this moment; equal moments share one.
func (m *Manager) catalogue() *catalogue {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cache == nil || m.cache.seq != m.seq {
		c := &catalogue{seq: m.seq, revision: m.published()}
		for _, name := range m.sortedNames() {
			c.adapters = append(c.adapters, m.view(m.entries[name]))
		}
		m.cache = c
	}
	return m.cache
}

// Get returns one adapter.
func (m *Manager) Get(name string) (Adapter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[name]
	if e == nil {
		return Adapter{}, nameError(name, fmt.Errorf("%w%s", ErrNotFound, m.known()))
	}
	return m.view(e), nil
}

// List returns up to limit adapters by name, those after the name after; more
// is true when there are others behind them. limit ≤ 0: all.
func (m *Manager) List(after string, limit int) (adapters []Adapter, more bool, revision uint64) {
	c := m.catalogue()
	i, found := slices.BinarySearchFunc(c.adapters, after, func(a Adapter, n string) int { return cmp.Compare(a.Name, n) })
	if found {
		i++
	}
	rest := c.adapters[i:]
	if limit > 0 && len(rest) > limit {
		return slices.Clone(rest[:limit]), true, c.revision
	}
	return slices.Clone(rest), false, c.revision
}

// Revision returns the revision of this moment; it grows with every change.
func (m *Manager) Revision() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.published()
}

// Change is what a watcher gets.
type Change struct {
	// Revision grows from one Change to the next. A Change may bring nothing
	// but a new one, so that who waits for a revision gets there.
	Revision uint64
	// Snapshot is true for the first Change: Adapters is everything.
	Snapshot bool
	Adapters []Adapter
	// Removed are names that are gone.
	Removed []string
}

// Watch sends the whole catalogue and then changes, until ctx or Run ends and
// the channel is closed. A watcher that is slow gets several changes as one,
// and misses states that passed in between; it never holds up the manager.
func (m *Manager) Watch(ctx context.Context) <-chan Change {
	out := make(chan Change)
	go func() {
		defer close(out)
		var last *catalogue
		for {
			m.mu.Lock()
			changed := m.changed
			m.mu.Unlock()
			now := m.catalogue()
			change, differs := diff(last, now)
			send := out
			if !differs {
				send, last = nil, now
			}
			select {
			case send <- change:
				last = now
			case <-changed:
			case <-ctx.Done():
				return
			case <-m.closed:
				return
			}
		}
	}()
	return out
}

// diff merges two lists in order of names.
func diff(last, now *catalogue) (Change, bool) {
	if last == nil {
		return Change{Revision: now.revision, Snapshot: true, Adapters: slices.Clone(now.adapters)}, true
	}
	c := Change{Revision: now.revision}
	old := last.adapters
	for _, a := range now.adapters {
		for len(old) > 0 && old[0].Name < a.Name {
			c.Removed, old = append(c.Removed, old[0].Name), old[1:]
		}
		if len(old) > 0 && old[0].Name == a.Name {
			if !old[0].equal(a) {
				c.Adapters = append(c.Adapters, a)
			}
			old = old[1:]
			continue
		}
		c.Adapters = append(c.Adapters, a)
	}
	for _, a := range old {
		c.Removed = append(c.Removed, a.Name)
	}
	return c, now.revision != last.revision
}
