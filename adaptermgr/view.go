package adaptermgr

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"chorale/adaptermgr/source"
	"chorale/adaptermgr/store"
)

// view makes the public form of an entry, in which sources have no secrets. mu
// is held.
func (m *Manager) view(e *entry) Adapter {
	r := &e.rec
	a := Adapter{
		Name: r.Name, Owner: r.Owner, Message: r.Message, Source: source.Shown(r.Source), Pinned: r.Pinned, Labels: r.Labels,
		Created: r.Created, Updated: r.Updated, Etag: etag(r), Loading: e.progress.shown(), History: history(r),
	}
	for i := range r.Versions {
		a.Versions = append(a.Versions, m.viewVersion(e, &r.Versions[i]))
	}
	for i := range a.Versions {
		v := &a.Versions[i]
		if v.Number != r.Current {
			continue
		}
		v.Weight = 100 - weights(r)
		a.Version, a.Digest, a.Source, a.BaseModel = v.Number, v.Digest, v.Source, v.BaseModel
		a.MaxRank, a.TargetModules, a.SizeBytes, a.LastUsed = v.MaxRank, v.TargetModules, v.SizeBytes, v.LastUsed
		a.State, a.Message, a.Placements = v.State, v.Message, v.Placements
	}
	switch r.State {
	case store.StateFetching:
		a.State = Fetching
		if e.progress != nil {
			a.State = e.progress.State
		}
	case store.StateFailed:
		a.State, a.Message = Failed, r.Message
	case store.StateLive:
		if a.State == Draining { // it was pushed out; its sequences end
			a.State = Ready
		}
	}
	return a
}

// shown is the public form of how far a load has come.
func (p *Progress) shown() *Progress {
	if p == nil {
		return nil
	}
	q := *p
	q.Source = source.Shown(q.Source)
	return &q
}

func (m *Manager) viewVersion(e *entry, v *store.Version) Version {
	out := Version{
		Number: v.Number, Digest: v.Digest, Source: source.Shown(v.Source), Labels: v.Labels, Weight: v.Weight, MaxRank: v.MaxRank, Ranks: v.Ranks,
		SumRanks: v.SumRanks, TargetModules: v.TargetModules, SizeBytes: v.SizeBytes, BaseModel: v.BaseModel,
		Created: v.Created, LastUsed: e.lastUsed(v.Number),
	}
	out.State, out.Message = m.versionState(&e.rec, v)
	if v.Loaded || out.State == Draining {
		out.Placements = m.placements(v.Digest)
	}
	return out
}

// versionState tells what a version is from what is wanted and where it is, and
// why if that needs saying. mu is held.
func (m *Manager) versionState(r *store.Record, v *store.Version) (State, string) {
	fault := m.faults[v.Digest]
	switch {
	case r.State == store.StateDraining:
		return Draining, ""
	case fault != nil:
		return Failed, fault.Error()
	case v.Loaded:
		return m.loadState(v.Digest)
	}
	if _, wanted := m.wanted()[v.Digest]; !wanted && m.isHeld(v.Digest) {
		return Draining, ""
	}
	return Ready, ""
}

// isHeld tells whether a connected group has a digest, also on its way out. mu
// is held.
func (m *Manager) isHeld(digest string) bool {
	return slices.ContainsFunc(m.groups, func(g *group) bool { _, held := g.held[digest]; return held })
}

