package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"chorale/adaptermgr/source"
	"chorale/adaptermgr/store"
)

const (
	maxName   = 256
	maxLabels = 64
	maxLabel  = 1024
)

// LoadRequest names an adapter and where it comes from.
type LoadRequest struct {
	Name, Source string
	Pinned       bool
	Labels       map[string]string
	// MustBeNew refuses when the name is loaded, whatever its content.
	MustBeNew bool
	// Replace puts other content under a loaded name.
	Replace bool
}

// Result is an adapter after a change.
type Result struct {
	Adapter Adapter
	// Revision is that of a Change in which the result is visible, or earlier.
	Revision uint64
	// Evicted are the names that MaxLoaded pushed out.
	Evicted []string
}

// Load makes an adapter usable and returns when every connected worker group
// has it or has failed to take it, at least one having it. Loading the content
// that the name has is no error and changes nothing, unless MustBeNew.
//
// When no group can take it in time the error is ErrUnavailable; the adapter
// stays registered then and is pushed as soon as a group can, unless it was to
// replace another, which then stays. Errors of the artifact leave nothing.
func (m *Manager) Load(ctx context.Context, req LoadRequest) (Result, error) {
	r, err := m.load(ctx, req)
	return r, nameError(req.Name, err)
}

func (m *Manager) load(ctx context.Context, req LoadRequest) (Result, error) {
	if m.o.Disabled {
		return Result{}, ErrDisabled
	}
	if err := errors.Join(checkName(req.Name), checkLabels(req.Labels)); err != nil {
		return Result{}, err
	}
	lock, unlock, err := m.lockName(ctx, req.Name, false)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if err := m.drained(ctx, req.Name); err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-m.closed:
			cancel(ErrClosed)
		case <-ctx.Done():
		}
	}()
	m.mu.Lock()
	lock.cancel = cancel
	m.mu.Unlock()
	if err := m.reserve(req); err != nil {
		return Result{}, err
	}
	r, err := m.prepareAndRegister(ctx, req)
	if err != nil {
		err = errors.Join(err, m.unreserve(req.Name))
	}
	return r, err
}

// checkName accepts what can stand in a request's model field and on a line
// of a log.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("%w: 1 to %d bytes", ErrName, maxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: it holds control characters or is not UTF-8", ErrName)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("%w: it begins or ends with a blank", ErrName)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("%w: %d, at most %d", ErrLabel, len(labels), maxLabels)
	}
	for k, v := range labels {
		if k == "" || len(k) > maxLabel || len(v) > maxLabel || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("%w: %q", ErrLabel, k)
		}
	}
	return nil
}

// drained waits until a name that is on its way out is gone.
func (m *Manager) drained(ctx context.Context, name string) error {
	return m.await(ctx, 0, func() (bool, bool) {
		e := m.entries[name]
		return e == nil || e.rec.State != store.StateDraining, true
	})
}

// reserve registers a name that is not taken, so that a crash leaves a trace
// of the load.
func (m *Manager) reserve(req LoadRequest) error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	taken := m.entries[req.Name] != nil
	m.mu.Unlock()
	if taken {
		return nil
	}
	now := time.Now().UTC()
	_, err := m.commitLocked(func() ([]store.Record, []string, error) {
		return []store.Record{{
			Name: req.Name, State: store.StateFetching, Source: req.Source, Pinned: req.Pinned,
			Labels: maps.Clone(req.Labels), Created: now, Updated: now,
		}}, nil, nil
	}, func() { m.entries[req.Name].phase = Fetching })
	return err
}

// unreserve takes a reservation back after a failure.
func (m *Manager) unreserve(name string) error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	e := m.entries[name]
	reserved := e != nil && e.rec.State == store.StateFetching
	m.mu.Unlock()
	if !reserved {
		return nil
	}
	_, err := m.commitLocked(func() ([]store.Record, []string, error) { return nil, []string{name}, nil }, nil)
	return err
}

