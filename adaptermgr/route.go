package adaptermgr

import (
	"context"
	"fmt"
	"strings"

	"chorale/adaptermgr/store"
)

// replace brings new content to the workers beside what answers and then
// switches the name, or gives it its share of requests. Until then the old is
// served; after it workers drop what does not answer any more once its
// sequences are done.
func (m *Manager) replace(ctx context.Context, req *loading, v store.Version, d *draft) (Result, error) {
	s := staged{v, req.Pinned && req.Weight == nil}
	if err := m.commitDraft(d, func() error { return m.stageContent(req.Name, s) }); err != nil {
		return Result{}, err
	}
	defer m.unstage(req.Name)
	if err := m.pushed(ctx, v.Digest, m.digestOf(req.Name)); err != nil {
		return Result{}, fmt.Errorf("not replaced: %w", err)
	}
	var evicted []string
	var number uint64
	err := m.commit(func() (c change, err error) {
		if m.entries[req.Name] == nil {
			return c, ErrNotFound
		}
		r := m.revised(req)
		now := m.nextUse()
		number = addVersion(&r, v, now)
		if err := share(&r, number, req.Weight, now); err != nil {
			return c, err
		}
		prune(&r, m.o.MaxVersions)
		// If it was evicted while it was pushed, others make room.
		c, evicted, err = m.answering(r, number, req.Etag)
		c.why, c.done = "a client loaded another version", req.done
		return c, err
	}, func() { m.nowUsed(req.Name, number) })
	if err != nil {
		return Result{}, err
	}
	return m.result(req.Name, evicted)
}

// share lets a version answer a share of new requests: nil, or all, makes it
// the current one.
func share(r *store.Record, number uint64, weight *int, now use) error {
	if weight == nil || *weight == 100 {
		makeCurrent(r, number, now)
		return nil
	}
	v := versionOf(r, number)
	v.Weight, v.Loaded = *weight, true
	now.of(v)
	if sum := weights(r); sum > 100 {
		return fmt.Errorf("%w: the versions beside the current one would have %d percent", ErrWeight, sum)
	}
	return nil
}

// digestOf is the digest that answers under a name, "" for none.
func (m *Manager) digestOf(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, v := m.find(name); v != nil {
		return v.Digest
	}
	return ""
}

func (m *Manager) stageContent(name string, s staged) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkPins(name, s.Digest, s.pinned); err != nil {
		return err
	}
	m.staged[name], m.desired = s, nil
	m.lookAgain(s.Digest)
	m.notify()
	return nil
}

// unstage ends a change of version, done or not.
func (m *Manager) unstage(name string) {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	m.mu.Lock()
	s := m.staged[name]
	delete(m.staged, name)
	m.desired = nil
	m.lookAgain(s.Digest)
	m.notify()
	m.mu.Unlock()
	m.tidy([]string{s.ConfigBlob, s.WeightsBlob})
}

// CanaryRequest gives a version a share of a name's new requests.
type CanaryRequest struct {
	Name string
	// Version is one beside the current one.
	Version uint64
	// Weight is its share in percent; 0 ends the canary, 100 makes it current.
	Weight int
	// Etag and RequestID: see LoadRequest.
	Etag, RequestID string
}

// Canary lets a stored version answer a share of new requests, beside the
// current one, which has the rest. Which request gets which is the router's to
// decide. It returns when the version can be used, like Load.
func (m *Manager) Canary(ctx context.Context, req CanaryRequest) (Result, error) {
	r, err := m.once(ctx, request{"canary", req.RequestID, req.Name, req}, func(ctx context.Context, done *store.Request) (Result, error) {
		if err := checkWeight(&req.Weight); err != nil {
			return Result{}, err
		}
		return m.reroute(ctx, rerouting{req.Name, req.Etag, "a client set its share", done}, func(r *store.Record) (uint64, error) {
			v := versionOf(r, req.Version)
			switch {
			case v == nil:
				return 0, fmt.Errorf("%w: %d%s", ErrVersionNotFound, req.Version, numbers(r))
			case v.Number == r.Current && req.Weight == 100:
				makeCurrent(r, v.Number, m.nextUse())
				return v.Number, nil
			case v.Number == r.Current:
				return 0, fmt.Errorf("%w: version %d answers what the others leave; give them their share", ErrWeight, v.Number)
			case req.Weight == 0:
				v.Loaded = v.Loaded && v.Weight == 0
				v.Weight = 0
				return 0, nil
			}
			return v.Number, share(r, v.Number, &req.Weight, m.nextUse())
		})
	})
	return r, nameError(req.Name, err)
}

