package adaptermgr

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"chorale/adaptermgr/source"
	"chorale/adaptermgr/store"
	"chorale/internal/adapterref"
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
	// Weight, if not nil, loads the content as one more version beside the one
	// that answers and gives it this share of new requests, in percent; 0: it is
	// loaded and only answers those who name it, 100: like Replace. Pinned and
	// Owner of the name stay then.
	Weight *int
	// Owner is the tenant that the name belongs to, empty: as it was.
	Owner string
	// Digest is what the content must have, empty: any.
	Digest string
	// Etag refuses the load when the name was changed since; empty: never.
	Etag string
	// RequestID makes it safe to ask again: see Manager.
	RequestID string
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
	r, err := m.once(ctx, request{"load", req.RequestID, req.Name, req}, func(ctx context.Context, done *store.Request) (Result, error) {
		return m.load(ctx, &loading{LoadRequest: req, done: done})
	})
	return r, nameError(req.Name, err)
}

// loading is a load that runs.
type loading struct {
	LoadRequest
	done *store.Request
}

func (m *Manager) load(ctx context.Context, req *loading) (Result, error) {
	if m.o.Disabled {
		return Result{}, ErrDisabled
	}
	if err := errors.Join(checkName(req.Name), checkLabels(req.Labels), checkOwner(req.Owner), checkWeight(req.Weight)); err != nil {
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
	err = m.mayLoad(req)
	m.mu.Unlock()
	if err != nil {
		return Result{}, err
	}
	if err := m.reserve(req); err != nil {
		return Result{}, err
	}
	r, err := m.prepareAndRegister(ctx, req)
	if err != nil {
		err = errors.Join(err, m.unreserve(req.Name))
	}
	return r, err
}

// mayLoad refuses early what is refused in the end. mu is held.
func (m *Manager) mayLoad(req *loading) error {
	if req.Weight != nil && !m.isLoaded(req.Name) {
		return fmt.Errorf("%w: no version answers yet beside which it could be loaded", ErrWeight)
	}
	return m.checkEtag(req.Name, req.Etag)
}

// checkName accepts what can stand in a request's model field and on a line
// of a log: paths too, "../a" among them, since a path that is given without a
// name is the name. Nothing on the disk is called by it.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("%w: 1 to %d bytes", ErrName, maxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, isControl):
		return fmt.Errorf("%w: it holds control characters or is not UTF-8", ErrName)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("%w: it begins or ends with a blank", ErrName)
	}
	if _, ok := adapterref.Split(name); ok {
		return fmt.Errorf("%w: it ends like the version of a name (name@3, name@sha256:…)", ErrName)
	}
	return nil
}

