package sample

import (
	"cmp"
	"slices"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// maxListed is the largest top-k for which ranks send each other their own first
// k, and nucleusListed how many tokens of a row with top-p. What these do not
// decide is gathered.
const (
	maxListed     = 1024
	nucleusListed = 256
)

// Sharded finds tokens and log probabilities of rows whose logits lie on several
// ranks, the same on all of them, and those of Sampler up to the order of sums.
// It is not safe for concurrent use.
//
// Rounds are one AllGather each, for all rows of a call:
//
//  1. statistics, best token, log probabilities asked for, and of a row with
//     top-k each rank's first k: decides greedy rows and those with top-k.
//  2. each rank's weight, and of a row with top-p its first few: decides top-p
//     if the cut lies among them.
//  3. the token, from the rank in whose weight the draw falls.
//
// A row that is still undecided, of a top-p or top-k that takes in very many, is
// gathered whole, one AllGather each. Rounds that no row needs are left out.
type Sharded struct {
	one     Sampler
	send    words
	recv    []words // by rank
	all     []uint32
	stats   []tensor.LogitStat
	entries []entry
	whole   []float32
	rows    []pending
}

// pending is a row on its way.
type pending struct {
	way
	best entry // of the adjusted row
	// owner is the rank in whose weight the draw falls, before the weight of the
	// ranks before it, total that of all.
	owner         int
	before, total float64
	raw           float32 // the token's logit, once it is known
}

// way is how a row's token is found.
type way uint8

const (
	decided way = iota
	byWeight
	byNucleus
	gathered
)

// step is the arguments of one call.
type step struct {
	*Shard
	out  []tensor.Sampled
	rows []tensor.SampleRow
	last func(*tensor.SampleRow) int32
}

// Stats joins the statistics of rows over ranks.
func (s *Sharded) Stats(out []tensor.LogitStat, sh Shard) error {
	s.begin()
	for i := range out {
		s.send.putStat(sh.stat(i, sh.own(i)))
	}
	if err := s.exchange(sh.Group); err != nil {
		return err
	}
	for i := range out {
		out[i] = s.joinStats()
	}
	return nil
}

// Sample serves rows, the same on all ranks, of which sh holds this rank's part.
// last gives the token that a row's Last stands for, -1 for none.
func (s *Sharded) Sample(out []tensor.Sampled, sh Shard, rows []tensor.SampleRow, last func(*tensor.SampleRow) int32) error {
	st := &step{&sh, out, rows, last}
	s.rows = slices.Grow(s.rows[:0], len(rows))[:len(rows)]
	clear(s.rows)
	for _, round := range []func(*step) error{s.best, s.weights, s.draws, s.gather} {
		if err := round(st); err != nil {
			return err
		}
	}
	for i := range out {
		out[i].Logprob = float64(s.rows[i].raw) - float64(out[i].Stat.LogSumExp)
	}
	return nil
}

func (s *Sharded) begin() { s.send.w = s.send.w[:0] }

// exchange gives every rank's words to all.
func (s *Sharded) exchange(g collective.Group) error {
	n, size := len(s.send.w), g.Size()
	s.all = slices.Grow(s.all[:0], n*size)[:n*size]
	if n > 0 {
		if err := g.AllGather(collective.Bytes(s.all), collective.Bytes(s.send.w)); err != nil {
			return err
		}
	}
	s.recv = s.recv[:0]
	for r := range size {
		s.recv = append(s.recv, words{w: s.all[r*n : (r+1)*n]})
	}
	return nil
}

func (s *Sharded) joinStats() tensor.LogitStat {
	s.stats = s.stats[:0]
	for r := range s.recv {
		s.stats = append(s.stats, s.recv[r].stat())
	}
	return joined(s.stats)
}

// adjusted gives this rank's part of a row with the row's changes.
func (s *Sharded) adjusted(st *step, i int) []float32 {
	row, r := st.own(i), &st.rows[i]
	last := st.last(r)
	if len(r.Adjust) == 0 && len(r.Ban) == 0 && last < 0 {
		return row
	}
	s.one.row = append(s.one.row[:0], row...)
	adjust(s.one.row, int32(st.first()), r, last)
	return s.one.row
}

// listed is how many tokens each rank lists of a row with top-k, 0 for none.
func (st *step) listed(r *tensor.SampleRow) int {
	if r.Given || r.Greedy() || r.TopK <= 0 || r.TopK > maxListed {
		return 0
	}
	return min(r.TopK, st.Width)
}

// best is the first round.
func (s *Sharded) best(st *step) error {
	s.begin()
	for i := range st.rows {
		s.putBest(st, i)
	}
	if err := s.exchange(st.Group); err != nil {
		return err
	}
	for i := range st.rows {
		s.takeBest(st, i)
	}
	return nil
}

func (s *Sharded) putBest(st *step, i int) {
	r, raw := &st.rows[i], st.own(i)
	stat := st.stat(i, raw)
	s.send.putStat(stat)
	if r.Given {
		s.send.putFloat(st.at(raw, r.Token))
	} else {
		row, best := s.adjusted(st, i), none
		if len(row) > 0 {
			at := int(stat.ArgMax) - st.first()
			if &row[0] != &raw[0] {
				at = int(ArgMax(row))
			}
			best = entry{id: int32(st.first() + at), logit: row[at], raw: raw[at]}
		}
		s.send.putEntry(best)
		s.putList(st, row, raw, st.listed(r))
	}
	for _, id := range r.IDs {
		s.send.putFloat(st.at(raw, id))
	}
	s.putList(st, raw, raw, min(r.Top, st.Width))
}

// putList sends the n first of a row, and nothing instead of those that this
// rank has too few for.
func (s *Sharded) putList(st *step, row, raw []float32, n int) {
	if n == 0 {
		return
	}
	ids := topIDs(row, n)
	for _, at := range ids {
		s.send.putEntry(entry{id: int32(st.first()) + at, logit: row[at], raw: raw[at]})
	}
	for range n - len(ids) {
		s.send.putEntry(none)
	}
}

// takeLists reads lists of n tokens of all ranks into s.entries. A list that is
// full ends with what may not be its rank's last.
func (s *Sharded) takeLists(n int) {
	s.entries = s.entries[:0]
	for r := range s.recv {
		for k := range n {
			if e := s.recv[r].entry(); e.id >= 0 {
				e.last = k == n-1
				s.entries = append(s.entries, e)
			}
		}
	}
}

// bySize sorts s.entries by logits, NaN last, ties by ids.
func (s *Sharded) bySize() {
	slices.SortFunc(s.entries, func(a, b entry) int {
		if c := cmp.Compare(b.logit, a.logit); c != 0 {
			return c
		}
		return cmp.Compare(a.id, b.id)
	})
}

func (s *Sharded) takeBest(st *step, i int) {
	r, p, out := &st.rows[i], &s.rows[i], &st.out[i]
	*out = tensor.Sampled{Token: r.Token, Stat: s.joinStats()}
	if r.Given {
		p.raw = s.takeAt(st, r.Token)
	} else {
		s.takeBestToken(st, i)
	}
	for _, id := range r.IDs {
		out.Requested = append(out.Requested, tensor.TokenLogprob{ID: id, Logprob: float64(s.takeAt(st, id)) - float64(out.Stat.LogSumExp)})
	}
	if r.Top > 0 {
		s.takeLists(min(r.Top, st.Width))
		s.bySize()
		for _, e := range s.entries[:min(r.Top, len(s.entries))] {
			out.Top = append(out.Top, tensor.TokenLogprob{ID: e.id, Logprob: float64(e.raw) - float64(out.Stat.LogSumExp)})
		}
	}
}

// takeAt reads the logit of a token that all ranks were asked for.
func (s *Sharded) takeAt(st *step, id int32) float32 {
	var out float32
	for r := range s.recv {
		if v := s.recv[r].float(); int(id)/st.Width == r {
			out = v
		}
	}
	return out
}

// takeBestToken finds the best token and tells how the row goes on.
func (s *Sharded) takeBestToken(st *step, i int) {
	r, p := &st.rows[i], &s.rows[i]
	p.best = none
	for k := range s.recv {
		e := s.recv[k].entry()
		if e.id >= 0 && (p.best.id < 0 || e.logit > p.best.logit || p.best.logit != p.best.logit && e.logit == e.logit) {
			p.best = e
		}
	}
	n := st.listed(r)
	s.takeLists(n)
	top := p.best.logit
	switch {
	case r.Greedy() || top-top != 0: // as in Sampler.next
		s.decide(st, i, p.best)
	case n > 0:
		s.drawListed(st, i)
	case r.TopK > 0 && r.TopK < st.Total:
		p.way = gathered
	case r.TopP < 1:
		p.way = byNucleus
	default:
		p.way = byWeight
	}
}

func (s *Sharded) decide(st *step, i int, e entry) {
	st.out[i].Token, s.rows[i].raw, s.rows[i].way = e.id, e.raw, decided
}

// drawListed draws from s.entries, among which are all that top-k leaves.
func (s *Sharded) drawListed(st *step, i int) {
	r, top := &st.rows[i], s.rows[i].best.logit
	slices.SortFunc(s.entries, func(a, b entry) int { return cmp.Compare(a.id, b.id) })
	s.one.cands = s.one.cands[:0]
	reach := reachOf(r)
	for _, e := range s.entries {
		if d := e.logit - top; d >= reach {
			s.one.cands = append(s.one.cands, candidate{e.id, e.logit, weight(d, r)})
		}
	}
	s.one.truncate(r)
	s.decideListed(st, i, s.one.draw(r.U))
}

// decideListed decides for a token of s.entries.
func (s *Sharded) decideListed(st *step, i int, id int32) {
	s.decide(st, i, s.entries[slices.IndexFunc(s.entries, func(e entry) bool { return e.id == id })])
}

// some tells whether rows go one of the ways.
func (s *Sharded) some(ways ...way) bool {
	return slices.ContainsFunc(s.rows, func(p pending) bool { return slices.Contains(ways, p.way) })
}

// weights is the second round.
func (s *Sharded) weights(st *step) error {
	if !s.some(byWeight, byNucleus) {
		return nil
	}
	s.begin()
	for i := range s.rows {
		switch s.rows[i].way {
		case byWeight:
			s.collect(st, i)
			s.send.putDouble(s.one.total())
		case byNucleus:
			s.putNucleus(st, i)
		}
	}
	if err := s.exchange(st.Group); err != nil {
		return err
	}
	for i := range s.rows {
		switch s.rows[i].way {
		case byWeight:
			s.takeWeights(st, i)
		case byNucleus:
			s.takeNucleus(st, i)
		}
	}
	return nil
}

// collect gathers this rank's tokens worth drawing from.
func (s *Sharded) collect(st *step, i int) {
	s.one.collect(s.adjusted(st, i), int32(st.first()), s.rows[i].best.logit, &st.rows[i])
}

// putNucleus sends this rank's weight and its first tokens.
func (s *Sharded) putNucleus(st *step, i int) {
	raw := st.own(i)
	s.collect(st, i)
	s.send.putDouble(s.one.total())
	s.one.bySize()
	n := min(nucleusListed, st.Width)
	for _, c := range s.one.cands[:min(n, len(s.one.cands))] {
		s.send.putEntry(entry{id: c.id, logit: c.logit, raw: st.at(raw, c.id)})
	}
	for range n - len(s.one.cands) {
		s.send.putEntry(none)
	}
}

// takeNucleus draws from a row with top-p, if its cut lies among the tokens that
// the ranks sent.
func (s *Sharded) takeNucleus(st *step, i int) {
	r, p := &st.rows[i], &s.rows[i]
	for k := range s.recv {
		p.total += s.recv[k].double()
	}
	s.takeLists(min(nucleusListed, st.Width))
	s.bySize()
	s.one.cands = s.one.cands[:0]
	var sum float64
	for _, e := range s.entries {
		w := weight(e.logit-p.best.logit, r)
		s.one.cands = append(s.one.cands, candidate{e.id, e.logit, w})
		if sum += w; sum >= r.TopP*p.total {
			break
		}
		if e.last { // who comes next is not known
			p.way = gathered
			return
		}
	}
	s.one.aboveMin(r)
	s.decideListed(st, i, s.one.draw(r.U))
}

// takeWeights finds the rank in whose weight the draw falls.
func (s *Sharded) takeWeights(st *step, i int) {
	p := &s.rows[i]
	parts := make([]float64, len(s.recv))
	for r := range s.recv {
		parts[r] = s.recv[r].double()
		p.total += parts[r]
	}
	target, sum := st.rows[i].U*p.total, 0.0
	for r, w := range parts {
		if w > 0 {
			p.owner, p.before = r, sum
		}
		if sum += w; sum > target {
			return
		}
	}
}

// draws is the third round.
func (s *Sharded) draws(st *step) error {
	if !s.some(byWeight) {
		return nil
	}
	s.begin()
	for i := range s.rows {
		if p := &s.rows[i]; p.way == byWeight {
			e := none
			if p.owner == st.Group.Rank() {
				s.collect(st, i)
				e.id = s.one.drawFrom(p.before, st.rows[i].U*p.total)
				e.raw = st.at(st.own(i), e.id)
			}
			s.send.putEntry(e)
		}
	}
	if err := s.exchange(st.Group); err != nil {
		return err
	}
	for i := range s.rows {
		if p := &s.rows[i]; p.way == byWeight {
			for r := range s.recv {
				if e := s.recv[r].entry(); r == p.owner {
					s.decide(st, i, e)
				}
			}
		}
	}
	return nil
}

// gather brings rows that nothing else decides to every rank.
func (s *Sharded) gather(st *step) error {
	for i := range s.rows {
		if s.rows[i].way != gathered {
			continue
		}
		n := st.Width * st.Group.Size()
		s.whole = slices.Grow(s.whole[:0], n)[:n]
		if err := st.Group.AllGather(collective.Bytes(s.whole), collective.Bytes(st.Row(i)[:st.Width])); err != nil {
			return err
		}
		r := &st.rows[i]
		logits := s.whole[:st.Total]
		id := s.one.next(logits, st.out[i].Stat.ArgMax, r, st.last(r))
		s.decide(st, i, entry{id: id, raw: logits[id]})
	}
	return nil
}