// loadState tells what a wanted version is from where it is. mu is held.
func (m *Manager) loadState(digest string) (State, string) {
	var errs []string
	refused, connected := 0, false
	for _, g := range m.groups {
		t := g.tries[digest]
		switch {
		case g.has(digest):
			return Loaded, ""
		case g.link != linkUp && g.linkErr != nil:
			errs = append(errs, g.w.Address()+": "+g.linkErr.Error())
		case t != nil:
			errs = append(errs, g.w.Address()+": "+t.err.Error())
			if errors.Is(t.err, ErrRejected) {
				refused++
			}
		}
		connected = connected || g.link == linkUp
	}
	message := strings.Join(errs, "; ")
	if refused > 0 && refused == len(m.groups) {
		return Failed, message
	}
	if !connected {
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
	since         []uint64  // the revision at which each was seen changed
}

// lookAgain lets the next picture show anew whoever has one of the digests: what
// workers hold, and what others want, is part of it. mu is held.
func (m *Manager) lookAgain(digests ...string) {
	for _, e := range m.entries {
		if e.seen && slices.ContainsFunc(e.rec.Versions, func(v store.Version) bool { return slices.Contains(digests, v.Digest) }) {
			e.seen = false
		}
	}
}

// picture returns the catalogue of this moment; equal moments share one. mu is
// held.
func (m *Manager) picture() *catalogue {
	if m.cache != nil && m.cache.seq == m.seq {
		return m.cache
	}
	c := &catalogue{seq: m.seq, revision: m.published()}
	var old []Adapter
	var oldSince []uint64
	if m.cache != nil {
		old, oldSince = m.cache.adapters, m.cache.since
	}
	names := m.sortedNames()
	c.adapters, c.since = make([]Adapter, len(names)), make([]uint64, len(names))
	for i, name := range names {
		for len(old) > 0 && old[0].Name < name {
			old, oldSince = old[1:], oldSince[1:]
		}
		e, was := m.entries[name], len(old) > 0 && old[0].Name == name
		if was && e.seen {
			c.adapters[i], c.since[i] = old[0], oldSince[0]
			continue
		}
		c.adapters[i], c.since[i], e.seen = m.view(e), c.revision, true
		if was && old[0].equal(c.adapters[i]) {
			c.since[i] = oldSince[0]
		}
	}
	m.cache = c
	return c
}

// removal is a name that is gone.
type removal struct {
	name     string
	revision uint64
}

// maxGone is how many removals are kept for watches that go on.
const maxGone = 1024

// removed notes that a name goes with the change that is being taken over. mu
// is held.
func (m *Manager) removed(name string) {
	// The change's own revision is not yet m.revision's; it is larger, as any
	// that a watcher has seen is smaller.
	m.gone = append(m.gone, removal{name, (m.revision + 1) << 32})
	if len(m.gone) > maxGone {
		m.kept = m.gone[0].revision
		m.gone = m.gone[1:]
	}
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

// Filter chooses adapters for List.
type Filter struct {
	// Owner, "": any.
	Owner string
	// Labels must all be there with these values.
	Labels map[string]string
}

func (f *Filter) has(a *Adapter) bool {
	if f.Owner != "" && f.Owner != a.Owner {
		return false
	}
	for k, v := range f.Labels {
		if have, ok := a.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// List returns up to limit adapters by name, those after the name after; more
// is true when there are others behind them. limit ≤ 0: all.
func (m *Manager) List(after string, limit int, f Filter) (adapters []Adapter, more bool, revision uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.picture()
	i, found := slices.BinarySearchFunc(c.adapters, after, func(a Adapter, n string) int { return cmp.Compare(a.Name, n) })
	if found {
		i++
	}
	for _, a := range c.adapters[i:] {
		if !f.has(&a) {
			continue
		}
		if limit > 0 && len(adapters) == limit {
			return adapters, true, c.revision
		}
		if e := m.entries[a.Name]; e != nil { // uses are no change
			a.LastUsed, a.Versions = e.lastUsed(a.Version), slices.Clone(a.Versions)
			for i := range a.Versions {
				a.Versions[i].LastUsed = e.lastUsed(a.Versions[i].Number)
			}
		}
		adapters = append(adapters, a)
	}
	return adapters, false, c.revision
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

// CompactedError is an ErrCompacted that tells where to begin anew.
type CompactedError struct {
	// From is the revision that was asked for, List the one of now: list all, then
	// watch from the list's revision.
	From, List uint64
}

// Error tells what to do.
func (e *CompactedError) Error() string {
	return fmt.Sprintf("revision %d: %v; list the adapters (revision %d) and watch from there", e.From, ErrCompacted, e.List)
}

// Unwrap gives ErrCompacted.
func (e *CompactedError) Unwrap() error { return ErrCompacted }

// Watch sends the whole catalogue and then changes, until ctx or Run ends and
// the channel is closed. A watcher that is slow gets several changes as one,
// and misses states that passed in between; it never holds up the manager.
//
// With from, the revision of an earlier answer or Change, it sends no catalogue
// but what has changed since. When that is not known any more (a restart, too
// many removals) the error is a *CompactedError.
func (m *Manager) Watch(ctx context.Context, from uint64) (<-chan Change, error) {
	out := make(chan Change)
	var last *catalogue
	var first *Change
	if from != 0 {
		c, now, err := m.resume(from)
		if err != nil {
			return nil, err
		}
		first, last = c, now
	}
	go func() {
		defer close(out)
		if first != nil {
			select {
			case out <- *first:
			case <-ctx.Done():
				return
			case <-m.closed:
				return
			}
		}
		m.follow(ctx, last, out)
	}()
	return out, nil
}

// resume tells what has changed since a revision, nil if nothing has.
func (m *Manager) resume(from uint64) (*Change, *catalogue, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.picture()
	if from < m.kept || from > now.revision {
		return nil, nil, &CompactedError{From: from, List: now.revision}
	}
	if from == now.revision {
		return nil, now, nil
	}
	c := &Change{Revision: now.revision}
	for i, since := range now.since {
		if since > from {
			c.Adapters = append(c.Adapters, now.adapters[i])
		}
	}
	for _, g := range m.gone {
		if _, again := m.entries[g.name]; g.revision > from && !again && !slices.Contains(c.Removed, g.name) {
			c.Removed = append(c.Removed, g.name)
		}
	}
	return c, now, nil
}

// follow sends what differs from last, again and again.
func (m *Manager) follow(ctx context.Context, last *catalogue, out chan<- Change) {
	for {
		m.mu.Lock()
		changed := m.changed
		now := m.picture()
		m.mu.Unlock()
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
}

// diff merges two lists in order of names.
func diff(last, now *catalogue) (Change, bool) {
	if last == nil {
		return Change{Revision: now.revision, Snapshot: true, Adapters: slices.Clone(now.adapters)}, true
	}
	c := Change{Revision: now.revision}
	old, oldSince := last.adapters, last.since
	for i := range now.adapters {
		a := &now.adapters[i]
		for len(old) > 0 && old[0].Name < a.Name {
			c.Removed, old, oldSince = append(c.Removed, old[0].Name), old[1:], oldSince[1:]
		}
		if len(old) > 0 && old[0].Name == a.Name {
			if oldSince[0] != now.since[i] && !old[0].equal(*a) {
				c.Adapters = append(c.Adapters, *a)
			}
			old, oldSince = old[1:], oldSince[1:]
			continue
		}
		c.Adapters = append(c.Adapters, *a)
	}
	for _, a := range old {
		c.Removed = append(c.Removed, a.Name)
	}
	return c, now.revision != last.revision
}
