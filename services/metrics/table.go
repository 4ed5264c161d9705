package metrics

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"chorale/internal/eviction"
)

const (
	// base is the adapter label of requests to the base model.
	base = "base"
	// others is the label of all adapters that have no series of their own.
	others = "_other"
	// marked is appended to the name of an adapter that would be taken for one of
	// these, so that no adapter has them.
	marked = "@adapter"
)

// label is how an adapter's name stands in the label adapter: as it is, unless
// it would be taken for base or others.
func label(name string) string {
	name = strings.ToValidUTF8(name, "\uFFFD") // which the registry refuses; a scrape must not fail for it
	if isSpecial(name) {
		return name + marked
	}
	return name
}

// isSpecial tells whether a name is a special label, marked or not.
func isSpecial(name string) bool {
	for strings.HasSuffix(name, marked) {
		name = strings.TrimSuffix(name, marked)
	}
	return name == base || name == others
}

// row is what is counted of one adapter.
type row struct {
	queue, ttft, tpot, e2e histogram
	answers                map[string]uint64 // by how they ended
	errors                 map[string]uint64 // by reason
	prompt, generated      uint64            // tokens

	hits, misses, evictions uint64
	loads                   histogram
}

func newRow() *row { return &row{answers: map[string]uint64{}, errors: map[string]uint64{}} }

// add takes in all of another row.
func (r *row) add(o *row) {
	for _, h := range []struct{ to, from *histogram }{{&r.queue, &o.queue}, {&r.ttft, &o.ttft}, {&r.tpot, &o.tpot}, {&r.e2e, &o.e2e}, {&r.loads, &o.loads}} {
		h.to.add(h.from)
	}
	for k, n := range o.answers {
		r.answers[k] += n
	}
	for k, n := range o.errors {
		r.errors[k] += n
	}
	r.prompt, r.generated = r.prompt+o.prompt, r.generated+o.generated
	r.hits, r.misses, r.evictions = r.hits+o.hits, r.misses+o.misses, r.evictions+o.evictions
}

// table holds the rows of the adapters that are used most, and one of all
// others. Whatever is counted is in exactly one row, so that the sum over all
// rows is what was counted in all. When a row's place goes to another adapter,
// what it counted moves to the row of the others, which therefore never
// decreases; the newcomer begins at 0, for what was counted of it before is
// among the others and stays there.
type table struct {
	most int

	mu   sync.Mutex
	rows map[string]*row // by name, at most most
	base *row
	rest *row
	// uses are those of late, of adapters with and without a row.
	counter *eviction.Counter
	uses    map[string]*eviction.Uses
}

func newTable(most int) *table {
	return &table{
		most: most, rows: map[string]*row{}, base: newRow(), rest: newRow(),
		counter: eviction.NewCounter(eviction.LFU), uses: map[string]*eviction.Uses{},
	}
}

// at is the row where an adapter's counts go. mu is held.
func (t *table) at(name string) *row {
	if name == "" {
		return t.base
	}
	r := t.rows[name]
	if r == nil && len(t.rows) < t.most {
		r = newRow()
		t.rows[name] = r
	}
	if r == nil {
		return t.rest
	}
	return r
}

// use notes a request, by which places for rows are given. mu is held.
func (t *table) use(name string) {
	if name == "" || t.most == 0 {
		return
	}
	u := t.uses[name]
	if u == nil {
		u = &eviction.Uses{}
		t.uses[name] = u
	}
	t.counter.Use(u, t.most)
}

// rank gives rows to the adapters that were used most of late. One without a row
// must have been used twice as much as the one whose place it takes, so that
// series do not come and go by chance. mu is held.
func (t *table) rank() {
	maps.DeleteFunc(t.uses, func(name string, u *eviction.Uses) bool { return t.rows[name] == nil && t.counter.Forgotten(*u) })
	if len(t.uses) <= len(t.rows) {
		return
	}
	recent := func(name string) float64 {
		if u := t.uses[name]; u != nil {
			return t.counter.Recent(*u)
		}
		return 0
	}
	byUse := func(a, b string) int { return cmp.Or(cmp.Compare(recent(a), recent(b)), cmp.Compare(a, b)) }
	have := slices.SortedFunc(maps.Keys(t.rows), byUse)
	var want []string
	for name := range t.uses {
		if t.rows[name] == nil {
			want = append(want, name)
		}
	}
	slices.SortFunc(want, func(a, b string) int { return byUse(b, a) })
	for i := 0; i < min(len(have), len(want)) && recent(want[i]) > 2*recent(have[i]); i++ {
		t.rest.add(t.rows[have[i]])
		delete(t.rows, have[i])
		t.rows[want[i]] = newRow()
	}
}

// each calls f for every row with its label, those of adapters by name. The row of
// the others is there as soon as there may be others. mu is held.
func (t *table) each(f func(label string, r *row)) {
	f(base, t.base)
	for _, name := range slices.Sorted(maps.Keys(t.rows)) {
		f(label(name), t.rows[name])
	}
	if len(t.rows) >= t.most {
		f(others, t.rest)
	}
}