// prepareAndRegister does the work of a load. ctx ends also, with ErrUnloaded,
// when the name is unloaded meanwhile.
func (m *Manager) prepareAndRegister(ctx context.Context, req LoadRequest) (Result, error) {
	art, err := m.o.Source.Fetch(ctx, req.Source)
	if err != nil {
		return Result{}, cancelled(ctx, classify(err))
	}
	defer art.Close()
	d, same, err := m.prepare(ctx, req, art)
	if err != nil {
		return Result{}, cancelled(ctx, err)
	}
	if same {
		return m.ensureSame(ctx, req.Name)
	}
	defer func() { _ = d.discard() }() // after commit it has no effect
	m.mu.Lock()
	loaded := m.isLoaded(req.Name)
	m.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	rec := recordOf(req, d)
	if loaded {
		return m.replace(ctx, rec, d)
	}
	return m.register(ctx, rec, d)
}

// cancelled prefers the reason why ctx ended over what that caused.
func cancelled(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// isLoaded tells whether a name is wanted on the workers and could be. mu is held.
func (m *Manager) isLoaded(name string) bool {
	e := m.entries[name]
	return e != nil && e.rec.State == store.StateLoaded && e.fault == nil
}

// prepare copies and checks the artifact, in the order that clients rely on:
// added tokens, unsupported kinds, already loaded, incompatible. same is true
// when the name has this very content.
func (m *Manager) prepare(ctx context.Context, req LoadRequest, art *source.Artifact) (_ *draft, same bool, err error) {
	base, err := m.baseInfo(ctx)
	if err != nil {
		return nil, false, err
	}
	c, err := parse(art, base)
	if err != nil {
		return nil, false, err
	}
	m.mu.Lock()
	loaded := m.isLoaded(req.Name)
	m.mu.Unlock()
	if loaded && req.MustBeNew {
		return nil, false, ErrExists
	}
	done, err := m.stagingSlot(ctx)
	if err != nil {
		return nil, false, err
	}
	defer done()
	d, err := m.stage(ctx, art, c)
	if err != nil {
		return nil, false, err
	}
	if same, err = m.takenBy(req, d); err == nil && !same {
		m.setPhase(req.Name, Validating)
		err = m.check(d, base)
	}
	if err != nil || same {
		return nil, same, errors.Join(err, d.discard())
	}
	return d, false, nil
}

// takenBy compares the draft with what the name has.
func (m *Manager) takenBy(req LoadRequest, d *draft) (same bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.isLoaded(req.Name) {
		return false, nil
	}
	if m.entries[req.Name].rec.Digest == d.digest {
		return true, nil
	}
	if !req.Replace {
		return false, fmt.Errorf("%w with other content", ErrExists)
	}
	return false, nil
}

func (m *Manager) setPhase(name string, s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[name]; e != nil && e.rec.State == store.StateFetching {
		e.phase = s
		m.notify()
	}
}

func recordOf(req LoadRequest, d *draft) store.Record {
	return store.Record{
		Name: req.Name, State: store.StateLoaded, Digest: d.digest,
		ConfigBlob: d.config.Digest(), WeightsBlob: d.weights.Digest(),
		Source: req.Source, Pinned: req.Pinned, Labels: maps.Clone(req.Labels),
		MaxRank: d.bound.MaxRank, TargetModules: d.bound.TargetModules,
		SizeBytes: d.bound.SizeBytes, BaseModel: d.bound.BaseModel,
	}
}

// ensureSame answers a load of what is loaded: it waits until it is usable.
func (m *Manager) ensureSame(ctx context.Context, name string) (Result, error) {
	m.mu.Lock()
	e := m.entries[name]
	if e == nil {
		m.mu.Unlock()
		return Result{}, ErrNotFound
	}
	e.lastUsed = time.Now()
	digest := e.rec.Digest
	m.mu.Unlock()
	if err := m.pushed(ctx, digest, ""); err != nil {
		return Result{}, err
	}
	return m.result(name, nil)
}

func (m *Manager) result(name string, evicted []string) (Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[name]
	if e == nil { // unloaded by somebody else in this very moment
		return Result{}, ErrNotFound
	}
	return Result{Adapter: m.view(e), Revision: m.published(), Evicted: evicted}, nil
}

// register puts new content under a name that is not loaded.
func (m *Manager) register(ctx context.Context, rec store.Record, d *draft) (Result, error) {
	var evicted []string
	err := m.commitDraft(d, func() error {
		_, err := m.commitLocked(func() ([]store.Record, []string, error) {
			if err := m.checkPins(rec.Name, rec.Digest, rec.Pinned); err != nil {
				return nil, nil, err
			}
			put, err := m.evict([]store.Record{rec}, nil)
			if err != nil {
				return nil, nil, err
			}
			evicted = namesOf(put[1:])
			m.stamp(&put[0])
			return put, nil, nil
		}, func() { m.entries[rec.Name].phase, m.entries[rec.Name].lastUsed = StateUnspecified, time.Now() })
		return err
	})
	if err != nil {
		return Result{}, err
	}
	if err := m.pushed(ctx, rec.Digest, ""); err != nil {
		if errors.Is(err, ErrRejected) {
			err = errors.Join(err, m.forget(rec.Name, rec.Digest))
		}
		return Result{}, err
	}
	return m.result(rec.Name, evicted)
}

// commitDraft commits the draft's blobs and runs register; when that fails the
// blobs go again.
func (m *Manager) commitDraft(d *draft, register func() error) error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	err := d.commit()
	if err == nil {
		err = register()
	}
	if err != nil {
		m.tidyFailed([]store.Record{{ConfigBlob: d.config.Digest(), WeightsBlob: d.weights.Digest()}})
	}
	return err
}