// isControl tells what ends lines or changes how the text around it reads.
func isControl(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

func checkOwner(owner string) error {
	if len(owner) > maxName || !utf8.ValidString(owner) || strings.ContainsFunc(owner, isControl) {
		return fmt.Errorf("%w: an owner has up to %d bytes without control characters", ErrName, maxName)
	}
	return nil
}

func checkWeight(w *int) error {
	if w != nil && (*w < 0 || *w > 100) {
		return fmt.Errorf("%w: %d, want a share from 0 to 100 percent", ErrWeight, *w)
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
func (m *Manager) reserve(req *loading) error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	taken := m.entries[req.Name] != nil
	m.mu.Unlock()
	if taken {
		return nil
	}
	now := m.now()
	return m.commitLocked(func() (change, error) {
		return change{why: "a client loads it", put: []store.Record{{
			Name: req.Name, State: store.StateFetching, Owner: req.Owner, Source: req.Source, Pinned: req.Pinned,
			Labels: maps.Clone(req.Labels), Created: now, Updated: now,
		}}}, nil
	}, nil)
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
	return m.commitLocked(func() (change, error) { return change{del: []string{name}}, nil }, nil)
}

// setProgress tells watchers how far a load has come; nil: it has ended.
func (m *Manager) setProgress(name string, p *Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[name]
	if e == nil || equalProgress(e.progress, p) {
		return
	}
	e.progress = p
	m.observe(e, "a client loads it")
	m.notify()
}

// prepareAndRegister does the work of a load. ctx ends also, with ErrUnloaded,
// when the name is unloaded meanwhile.
func (m *Manager) prepareAndRegister(ctx context.Context, req *loading) (Result, error) {
	defer m.setProgress(req.Name, nil)
	m.setProgress(req.Name, &Progress{State: Fetching, Source: req.Source, Total: -1})
	art, err := m.o.Source.Fetch(source.WithProgress(ctx, func(done, total int64) {
		m.setProgress(req.Name, &Progress{State: Fetching, Source: req.Source, Done: done, Total: cmp.Or(total, -1)})
	}), req.Source)
	if err != nil {
		return Result{}, cancelled(ctx, classify(err))
	}
	defer art.Close()
	d, same, err := m.prepare(ctx, req, art)
	if err != nil {
		return Result{}, cancelled(ctx, err)
	}
	if same {
		m.setProgress(req.Name, nil)
		return m.ensureSame(ctx, req)
	}
	defer func() { _ = d.discard() }() // after commit it has no effect
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	v := newVersion(req, d)
	m.mu.Lock()
	loaded := m.isLoaded(req.Name)
	m.mu.Unlock()
	if loaded {
		return m.replace(ctx, req, v, d)
	}
	return m.register(ctx, req, v, d)
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
	if e == nil || e.rec.State != store.StateLive {
		return false
	}
	v := e.current()
	return v != nil && v.Loaded && m.faults[v.Digest] == nil
}

// prepare copies and checks the artifact, in the order that clients rely on:
// added tokens, unsupported kinds, already loaded, incompatible. same is true
// when the name has this very content.
func (m *Manager) prepare(ctx context.Context, req *loading, art *source.Artifact) (_ *draft, same bool, err error) {
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
	if req.Digest != "" && req.Digest != d.digest {
		err = fmt.Errorf("%w: its digest is %s, want %s", ErrDigest, d.digest, req.Digest)
		return nil, false, errors.Join(err, d.discard())
	}
	if same, err = m.takenBy(req, d); err == nil && !same {
		m.setProgress(req.Name, &Progress{State: Validating, Source: req.Source, Done: art.Size, Total: art.Size})
		err = m.check(d, base)
	}
	if err != nil || same {
		return nil, same, errors.Join(err, d.discard())
	}
	return d, false, nil
}

// takenBy compares the draft with what the name has.
func (m *Manager) takenBy(req *loading, d *draft) (same bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.isLoaded(req.Name) {
		return false, nil
	}
	if m.entries[req.Name].current().Digest == d.digest {
		return true, nil
	}
	if !req.Replace && req.Weight == nil {
		return false, fmt.Errorf("%w with other content", ErrExists)
	}
	return false, nil
}

func newVersion(req *loading, d *draft) store.Version {
	return store.Version{
		Digest: d.digest, ConfigBlob: d.config.Digest(), WeightsBlob: d.weights.Digest(),
		Source: req.Source, Labels: maps.Clone(req.Labels), MaxRank: d.bound.MaxRank, Ranks: d.bound.Ranks, SumRanks: d.bound.SumRanks,
		TargetModules: d.bound.TargetModules, SizeBytes: d.bound.SizeBytes, BaseModel: d.bound.BaseModel,
	}
}

// ensureSame answers a load of what is loaded: it waits until it is usable.
func (m *Manager) ensureSame(ctx context.Context, req *loading) (Result, error) {
	m.mu.Lock()
	e, v := m.find(req.Name)
	if v == nil {
		m.mu.Unlock()
		return Result{}, ErrNotFound
	}
	e.used[v.Number] = m.nextUse()
	digest := v.Digest
	m.mu.Unlock()
	if req.Weight != nil {
		return Result{}, fmt.Errorf("%w: this content answers already", ErrWeight)
	}
	if err := m.pushed(ctx, digest, ""); err != nil {
		return Result{}, err
	}
	return m.result(req.Name, nil)
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
func (m *Manager) register(ctx context.Context, req *loading, v store.Version, d *draft) (Result, error) {
	var evicted []string
	var number uint64
	err := m.commitDraft(d, func() error {
		return m.commitLocked(func() (change, error) {
			var c change
			var err error
			r := m.revised(req)
			number = m.place(&r, v)
			c, evicted, err = m.answering(r, number, req.Etag)
			c.why, c.done = "a client loaded it", req.done
			return c, err
		}, func() { m.nowUsed(req.Name, number) })
	})
	if err != nil {
		return Result{}, err
	}
	if err := m.pushed(ctx, v.Digest, ""); err != nil {
		if errors.Is(err, ErrRejected) {
			err = errors.Join(err, m.forget(req.Name, number))
		}
		return Result{}, err
	}
	return m.result(req.Name, evicted)
}

// revised is the record of a name as a load will leave it. mu is held.
func (m *Manager) revised(req *loading) store.Record {
	r := editable(m.entries[req.Name].rec)
	r.State, r.Message, r.Source, r.Generation, r.Updated = store.StateLive, "", "", 0, m.now()
	if req.Weight == nil {
		r.Pinned, r.Labels = req.Pinned, maps.Clone(req.Labels)
		r.Owner = cmp.Or(req.Owner, r.Owner)
	}
	return r
}

// place puts a version into a record that is not loaded, to answer alone. The
// content that answered before keeps its number. mu is held.
func (m *Manager) place(r *store.Record, v store.Version) (number uint64) {
	now := m.nextUse()
	if old := versionOf(r, r.Current); old != nil && old.Digest == v.Digest {
		number, v.Number, v.Created = old.Number, old.Number, old.Created
		*old = v
	} else {
		number = addVersion(r, v, now)
	}
	makeCurrent(r, number, now)
	prune(r, m.o.MaxVersions)
	return number
}

// answering checks a change of the version that answers, and makes room for
// it. mu is held.
func (m *Manager) answering(r store.Record, number uint64, etag string) (c change, evicted []string, err error) {
	if err := m.checkEtag(r.Name, etag); err != nil {
		return c, nil, err
	}
	if v := versionOf(&r, r.Current); v != nil {
		if err := m.checkPins(r.Name, v.Digest, r.Pinned); err != nil {
			return c, nil, err
		}
	}
	c.put, evicted, err = m.evict([]store.Record{r}, map[unit]bool{{r.Name, number}: true})
	return c, evicted, err
}

// nowUsed notes a use of a version and that its load is over. mu is held.
func (m *Manager) nowUsed(name string, number uint64) {
	if e := m.entries[name]; e != nil {
		e.used[number], e.progress = m.nextUse(), nil
		m.countUse(e, number)
	}
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
		m.tidyFailed([]store.Record{{Versions: []store.Version{{ConfigBlob: d.config.Digest(), WeightsBlob: d.weights.Digest()}}}})
	} else {
		m.mu.Lock()
		delete(m.faults, d.digest) // its files are new
		m.desired = nil
		m.observeDigest(d.digest, "its files were stored anew")
		m.notify()
		m.mu.Unlock()
	}
	return err
}

// forget removes a version that every worker refused, and the name when it has
// no other. The one that answered before is stored still, and not loaded.
func (m *Manager) forget(name string, number uint64) error {
	return m.commit(func() (change, error) {
		c := change{why: "every worker refused the version after it"}
		e := m.entries[name]
		if e == nil || e.rec.Current != number {
			return c, nil
		}
		r := editable(e.rec)
		removeVersion(&r, number)
		if len(r.Versions) == 0 {
			c.del = []string{name}
			return c, nil
		}
		r.Current = r.Versions[len(r.Versions)-1].Number
		if n := len(r.Line); n > 0 {
			r.Current, r.Line = r.Line[n-1], r.Line[:n-1]
		}
		r.Line = slices.DeleteFunc(slices.Clone(r.Line), func(n uint64) bool { return n == r.Current })
		r.Generation = 0
		c.put = []store.Record{r}
		return c, nil
	}, nil)
}
