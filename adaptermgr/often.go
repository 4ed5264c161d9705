package adaptermgr

import "chorale/internal/eviction"

// frequency counts the uses of one version. It lives as long as the process: after
// a restart all begin alike, in the order of their last use.
type frequency struct {
	eviction.Uses
	// ahead tells that a use was counted for which Touch is still to come.
	ahead bool
}

// uses is how often a version was used.
func (e *entry) uses(number uint64) eviction.Uses {
	if f := e.often[number]; f != nil {
		return f.Uses
	}
	return eviction.Uses{}
}

// countUse counts a use that a router tells of. mu is held.
func (m *Manager) countUse(e *entry, number uint64) {
	f := e.often[number]
	switch {
	case f == nil:
		f = &frequency{}
		e.often[number] = f
	case f.ahead:
		f.ahead = false
		return
	}
	m.often.Use(&f.Uses, m.places())
}

// touchAhead notes the uses that a request is about to make, whose router tells of
// them a moment later. What is not loaded is counted at once: else it would be the
// first to make room for the next, before it was used.
func (m *Manager) touchAhead(names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.nextUse()
	for _, n := range names {
		e, v := m.find(n)
		if v == nil {
			continue
		}
		e.used[v.Number] = now
		if v.Loaded {
			continue
		}
		m.countUse(e, v.Number)
		e.often[v.Number].ahead = true
	}
}

// places is how many versions can be loaded, or are where only bytes bound them.
// mu is held.
func (m *Manager) places() int {
	if m.o.MaxLoaded > 0 || m.o.Eviction == eviction.LRU {
		return m.o.MaxLoaded
	}
	n := 0
	for _, e := range m.entries {
		for i := range e.rec.Versions {
			if e.rec.Versions[i].Loaded {
				n++
			}
		}
	}
	return n
}
