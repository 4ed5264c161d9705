package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chorale/adaptermgr/store"
)

// pushed waits until every connected group has the digest or has failed to
// take it, and at least one has it; those that hold old must have it. One that
// others push out meanwhile is not waited for, nor a group that is silent.
func (m *Manager) pushed(ctx context.Context, digest, old string) error {
	var st pushStatus
	begun := time.Now()
	tick := time.NewTicker(m.ackTick())
	defer tick.Stop()
	err := m.awaitTick(ctx, m.o.WorkerTimeout, tick.C, func() (bool, bool) {
		st = m.pushStatus(digest, old, begun)
		refused := st.refused > 0 && st.refused == len(m.groups)
		settled := st.have > 0 && st.behind == 0 || refused || st.fault != nil
		return st.unwanted || st.pending == 0 && settled, st.pending > 0
	})
	switch {
	case errors.Is(err, ErrUnavailable):
		return fmt.Errorf("%w: no worker group has it; it will be pushed when one can take it%s", ErrUnavailable, st.errors)
	case err != nil:
		return err
	case st.fault != nil:
		return st.fault
	case st.unwanted && !st.evicted:
		return ErrUnloaded
	case st.unwanted: // it is registered and made room for others: its next use brings it back
		return nil
	case st.have == 0:
		return fmt.Errorf("%w: %w%s", ErrIncompatible, ErrRejected, st.errors)
	}
	return nil
}

// pushStatus counts the groups by what they make of a digest.
type pushStatus struct {
	have, pending, refused int
	// behind are those that failed to take it and hold what it replaces.
	behind int
	// unwanted: unloaded or evicted since; evicted tells the two apart.
	unwanted, evicted bool
	fault             error
	errors            string
}

// pushStatus is called with mu held.
func (m *Manager) pushStatus(digest, old string, begun time.Time) pushStatus {
	var s pushStatus
	var b strings.Builder
	for _, g := range m.groups {
		t := g.tries[digest]
		if g.link == linkUp && t == nil && !g.has(digest) && g.isSilent(begun) {
			t = &try{err: m.silence(), wait: m.o.RetryMin}
			g.tries[digest] = t
			m.lookAgain(digest)
		}
		switch {
		case g.link == linkNew && !g.isSilent(begun):
			s.pending++
		case g.link == linkNew:
			fmt.Fprintf(&b, "; %s: %v", g.w.Address(), m.silence())
		case g.link == linkDown:
			fmt.Fprintf(&b, "; %s: %v", g.w.Address(), g.linkErr)
		case g.has(digest):
			s.have++
		case t == nil:
			s.pending++
		default:
			fmt.Fprintf(&b, "; %s: %v", g.w.Address(), t.err)
			if errors.Is(t.err, ErrRejected) {
				s.refused++
			}
			if _, holdsOld := g.held[old]; holdsOld {
				s.behind++
			}
		}
	}
	if s.fault = m.faults[digest]; s.fault != nil {
		s.pending = 0
	}
	if _, wanted := m.wanted()[digest]; !wanted && s.fault == nil {
		s.unwanted, s.evicted = true, m.isStored(digest)
	}
	s.errors = b.String()
	return s
}

// isStored tells whether a name has a digest, loaded or not. mu is held.
func (m *Manager) isStored(digest string) bool {
	for _, e := range m.entries {
		if e.rec.State == store.StateLive && slices.ContainsFunc(e.rec.Versions, func(v store.Version) bool { return v.Digest == digest }) {
			return true
		}
	}
	return false
}