// stamp sets a record's times, keeping what its name had. mu is held.
func (m *Manager) stamp(r *store.Record) {
	now := time.Now().UTC()
	r.Created, r.Updated, r.LastUsed = now, now, now
	if e := m.entries[r.Name]; e != nil {
		r.Created = e.rec.Created
	}
}

// forget removes a name whose content every worker refused.
func (m *Manager) forget(name, digest string) error {
	_, err := m.commit(func() ([]store.Record, []string, error) {
		if e := m.entries[name]; e == nil || e.rec.Digest != digest {
			return nil, nil, nil
		}
		return nil, []string{name}, nil
	}, nil)
	return err
}

// replace brings new content to the workers beside the old and then switches
// the name. Until then the old is served; after it workers drop the old once
// its sequences are done.
func (m *Manager) replace(ctx context.Context, rec store.Record, d *draft) (Result, error) {
	if err := m.commitDraft(d, func() error { return m.stageContent(rec) }); err != nil {
		return Result{}, err
	}
	defer m.unstage(rec)
	m.mu.Lock()
	var old string
	if e := m.entries[rec.Name]; e != nil {
		old = e.rec.Digest
	}
	m.mu.Unlock()
	if err := m.pushed(ctx, rec.Digest, old); err != nil {
		return Result{}, fmt.Errorf("not replaced: %w", err)
	}
	var evicted []string
	_, err := m.commit(func() ([]store.Record, []string, error) {
		if m.entries[rec.Name] == nil {
			return nil, nil, ErrNotFound
		}
		if err := m.checkPins(rec.Name, rec.Digest, rec.Pinned); err != nil {
			return nil, nil, err
		}
		// If it was evicted while it was pushed, others make room.
		put, err := m.evict([]store.Record{rec}, nil)
		if err != nil {
			return nil, nil, err
		}
		evicted = namesOf(put[1:])
		m.stamp(&put[0])
		return put, nil, nil
	}, func() { m.entries[rec.Name].lastUsed = time.Now() })
	if err != nil {
		return Result{}, err
	}
	return m.result(rec.Name, evicted)
}

func (m *Manager) stageContent(rec store.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkPins(rec.Name, rec.Digest, rec.Pinned); err != nil {
		return err
	}
	m.staged[rec.Name] = rec
	m.notify()
	return nil
}

// unstage ends a replacement, done or not.
func (m *Manager) unstage(rec store.Record) {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	delete(m.staged, rec.Name)
	m.notify()
	m.mu.Unlock()
	m.tidy([]string{rec.ConfigBlob, rec.WeightsBlob})
}
