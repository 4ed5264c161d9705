package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/store"
)

// UnloadRequest names what is to be removed.
type UnloadRequest struct {
	// Name is an adapter, or one version of it that does not answer by default
	// (adapterref).
	Name string
	// Force aborts sequences that run instead of waiting for them; DrainTimeout,
	// if positive, does so when they have not ended by themselves in time.
	Force        bool
	DrainTimeout time.Duration
	// AllowMissing makes it no error when the name is not there.
	AllowMissing bool
	// Etag and RequestID: see LoadRequest.
	Etag, RequestID string
}

// Unload removes a name and all its versions: new requests are refused at once,
// running ones finish (with force they are aborted), then the workers drop it,
// and files that no other name uses are removed. It returns when all that is
// done. When ctx ends before, the rest happens in the background. Groups that
// are not connected are not waited for: they drop it when they are back.
func (m *Manager) Unload(ctx context.Context, req UnloadRequest) (Result, error) {
	r, err := m.once(ctx, request{"unload", req.RequestID, req.Name, req}, func(ctx context.Context, done *store.Request) (Result, error) {
		m.mu.Lock()
		e, v := m.find(req.Name)
		isVersion := e != nil && e.rec.Name != req.Name
		m.mu.Unlock()
		if isVersion {
			if v == nil {
				return Result{}, m.missing(req, ErrVersionNotFound)
			}
			return m.unloadVersion(ctx, req, unit{e.rec.Name, v.Number}, done)
		}
		return m.unload(ctx, req, done)
	})
	if req.AllowMissing && (errors.Is(err, ErrNotFound) || errors.Is(err, ErrVersionNotFound)) {
		return Result{Adapter: Adapter{Name: req.Name, State: Removed}, Revision: m.Revision()}, nil
	}
	return r, nameError(req.Name, err)
}

// missing is the error about a name that is not there.
func (m *Manager) missing(req UnloadRequest, kind error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Errorf("%w%s", kind, m.known())
}