// RollbackRequest undoes a change of version.
type RollbackRequest struct {
	Name string
	// Version is the one to go back to; 0: end the canaries if there are some, or
	// else go to the one that was current before.
	Version uint64
	// Etag and RequestID: see LoadRequest.
	Etag, RequestID string
}

// Rollback lets an earlier version answer alone, from one moment to the next
// for new requests; running ones keep theirs. It returns when the version can be
// used, like Load.
func (m *Manager) Rollback(ctx context.Context, req RollbackRequest) (Result, error) {
	r, err := m.once(ctx, request{"rollback", req.RequestID, req.Name, req}, func(ctx context.Context, done *store.Request) (Result, error) {
		return m.reroute(ctx, rerouting{req.Name, req.Etag, "a client rolled back", done}, func(r *store.Record) (uint64, error) {
			to := req.Version
			switch {
			case to == 0 && weights(r) > 0:
				to = r.Current
			case to == 0 && len(r.Line) == 0:
				return 0, ErrNoEarlier
			case to == 0:
				to = r.Line[len(r.Line)-1]
			}
			if versionOf(r, to) == nil {
				return 0, fmt.Errorf("%w: %d%s", ErrVersionNotFound, to, numbers(r))
			}
			makeCurrent(r, to, m.nextUse())
			return to, nil
		})
	})
	return r, nameError(req.Name, err)
}

// rerouting is a change of which stored versions answer.
type rerouting struct {
	name, etag, why string
	done            *store.Request
}

// reroute changes which stored versions answer. plan changes a record and tells
// which version must be on the workers before; 0: none.
func (m *Manager) reroute(ctx context.Context, q rerouting, plan func(*store.Record) (bring uint64, err error)) (Result, error) {
	if m.o.Disabled {
		return Result{}, ErrDisabled
	}
	_, unlock, err := m.lockName(ctx, q.name, false)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	m.mu.Lock()
	r, bring, err := m.rerouted(q, plan)
	var s staged
	if v := versionOf(&r, bring); err == nil && v != nil {
		s = staged{*v, r.Pinned && r.Current == bring}
		err = m.faults[v.Digest]
	}
	m.mu.Unlock()
	if err != nil {
		return Result{}, err
	}
	if bring != 0 {
		if err := m.stageContent(q.name, s); err != nil {
			return Result{}, err
		}
		defer m.unstage(q.name)
		if err := m.pushed(ctx, s.Digest, m.digestOf(q.name)); err != nil {
			return Result{}, fmt.Errorf("not changed: %w", err)
		}
	}
	var evicted []string
	err = m.commit(func() (c change, err error) {
		if r, bring, err = m.rerouted(q, plan); err != nil {
			return c, err
		}
		c, evicted, err = m.answering(r, bring, "")
		c.why, c.done = q.why, q.done
		return c, err
	}, func() {
		if bring != 0 {
			m.nowUsed(q.name, bring)
		}
	})
	if err != nil {
		return Result{}, err
	}
	return m.result(q.name, evicted)
}

// rerouted is the record as plan leaves it. mu is held.
func (m *Manager) rerouted(q rerouting, plan func(*store.Record) (uint64, error)) (store.Record, uint64, error) {
	e := m.entries[q.name]
	if e == nil || e.rec.State != store.StateLive {
		return store.Record{}, 0, fmt.Errorf("%w%s", ErrNotFound, m.known())
	}
	if err := m.checkEtag(q.name, q.etag); err != nil {
		return store.Record{}, 0, err
	}
	r := editable(e.rec)
	r.Generation, r.Updated = 0, m.now()
	bring, err := plan(&r)
	return r, bring, err
}

// numbers lists a name's versions for the error about one that is not.
func numbers(r *store.Record) string {
	var b strings.Builder
	for i, v := range r.Versions {
		if i == 0 {
			b.WriteString("; stored are ")
		} else {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, v.Number)
	}
	return b.String()
}
