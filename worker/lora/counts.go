package lora

import (
	"cmp"
	"slices"
	"time"
)

// Counts are one adapter's comings and goings since it came into host memory.
type Counts struct {
	Digest string
	// Since tells one stay in host memory from the next, in which all begins at 0.
	Since uint64
	// Hits and Misses count the sequences whose adapter was on the device when
	// they came, and those whose was not.
	Hits, Misses uint64
	// Evictions count how often it was put out to make room.
	Evictions uint64
	// LoadTime is how long it was on its way onto the device.
	LoadTime Times
}

// counts are an entry's Counts; changed is the store's change that they show.
type counts struct {
	Counts
	changed uint64
}

func (s *Store) count(e *entry) *Counts {
	s.changes++
	e.changed = s.changes
	return &e.Counts
}

func (s *Store) begin(e *entry) {
	s.changes++ // not the entry's: there is nothing to tell yet
	e.Counts.Digest, e.Counts.Since = e.Host.Digest, s.changes
}

// asked counts a sequence that came.
func (s *Store) asked(e *entry) {
	if c := s.count(e); e.packed != nil {
		c.Hits++
	} else {
		c.Misses++
	}
}

func (s *Store) evicted(e *entry) {
	s.totals.Evictions++
	s.count(e).Evictions++
}

func (s *Store) came(e *entry, took time.Duration) {
	s.totals.LoadTime.Add(took.Seconds())
	s.count(e).LoadTime.Add(took.Seconds())
}

// Counts tells what has changed of the adapters' counts after a change that an
// earlier call returned, 0 for all; in the order of change.
func (s *Store) Counts(after uint64) (changed []Counts, last uint64) {
	if after == s.changes {
		return nil, after
	}
	var es []*entry
	for _, e := range s.entries {
		if e.changed > after {
			es = append(es, e)
		}
	}
	slices.SortFunc(es, func(a, b *entry) int { return cmp.Compare(a.changed, b.changed) })
	for _, e := range es {
		changed = append(changed, e.Counts)
	}
	return changed, s.changes
}
