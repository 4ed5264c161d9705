package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/store"
)

// Unload removes a name: new requests are refused at once, running ones finish
// (with force they are aborted), then the workers drop it, and files that no
// other name uses are removed. It returns when all that is done. When ctx ends
// before, the rest happens in the background. Groups that are not connected
// are not waited for: they drop it when they are back.
func (m *Manager) Unload(ctx context.Context, name string, force bool) (Result, error) {
	r, err := m.unload(ctx, name, force)
	return r, nameError(name, err)
}

func (m *Manager) unload(ctx context.Context, name string, force bool) (Result, error) {
	gone, was, err := m.beginUnload(ctx, name, force)
	if err != nil {
		return Result{}, err
	}
	if err := m.await(ctx, 0, func() (bool, bool) { return was == nil || m.entries[name] != was, true }); err != nil {
		return Result{}, err
	}
	m.commitMu.Lock() // the change that removed it also removes its blobs
	defer m.commitMu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	return Result{Adapter: gone, Revision: m.published()}, nil
}

// beginUnload takes the name out of the catalogue and lets its drain begin. It
// returns the adapter as it will have been, and its entry, nil when there is
// nothing to wait for.
func (m *Manager) beginUnload(ctx context.Context, name string, force bool) (gone Adapter, was *entry, err error) {
	m.mu.Lock()
	begun := m.entries[name] != nil
	m.mu.Unlock()
	_, unlock, err := m.lockName(ctx, name, true)
	if err != nil {
		return Adapter{}, nil, err
	}
	defer unlock()
	gone = Adapter{Name: name, State: Removed}
	_, err = m.commit(func() ([]store.Record, []string, error) {
		e := m.entries[name]
		if e == nil {
			if begun { // its load was ended by this call, and left nothing
				return nil, nil, nil
			}
			return nil, nil, fmt.Errorf("%w%s", ErrNotFound, m.known())
		}
		gone, was = m.view(e), e
		gone.State, gone.Placements, gone.Message = Removed, nil, ""
		e.force = e.force || force
		switch {
		case e.rec.State == store.StateDraining:
			return nil, nil, nil
		case e.rec.Digest == "": // an interrupted load: workers cannot have it
			return nil, []string{name}, nil
		}
		r := e.rec
		r.State, r.Updated = store.StateDraining, time.Now().UTC()
		return []store.Record{r}, nil, nil
	}, nil)
	return gone, was, err
}

// known lists the loaded names for the error about one that is not. mu is held.
func (m *Manager) known() string {
	const most = 20
	var names []string
	for _, n := range m.sortedNames() {
		if m.isLoaded(n) {
			names = append(names, n)
		}
	}
	switch {
	case len(names) == 0:
		return "; no adapter is loaded"
	case len(names) > most:
		return fmt.Sprintf("; loaded are %s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return "; loaded: " + strings.Join(names, ", ")
}

// finishDrains removes draining names once no connected group holds their
// digest or another name wants it.
func (m *Manager) finishDrains(ctx context.Context) {
	wait := m.o.RetryMin
	for {
		m.mu.Lock()
		ready := m.drainedNames()
		changed := m.changed
		m.mu.Unlock()
		var retry <-chan time.Time
		if len(ready) > 0 {
			if _, err := m.commit(func() ([]store.Record, []string, error) { return nil, m.drainedNames(), nil }, nil); err == nil {
				wait = m.o.RetryMin
				continue
			} else {
				m.log.Error("unloaded adapters not removed from the registry", zap.Strings("names", ready), zap.Error(err))
			}
			retry, wait = time.After(wait), min(2*wait, m.o.RetryMax)
			changed = nil // a failing disk is not asked at every change
		}
		select {
		case <-changed:
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// drainedNames is called with mu held.
func (m *Manager) drainedNames() []string {
	var names []string
	var wanted map[string]content
	for name, e := range m.entries {
		if e.rec.State != store.StateDraining {
			continue
		}
		if wanted == nil {
			wanted = m.wanted()
		}
		if _, ok := wanted[e.rec.Digest]; ok || !m.heldAnywhere(e.rec.Digest) {
			names = append(names, name)
		}
	}
	return names
}

// heldAnywhere tells whether a connected group may have the digest. A group
// that was never asked may, too. mu is held.
func (m *Manager) heldAnywhere(digest string) bool {
	for _, g := range m.groups {
		if _, held := g.held[digest]; held || g.link == linkNew {
			return true
		}
	}
	return false
}

// Update changes a pin, if pinned is not nil, and labels: those given are set,
// an empty value removes one.
func (m *Manager) Update(ctx context.Context, name string, pinned *bool, labels map[string]string) (Result, error) {
	r, err := m.update(ctx, name, pinned, labels)
	return r, nameError(name, err)
}

func (m *Manager) update(ctx context.Context, name string, pinned *bool, labels map[string]string) (Result, error) {
	_, unlock, err := m.lockName(ctx, name, false)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	_, err = m.commit(func() ([]store.Record, []string, error) {
		e := m.entries[name]
		if e == nil || e.rec.State == store.StateDraining {
			return nil, nil, fmt.Errorf("%w%s", ErrNotFound, m.known())
		}
		r := e.rec
		r.Labels = maps.Clone(r.Labels)
		for k, v := range labels {
			if v == "" {
				delete(r.Labels, k)
				continue
			}
			if r.Labels == nil {
				r.Labels = map[string]string{}
			}
			r.Labels[k] = v
		}
		if pinned != nil {
			r.Pinned = *pinned
		}
		r.Updated = time.Now().UTC()
		return []store.Record{r}, nil, errors.Join(checkLabels(r.Labels), m.checkPins(name, r.Digest, r.Pinned))
	}, nil)
	if err != nil {
		return Result{}, err
	}
	return m.result(name, nil)
}
