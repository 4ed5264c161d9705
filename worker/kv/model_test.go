package kv

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// seq is a sequence of the model: its table, its tokens and how many of them
// are computed. content says what its pages hold, page by page: under which
// digest and flush the tokens up to there were computed.
type seq struct {
	table    *Table
	digest   string
	tokens   []int32
	computed int
}

// world is a pool beside a naive picture of what its pages hold.
type world struct {
	pool *Pool
	seqs []*seq
	// content is the prefix whose values a page holds, spelled out.
	content map[int32]prefix
	epoch   map[string]int // by digest, raised by Forget
	flushes int
	step    uint64
	reserve int
	keep    map[int32]uint64 // of the groups that are there
}

type prefix struct {
	digest  string
	tokens  string
	epoch   int
	flushes int
}

func newWorld(t *rapid.T) *world {
	groups, per := rapid.IntRange(1, 16).Draw(t, "groups"), rapid.IntRange(1, 4).Draw(t, "per group")
	w := &world{pool: NewGrouped(groups, per), content: map[int32]prefix{}, epoch: map[string]int{}, keep: map[int32]uint64{}}
	for range rapid.IntRange(0, groups).Draw(t, "there") {
		w.gain(t)
	}
	return w
}

func spell(tokens []int32) string {
	b := make([]byte, len(tokens))
	for i, t := range tokens {
		b[i] = byte(t)
	}
	return string(b)
}

func (w *world) check(t *rapid.T) {
	tables := make([]*Table, len(w.seqs))
	held := map[int32]bool{}
	for i, s := range w.seqs {
		tables[i] = s.table
		for _, pg := range s.table.Pages {
			held[pg] = true
		}
	}
	if err := w.pool.Check(tables...); err != nil {
		t.Fatal(err)
	}
	if n, _ := w.pool.Groups(); n != len(w.keep) || w.pool.Len() != n*w.pool.GroupPages() {
		t.Fatalf("%d groups of %d are there, %d were gained", n, w.pool.Len(), len(w.keep))
	}
	if w.pool.Held() != len(held) || w.pool.Available() != w.pool.Len()-len(held) {
		t.Fatalf("pool says %d held, %d available; tables hold %d of %d", w.pool.Held(), w.pool.Available(), len(held), w.pool.Len())
	}
	for _, s := range w.seqs { // nobody else wrote into what a sequence computed
		for i, pg := range s.table.Pages {
			if n := min((i+1)*PageSize, s.computed); n > i*PageSize && (w.content[pg].tokens != spell(s.tokens[:n]) || w.content[pg].digest != s.digest) {
				t.Fatalf("page %d of a sequence holds something else", i)
			}
		}
	}
}

func (w *world) start(t *rapid.T) {
	s := &seq{digest: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "digest")}
	// Few distinct texts, so that prefixes meet; they part at page borders and elsewhere.
	n := rapid.IntRange(1, 5*PageSize).Draw(t, "length")
	part := rapid.SampledFrom([]int{0, PageSize, PageSize + 3, 3 * PageSize, 999}).Draw(t, "part")
	for i := range n {
		v := int32(1)
		if i >= part {
			v = 2
		}
		s.tokens = append(s.tokens, v)
	}
	var cached int
	s.table, cached = w.pool.NewTable(s.digest, s.tokens)
	if cached >= n || cached%PageSize != 0 || len(s.table.Pages)*PageSize != cached {
		t.Fatalf("%d of %d tokens cached in %d pages", cached, n, len(s.table.Pages))
	}
	for i, pg := range s.table.Pages {
		want := prefix{s.digest, spell(s.tokens[:(i+1)*PageSize]), w.epoch[s.digest], w.flushes}
		if w.content[pg] != want {
			t.Fatalf("page %d holds %+v, shared for %+v", i, w.content[pg], want)
		}
	}
	s.computed = cached
	w.seqs = append(w.seqs, s)
}

func (w *world) pick(t *rapid.T) *seq {
	if len(w.seqs) == 0 {
		t.Skip("no sequence")
	}
	return w.seqs[rapid.IntRange(0, len(w.seqs)-1).Draw(t, "which")]
}

