package adaptermgr

import (
	"cmp"
	"slices"

	"chorale/adaptermgr/store"
)

// maxHistory is how many transitions a name keeps.
const maxHistory = 32

// addTransition returns the history with one more, never changing what others
// have.
func addTransition(h []store.Transition, t Transition) []store.Transition {
	if drop := len(h) + 1 - maxHistory; drop > 0 {
		h = h[drop:]
	}
	return append(slices.Clone(h), store.Transition{At: t.At, State: t.State.String(), Version: t.Version, Reason: t.Reason})
}

// states tells the state of each version of a record, and under 0 that of the
// name while it is more than its versions' states tell. mu is held.
func (m *Manager) states(r *store.Record, p *Progress) map[uint64]State {
	out := make(map[uint64]State, len(r.Versions)+1)
	switch {
	case r.State == store.StateDraining:
		out[0] = Draining
	case r.State == store.StateFailed:
		out[0] = Failed
	case r.State == store.StateFetching:
		out[0] = Fetching
		if p != nil {
			out[0] = p.State
		}
	}
	for i := range r.Versions {
		v := &r.Versions[i]
		out[v.Number], _ = m.versionState(r, v)
	}
	return out
}

// observe notes the transitions since the last time. mu is held.
func (m *Manager) observe(e *entry, why string) {
	now := m.states(&e.rec, e.progress)
	e.rec.History = m.transitions(&e.rec, e.shown, now, why)
	e.shown, e.seen = now, false
}

// recordTransitions is observe for a record that is about to be written, so
// that its history is written with it. It returns the states that the history
// ends with. mu is held.
func (m *Manager) recordTransitions(r *store.Record, why string) map[uint64]State {
	e := m.entries[r.Name]
	if e == nil {
		e = newEntry(*r)
	}
	now := m.states(r, e.progress)
	for n, s := range now {
		if was := e.shown[n]; s == Ready && (was == Loaded || was == Loading) {
			now[n] = was // observe will see what has become of it, on the workers
		}
	}
	r.History = m.transitions(r, e.shown, now, why)
	return now
}

// transitions returns the record's history with what differs between two
// pictures of states. mu is held.
func (m *Manager) transitions(r *store.Record, from, to map[uint64]State, why string) []store.Transition {
	h := r.History
	add := func(number uint64, message string) {
		if s, ok := to[number]; ok && from[number] != s {
			h = addTransition(h, Transition{At: m.now(), State: s, Version: number, Reason: cmp.Or(message, why)})
		}
	}
	add(0, r.Message)
	for i := range r.Versions {
		_, message := m.versionState(r, &r.Versions[i])
		add(r.Versions[i].Number, message)
	}
	return h
}

// observeDigest notes what has become of all who have a digest. mu is held.
func (m *Manager) observeDigest(digest, why string) {
	for _, e := range m.entries {
		if slices.ContainsFunc(e.rec.Versions, func(v store.Version) bool { return v.Digest == digest }) {
			m.observe(e, why)
		}
	}
}

// observeAll notes what has become of all. mu is held.
func (m *Manager) observeAll(why string) {
	for _, e := range m.entries {
		m.observe(e, why)
	}
}

func history(r *store.Record) []Transition {
	if len(r.History) == 0 {
		return nil
	}
	out := make([]Transition, len(r.History))
	for i, t := range r.History {
		out[i] = Transition{At: t.At, State: stateOf(t.State), Version: t.Version, Reason: t.Reason}
	}
	return out
}

// stateOf is State.String's inverse; StateUnspecified for anything else.
func stateOf(name string) State {
	for s := Fetching; s <= Failed; s++ {
		if s.String() == name {
			return s
		}
	}
	return StateUnspecified
}
