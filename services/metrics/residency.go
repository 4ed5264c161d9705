package metrics

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"chorale/router"
	"chorale/worker/lora"
)

var (
	descHits       = desc("chorale_residency_hits_total", "Sequences whose adapter was in device memory when they came to a worker group.", "adapter")
	descMisses     = desc("chorale_residency_misses_total", "Sequences whose adapter was not in device memory when they came.", "adapter")
	descPutOut     = desc("chorale_residency_evictions_total", "How often an adapter was put out of device memory to make room.", "adapter")
	descLoadsOf    = desc("chorale_residency_load_seconds", "How long an adapter was on its way into device memory.", "adapter")
	descGroups     = desc("chorale_residency_groups", "Worker groups that hold an adapter, in device memory or at least in host memory.", "adapter", "place")
	residencyDescs = []*prometheus.Desc{descHits, descMisses, descPutOut, descLoadsOf, descGroups}
)

// names finds adapters by what workers know of them.
type names struct {
	of *router.Catalogue
	// first is one name of each digest: the first in order of those that answer
	// with it, or else of those that have it among their versions. all are those
	// that answer with it.
	first map[string]string
	all   map[string][]string
}

func namesOf(c *router.Catalogue) *names {
	n := &names{of: c, first: map[string]string{}, all: map[string][]string{}}
	sorted := slices.Sorted(maps.Keys(c.Adapters))
	for _, name := range sorted {
		if d := c.Adapters[name].Digest; d != "" {
			if _, taken := n.first[d]; !taken {
				n.first[d] = name
			}
			n.all[d] = append(n.all[d], name)
		}
	}
	for _, name := range sorted {
		for _, v := range c.Adapters[name].Versions {
			if _, taken := n.first[v.Digest]; !taken {
				n.first[v.Digest] = name
			}
			if !slices.Contains(n.all[v.Digest], name) {
				n.all[v.Digest] = append(n.all[v.Digest], name)
			}
		}
	}
	return n
}

// told is what one process of a worker group told last, by digest.
type told struct {
	incarnation string
	counts      map[string]router.AdapterCount
}

// maxTold is how many digests are remembered of a group before those that no
// adapter has any more are forgotten.
const maxTold = 10_000

// Adapters takes in what has changed of the adapters' counts on a group. What the
// group told before is in the rows already.
func (m *Metrics) Adapters(group, incarnation string, counts []router.AdapterCount) {
	m.table.mu.Lock()
	defer m.table.mu.Unlock()
	n := m.known()
	t := m.told[group]
	if t == nil || t.incarnation != incarnation {
		t = &told{incarnation, map[string]router.AdapterCount{}}
		m.told[group] = t
	}
	if len(t.counts) > maxTold {
		maps.DeleteFunc(t.counts, func(digest string, _ router.AdapterCount) bool { return n.first[digest] == "" })
	}
	for _, c := range counts {
		before := t.counts[c.Digest]
		t.counts[c.Digest] = c
		if before.Since != c.Since {
			before = router.AdapterCount{}
		}
		r := m.table.rest // of an adapter that is gone
		if name := n.first[c.Digest]; name != "" {
			r = m.table.at(name)
		}
		r.hits += c.Hits - before.Hits
		r.misses += c.Misses - before.Misses
		r.evictions += c.Evictions - before.Evictions
		r.loads.add(loadsSince(&c, &before))
	}
}

// loadsSince is the difference of two counts.
func loadsSince(c, before *router.AdapterCount) *histogram {
	h := &histogram{sum: c.LoadSeconds - before.LoadSeconds}
	if len(c.LoadCounts) != len(c.LoadBounds)+1 {
		return h
	}
	h.shape(c.LoadBounds)
	copy(h.counts, c.LoadCounts)
	for i := range min(len(h.counts), len(before.LoadCounts)) {
		h.counts[i] -= before.LoadCounts[i]
	}
	return h
}

// known are the names of the present catalogue. table.mu is held.
func (m *Metrics) known() *names {
	c := &router.Catalogue{}
	if m.state != nil {
		c = m.state.Catalogue()
	}
	if m.names == nil || m.names.of != c {
		m.names = namesOf(c)
	}
	return m.names
}

// collectResidency tells of an adapter's ways onto the device and off it.
func collectResidency(ch chan<- prometheus.Metric, adapter string, r *row) {
	for _, c := range []struct {
		d *prometheus.Desc
		n uint64
	}{{descHits, r.hits}, {descMisses, r.misses}, {descPutOut, r.evictions}} {
		ch <- prometheus.MustNewConstMetric(c.d, prometheus.CounterValue, float64(c.n), adapter)
	}
	r.loads.shape(lora.TimeBounds[:])
	ch <- r.loads.metric(descLoadsOf, adapter)
}

// held counts the worker groups that hold each adapter, by label. As long as there
// is room, each has a row, used or not. table.mu is held.
func (m *Metrics) held() map[string]map[string]int {
	out := map[string]map[string]int{"device": {}, "host": {}}
	if m.state == nil {
		return out
	}
	n := m.known()
	for _, name := range slices.Sorted(maps.Keys(n.of.Adapters)) {
		if len(n.of.Adapters[name].Groups) > 0 {
			m.table.at(name)
		}
	}
	count := func(place, name string, groups int) {
		if m.table.rows[name] == nil {
			out[place][others] += groups
		} else {
			out[place][label(name)] += groups
		}
	}
	for _, g := range m.state.State().Groups {
		seen := map[string]bool{}
		for _, d := range g.Status.Resident {
			if name := n.first[d]; name != "" && !seen[name] {
				seen[name] = true
				count("device", name, 1)
			}
		}
	}
	for name, e := range n.of.Adapters {
		count("host", name, len(e.Groups))
	}
	return out
}
