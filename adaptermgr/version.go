package adaptermgr

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"chorale/adaptermgr/store"
	"chorale/internal/adapterref"
)

// unit is what is loaded or not: a version of a name.
type unit struct {
	name   string
	number uint64
}

func versionOf(r *store.Record, number uint64) *store.Version {
	for i := range r.Versions {
		if r.Versions[i].Number == number {
			return &r.Versions[i]
		}
	}
	return nil
}

// find resolves a name, or a name with a version (adapterref). e is nil for a
// name that is not registered, v for a version that the name does not have, or
// a name that has none. The latest of several versions of one content counts.
// mu is held.
func (m *Manager) find(ref string) (e *entry, v *store.Version) {
	if e := m.entries[ref]; e != nil {
		return e, e.current()
	}
	r, ok := adapterref.Split(ref)
	if !ok {
		return nil, nil
	}
	if e = m.entries[r.Name]; e == nil {
		return nil, nil
	}
	for i := range slices.Backward(e.rec.Versions) {
		if v := &e.rec.Versions[i]; r.Is(v.Number, v.Digest) {
			return e, v
		}
	}
	return e, nil
}

// editable returns a copy of a record whose versions may be changed.
func editable(r store.Record) store.Record {
	r.Versions = slices.Clone(r.Versions)
	return r
}

// addVersion appends a version under the next number and returns the number.
func addVersion(r *store.Record, v store.Version, now use) uint64 {
	r.LastNumber++
	v.Number = r.LastNumber
	v.Created = now.at
	r.Versions = append(r.Versions, v)
	return v.Number
}

// makeCurrent lets a version answer alone, if it has not done so already; the
// one before may be rolled back to. Those that answered leave the workers.
func makeCurrent(r *store.Record, number uint64, now use) {
	for i := range r.Versions {
		v := &r.Versions[i]
		if v.Number != number && (v.Number == r.Current || v.Weight > 0) {
			v.Loaded = false
		}
		v.Weight = 0
		if v.Number == number {
			v.Loaded = true
			now.of(v)
		}
	}
	if r.Current == number {
		return
	}
	at := slices.Index(r.Line, number)
	switch {
	case at >= 0: // back to it
		r.Line = slices.Clone(r.Line[:at])
	case r.Current != 0:
		r.Line = append(slices.Clone(r.Line), r.Current)
	}
	r.Current = number
}

// weights sums what versions beside the current one have.
func weights(r *store.Record) (sum int) {
	for _, v := range r.Versions {
		sum += v.Weight
	}
	return sum
}

// prune removes the oldest versions beyond keep of those that nobody uses.
func prune(r *store.Record, keep int) {
	for len(r.Versions) > keep {
		i := slices.IndexFunc(r.Versions, func(v store.Version) bool {
			return v.Number != r.Current && v.Weight == 0 && !v.Loaded
		})
		if i < 0 {
			break
		}
		r.Versions = slices.Delete(r.Versions, i, i+1)
	}
	r.Line = slices.DeleteFunc(slices.Clone(r.Line), func(n uint64) bool { return versionOf(r, n) == nil })
}

// removeVersion takes a version that does not answer out of a record.
func removeVersion(r *store.Record, number uint64) {
	r.Versions = slices.DeleteFunc(r.Versions, func(v store.Version) bool { return v.Number == number })
	r.Line = slices.DeleteFunc(slices.Clone(r.Line), func(n uint64) bool { return n == number })
}

// etag is the public form of a record's generation.
func etag(r *store.Record) string { return strconv.FormatUint(r.Generation, 10) }

// checkEtag refuses a change that was asked for on an older state. An empty
// etag asks for any state. mu is held.
func (m *Manager) checkEtag(name, want string) error {
	if want == "" {
		return nil
	}
	e := m.entries[name]
	if e == nil {
		return fmt.Errorf("%w: it is gone", ErrStale)
	}
	if have := etag(&e.rec); have != want {
		return fmt.Errorf("%w (etag %s, now %s)", ErrStale, want, have)
	}
	return nil
}

// use is a use of a version. at is what the clock said, and only shown; turn
// tells what was before what: a clock may jump.
type use struct {
	at   time.Time
	turn uint64
}

// of notes the use in a version's stored form.
func (u use) of(v *store.Version) { v.LastUsed, v.Turn = u.at, u.turn }

// now is the time that is shown and stored. Nothing is ordered or timed by it.
func (m *Manager) now() time.Time { return m.o.Now().UTC() }

// nextUse is a use after all before it. mu is held.
func (m *Manager) nextUse() use {
	m.turn++
	return use{m.now(), m.turn}
}

// lastUsed is when a version was used last.
func (e *entry) lastUsed(number uint64) time.Time { return e.used[number].at }

// label is how messages and answers name a unit: by its name alone when it is
// the version that answers.
func (m *Manager) label(u unit) string {
	if e := m.entries[u.name]; e == nil || e.rec.Current == u.number || u.number == 0 {
		return u.name
	}
	return adapterref.Format(u.name, u.number)
}

// byUse orders units by how often they were used of late, if the policy asks for
// that, and then by their last use. mu is held.
func (m *Manager) byUse(a, b unit) int {
	e, f := m.entries[a.name], m.entries[b.name]
	x, y := e.used[a.number], f.used[b.number]
	return cmp.Or(m.often.Compare(e.uses(a.number), f.uses(b.number)), cmp.Compare(x.turn, y.turn), x.at.Compare(y.at),
		cmp.Compare(a.name, b.name), cmp.Compare(a.number, b.number))
}