// compute grows a sequence and publishes what is full.
func (w *world) compute(t *rapid.T) {
	s := w.pick(t)
	n := rapid.IntRange(1, 2*PageSize).Draw(t, "tokens")
	for len(s.tokens) < s.computed+n {
		s.tokens = append(s.tokens, 3)
	}
	need := (s.computed+n+PageSize-1)/PageSize - len(s.table.Pages)
	before, avail := slices.Clone(s.table.Pages), w.pool.Available()
	if ok := s.table.Grow(s.computed + n); ok != (need <= avail) {
		t.Fatalf("Grow by %d pages of %d available: %v", need, avail, ok)
	} else if !ok {
		if !slices.Equal(before, s.table.Pages) || w.pool.Available() != avail {
			t.Fatal("a refused Grow took pages")
		}
		return
	}
	for i := s.computed / PageSize; i*PageSize < s.computed+n; i++ {
		end := min((i+1)*PageSize, s.computed+n)
		// What is written now counts to this sequence's start; whether it may be
		// found is checked by who finds it.
		w.content[s.table.Pages[i]] = prefix{s.digest, spell(s.tokens[:end]), w.epoch[s.digest], w.flushes}
	}
	s.computed += n
	s.table.Publish(s.tokens, s.computed)
}

// give takes a group out and compares the choice with a naive one.
func (w *world) give(t *rapid.T) {
	ages, age := map[int32]uint64{}, ^uint64(0)
	for g := range int32(len(w.pool.groups)) {
		until, there := w.keep[g]
		if !there || until > w.step {
			continue
		}
		used, held, empty := uint64(0), false, true
		for pg := int(g) * w.pool.per; pg < int(g+1)*w.pool.per; pg++ {
			e := w.pool.pages[pg]
			held = held || e.refs > 0
			if e.lru != nil {
				used, empty = max(used, e.used), false
			}
		}
		if held {
			continue
		}
		if !empty {
			used++ // even the oldest prefix is worth more than nothing
		}
		ages[g], age = used, min(age, used)
	}
	avail := w.pool.Available()
	if n := max(0, min(len(ages), (avail-w.reserve)/w.pool.per)); n != w.pool.Givable() {
		t.Fatalf("%d groups can be given, the pool says %d", n, w.pool.Givable())
	}
	_, any := w.pool.NextUsed()
	g, ok := w.pool.Give()
	if ok != any || !ok && w.pool.Available() != avail {
		t.Fatalf("NextUsed says %v, Give %v", any, ok)
	}
	if !ok {
		return
	}
	if w.pool.Available() < w.reserve || w.pool.Available() != avail-w.pool.per {
		t.Fatalf("%d pages were available, now %d; %d are reserved", avail, w.pool.Available(), w.reserve)
	}
	if used, may := ages[g]; !may || used != age {
		t.Fatalf("group %d of age %d was given (allowed: %v), one of age %d is due", g, used, may, age)
	}
	for other, used := range ages {
		if age == 0 && used == 0 && other > g {
			t.Fatalf("empty group %d was given before %d", g, other)
		}
	}
	w.lose(g)
}

func (w *world) lose(g int32) {
	delete(w.keep, g)
	for pg := int(g) * w.pool.per; pg < int(g+1)*w.pool.per; pg++ {
		delete(w.content, int32(pg))
	}
}

// gain brings a group that is not there, at times one to be kept a while.
func (w *world) gain(t *rapid.T) {
	absent := w.pool.Absent(1, func(g int32) bool { return false })
	if len(absent) == 0 {
		t.Skip("all are there")
	}
	keep := w.step + uint64(rapid.IntRange(0, 3).Draw(t, "keep"))
	w.pool.Gain(absent[0], keep)
	w.keep[absent[0]] = keep
}

// TestModel compares the pool with the naive picture under random operations.
// Sequences that live through a Flush or Forget are ended by it here, as the
// picture has one age per page; TestFlush looks at those.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		end := func(s *seq) {
			s.table.Release()
			w.seqs = slices.DeleteFunc(w.seqs, func(o *seq) bool { return o == s })
		}
		t.Repeat(map[string]func(*rapid.T){
			"":        w.check,
			"start":   w.start,
			"compute": w.compute,
			"release": func(t *rapid.T) { end(w.pick(t)) },
			"gain":    w.gain,
			"give":    w.give,
			"unkeep": func(*rapid.T) {
				w.pool.Unkeep()
				for g := range w.keep {
					w.keep[g] = 0
				}
			},
			"step": func(t *rapid.T) {
				w.step++
				w.reserve = rapid.IntRange(0, 4).Draw(t, "reserve")
				w.pool.At(w.step, w.reserve)
			},
			"flush": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
					t.Skip("not now")
				}
				for _, s := range slices.Clone(w.seqs) {
					end(s)
				}
				cached := w.pool.cached.Len()
				if n := w.pool.Flush(); n != cached || w.pool.Free() != w.pool.Len() {
					t.Fatalf("%d of %d cached pages flushed, %d of %d free", n, cached, w.pool.Free(), w.pool.Len())
				}
				w.flushes++
			},
			"forget": func(t *rapid.T) {
				d := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "digest")
				for _, s := range slices.Clone(w.seqs) {
					if s.digest == d {
						end(s)
					}
				}
				w.pool.Forget(d)
				w.epoch[d]++
			},
		})
	})
}
