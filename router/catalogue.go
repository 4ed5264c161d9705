package router

import (
	"hash/fnv"
	"math"
	"slices"

	"chorale/internal/adapterref"
)

// AdapterEntry is what the router knows of one adapter name, or of one version
// of it.
type AdapterEntry struct {
	Name   string
	Digest string
	// Version is its number.
	Version uint64
	// Source is the path exactly as it was given at load.
	Source string
	Pinned bool
	// Usable tells whether new requests may name it: loaded on at least one
	// group. An entry that is not usable is loading, draining, failed or evicted.
	Usable bool
	// Loading tells that it is on its way to the worker groups: requests that
	// name it wait.
	Loading bool
	// Evicted tells that max_loaded_loras pushed it out, or that it is a version
	// that does not answer by itself: naming it brings it to the groups.
	Evicted bool
	// Groups holds the addresses of the worker groups that have it.
	Groups  []string
	MaxRank int
	Modules []string
	Created int64 // unix seconds

	// Weight is the share of its name's new requests, in percent, of a version
	// beside the current one.
	Weight int
	// Versions are, in the entry of a name, its versions beside the current one,
	// by number.
	Versions []*AdapterEntry
}

// Catalogue is an immutable picture of all adapters. The router swaps in a new
// one with SetCatalogue and reads it without locks.
type Catalogue struct {
	Revision uint64
	Adapters map[string]*AdapterEntry
}

// ref is how the adapter manager is asked for the entry.
func (c *Catalogue) ref(e *AdapterEntry) string {
	if now := c.Adapters[e.Name]; now == nil || now.Version == e.Version {
		return e.Name
	}
	return adapterref.Format(e.Name, e.Version)
}

// Find returns the entry of a name, or of a name with a version ("a@3",
// "a@sha256:…"); nil when there is none.
func (c *Catalogue) Find(name string) *AdapterEntry {
	if e := c.Adapters[name]; e != nil {
		return e
	}
	r, ok := adapterref.Split(name)
	e := c.Adapters[r.Name]
	if !ok || e == nil {
		return nil
	}
	var found *AdapterEntry // the latest of those with one content
	for _, v := range append([]*AdapterEntry{e}, e.Versions...) {
		if v.Version != 0 && r.Is(v.Version, v.Digest) && (found == nil || v.Version > found.Version) {
			found = v
		}
	}
	return found
}

// now returns what has become of an entry: the one of its name with its
// content, nil when there is none.
func (c *Catalogue) now(e *AdapterEntry) *AdapterEntry {
	n := c.Adapters[e.Name]
	if n == nil || n.Digest == e.Digest {
		return n
	}
	if i := slices.IndexFunc(n.Versions, func(v *AdapterEntry) bool { return v.Digest == e.Digest }); i >= 0 {
		return n.Versions[i]
	}
	return nil
}

// pick is Find for a request that does not care which version answers: those
// with a share get it. Requests with one key get one version as long as the
// shares stay; when a version's share grows, none of its keys leaves it.
func (c *Catalogue) pick(name, key string) *AdapterEntry {
	e := c.Adapters[name]
	if e == nil {
		return c.Find(name)
	}
	best, rest := e, 100
	bestScore := -1.0
	for _, v := range e.Versions {
		if v.Weight <= 0 || !v.Usable && !v.Loading && !v.Evicted {
			continue
		}
		rest -= v.Weight
		if s := share(name, key, v.Version, v.Weight); s > bestScore {
			best, bestScore = v, s
		}
	}
	if best != e && share(name, key, e.Version, rest) > bestScore {
		best = e
	}
	return best
}

// share is a version's score in weighted rendezvous hashing: the largest wins,
// with a probability that is its weight's part of all. Every router computes
// the same.
func share(name, key string, version uint64, weight int) float64 {
	h := fnv.New64a()
	h.Write([]byte(adapterref.Format(name, version)))
	h.Write([]byte{0})
	h.Write([]byte(key))
	x := h.Sum64()
	// FNV's high bits hardly know the last bytes: murmur's finalizer mixes them.
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	u := (float64(x>>11) + 0.5) / (1 << 53) // in (0, 1)
	return float64(weight) / -math.Log(u)
}