func (m *Manager) unload(ctx context.Context, req UnloadRequest, done *store.Request) (Result, error) {
	gone, was, err := m.beginUnload(ctx, req, done)
	if err != nil {
		return Result{}, err
	}
	if was != nil {
		var digests []string
		for _, v := range gone.Versions {
			digests = append(digests, v.Digest)
		}
		if err := m.awaitDrop(ctx, req.Force, req.DrainTimeout, digests, func() bool { return m.entries[req.Name] != was }); err != nil {
			return Result{}, err
		}
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
func (m *Manager) beginUnload(ctx context.Context, req UnloadRequest, done *store.Request) (gone Adapter, was *entry, err error) {
	name := req.Name
	m.mu.Lock()
	begun := m.entries[name] != nil
	err = m.checkEtag(name, req.Etag)
	m.mu.Unlock()
	if err != nil && begun {
		return Adapter{}, nil, err
	}
	_, unlock, err := m.lockName(ctx, name, true)
	if err != nil {
		return Adapter{}, nil, err
	}
	defer unlock()
	gone = Adapter{Name: name, State: Removed}
	err = m.commit(func() (change, error) {
		c := change{why: "a client unloaded it", done: done}
		e := m.entries[name]
		if e == nil {
			if begun { // its load was ended by this call, and left nothing
				return c, nil
			}
			return change{}, fmt.Errorf("%w%s", ErrNotFound, m.known())
		}
		if err := m.checkEtag(name, req.Etag); err != nil {
			return change{}, err
		}
		gone, was = m.view(e), e
		gone.State, gone.Placements, gone.Message, gone.Loading = Removed, nil, "", nil
		r := e.rec
		if len(r.Versions) == 0 && r.State != store.StateDraining { // an interrupted load: workers cannot have it
			c.del = []string{name}
			return c, nil
		}
		if again := r.State == store.StateDraining; again && r.Force == (r.Force || req.Force) && req.DrainTimeout == 0 {
			return c, nil
		}
		r.State, r.Updated, r.Generation = store.StateDraining, m.now(), 0
		r.Force, r.DrainTimeout = r.Force || req.Force, max(0, req.DrainTimeout)
		c.put = []store.Record{r}
		return c, nil
	}, func() {
		if e := m.entries[name]; e != nil && req.DrainTimeout > 0 {
			e.forceAt = time.Now().Add(req.DrainTimeout)
		}
	})
	return gone, was, err
}

// unloadVersion removes one version, which ends its share of new requests.
func (m *Manager) unloadVersion(ctx context.Context, req UnloadRequest, u unit, done *store.Request) (Result, error) {
	_, unlock, err := m.lockName(ctx, u.name, false)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	var digest string
	err = m.commit(func() (change, error) {
		e := m.entries[u.name]
		switch {
		case e == nil || e.rec.State != store.StateLive || e.version(u.number) == nil:
			return change{}, fmt.Errorf("%w%s", ErrVersionNotFound, m.known())
		case e.rec.Current == u.number:
			return change{}, fmt.Errorf("%w; roll back first, or unload all of %q", ErrVersionInUse, u.name)
		}
		if err := m.checkEtag(u.name, req.Etag); err != nil {
			return change{}, err
		}
		r := editable(e.rec)
		digest = e.version(u.number).Digest
		removeVersion(&r, u.number)
		r.Generation, r.Updated = 0, m.now()
		return change{put: []store.Record{r}, why: "a client unloaded a version", done: done}, nil
	}, nil)
	if err != nil {
		return Result{}, err
	}
	if err := m.versionGone(ctx, digest, req); err != nil {
		return Result{}, err
	}
	r, err := m.result(u.name, nil)
	return r, err
}

// versionGone waits until no connected group holds a digest that nobody wants.
func (m *Manager) versionGone(ctx context.Context, digest string, req UnloadRequest) error {
	force := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.forcing[digest], m.desired = true, nil
		m.notify()
	}
	if req.Force {
		force()
	} else if req.DrainTimeout > 0 {
		defer time.AfterFunc(req.DrainTimeout, force).Stop()
	}
	return m.awaitDrop(ctx, req.Force, req.DrainTimeout, []string{digest}, func() bool {
		_, wanted := m.wanted()[digest]
		return wanted || !m.heldAnywhere(digest)
	})
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

// resumeDrains lets the time that drains have begin anew after a restart.
func (m *Manager) resumeDrains() {
	for _, e := range m.entries {
		if e.rec.State == store.StateDraining && e.rec.DrainTimeout > 0 {
			e.forceAt = time.Now().Add(e.rec.DrainTimeout)
		}
	}
}

// finishDrains removes draining names once no connected group holds their
// digests or other names want them, and forces those whose time is over.
func (m *Manager) finishDrains(ctx context.Context) {
	wait := m.o.RetryMin
	for {
		m.mu.Lock()
		due := m.forceDue()
		ready := m.drainedNames()
		changed := m.changed
		m.mu.Unlock()
		var retry <-chan time.Time
		if len(ready) > 0 {
			if err := m.commit(func() (change, error) { return change{del: m.drainedNames()}, nil }, nil); err == nil {
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
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// forceDue lets drains abort their sequences whose time is over, and tells when
// the next one's will be. mu is held.
func (m *Manager) forceDue() <-chan time.Time {
	next := time.Duration(-1)
	now := time.Now()
	for _, e := range m.entries {
		if e.forceAt.IsZero() || e.rec.Force || e.rec.State != store.StateDraining {
			continue
		}
		left := e.forceAt.Sub(now)
		switch {
		case left <= 0:
			e.rec.Force, m.desired = true, nil
			m.notify()
		case next < 0 || left < next:
			next = left
		}
	}
	if next < 0 {
		return nil
	}
	return time.After(next)
}

// drainedNames is called with mu held.
func (m *Manager) drainedNames() []string {
	var names []string
	for name, e := range m.entries {
		if e.rec.State != store.StateDraining {
			continue
		}
		busy := slices.ContainsFunc(e.rec.Versions, func(v store.Version) bool {
			_, wanted := m.wanted()[v.Digest]
			return !wanted && m.heldAnywhere(v.Digest)
		})
		if !busy {
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
