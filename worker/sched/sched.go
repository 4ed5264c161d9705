package sched

import (
	"cmp"
	"slices"

	"chorale/worker/kv"
)

// Config bounds plans.
type Config struct {
	MaxBatchTokens int // rows of a step
	MaxRunning     int // sequences that run at once
	MaxAdapters    int // distinct adapters of a step; the base is free
	StarveSteps    int // steps that an adapter waits before another is drained
}

// Adapters is the device residency of adapters, as the scheduler needs it.
type Adapters interface {
	// Ready tells whether the adapter is on the device.
	Ready(digest string) bool
	// Want asks for it to be brought there. False: every adapter on the device
	// is in use, none can make room.
	Want(digest string) bool
	// Pinned tells whether it stays on the device even when nobody uses it, so
	// that draining it makes no room.
	Pinned(digest string) bool
	// Use and Unuse bracket a running sequence: an adapter in use stays.
	Use(digest string)
	Unuse(digest string)
}

// Memory lets the cache grow and shrink (memory.Pool).
type Memory interface {
	// At tells the step and how many sequences run.
	At(step uint64, running int)
	// Tend lets the cache grow without need, if there is memory to spare.
	Tend()
	// More asks for pages. True: some are on their way, wait for them.
	More(pages int) bool
}

// fixed is a memory that stays as it is.
type fixed struct{}

func (fixed) At(uint64, int) {}
func (fixed) Tend()          {}
func (fixed) More(int) bool  { return false }

// Seq is a sequence in the scheduler's care.
type Seq struct {
	// Adapter is its adapter's digest, "" for the base model.
	Adapter string
	// Tokens are prompt and answer so far; Computed of them are in the cache.
	Tokens   []int32
	Computed int
	// Cached counts the prompt tokens that were found in the cache at first.
	Cached int
	// NoPrefix keeps the sequence from starting on cached pages, for those who
	// want the logits of their prompt.
	NoPrefix bool
	Table    *kv.Table

	order   uint64
	running bool
	started bool
	// flying counts its entries that are launched and not committed; gone tells
	// that it was removed meanwhile.
	flying int
	gone   bool
}

// Unknown stands in Tokens for a token that a launched step is to bring.
const Unknown = int32(-1)

// Flying tells whether a launched step computes the sequence.
func (q *Seq) Flying() bool { return q.flying > 0 }

// pending counts the tokens to compute before the next one can be sampled.
func (q *Seq) pending() int { return len(q.Tokens) - q.Computed }

// Entry is one sequence's share of a step.
type Entry struct {
	Seq *Seq
	// N tokens are computed, from position From on, where Seq.Computed is when the
	// entry is planned.
	From, N int
	// Sample tells that they complete the sequence, so that a token follows.
	Sample bool
}

// Plan is a step's work.
type Plan struct {
	Entries   []Entry
	Preempted []*Seq
	// Full tells that the cache is full, and what is launched must be committed
	// before a sequence can be preempted; there are no entries then.
	Full bool
	// Adapters are the distinct adapters of the entries, sorted.
	Adapters []string
}

// Scheduler holds the sequences of one worker group. It is owned by one
// goroutine.
type Scheduler struct {
	cfg      Config
	pool     *kv.Pool
	adapters Adapters
	memory   Memory

	waiting []*Seq // by order
	running []*Seq // by order
	leaving []*Seq // removed, but a launched step still uses what they hold
	flying  int    // launched entries
	arrived uint64
	step    uint64
	// last is the step in which an adapter last had rows; blocked since when an
	// adapter could not get onto the device.
	last     map[string]uint64
	blocked  map[string]uint64
	draining string
	drainFor string
	// hold stops admissions until the adapter it names, which starves, has room.
	hold string
}

// New makes a scheduler over a pool of pages.
func New(cfg Config, pool *kv.Pool, adapters Adapters) *Scheduler {
	return &Scheduler{
		cfg: cfg, pool: pool, adapters: adapters, memory: fixed{},
		last: map[string]uint64{}, blocked: map[string]uint64{},
	}
}

// Share lets the cache grow and shrink. It precedes Add.
func (s *Scheduler) Share(m Memory) { s.memory = m }

// Waiting and Running count sequences.
func (s *Scheduler) Waiting() int { return len(s.waiting) }

// Running counts the admitted sequences.
func (s *Scheduler) Running() int { return len(s.running) }

// Add takes a new sequence.
func (s *Scheduler) Add(q *Seq) {
	s.arrived++
	q.order = s.arrived
	s.waiting = append(s.waiting, q)
}

// Remove ends a sequence wherever it is and gives its pages and its use of the
// adapter back: at once, or when the last launched step that computes it is
// committed. It is the only way out.
func (s *Scheduler) Remove(q *Seq) {
	if !q.running {
		s.waiting = drop(s.waiting, q)
		return
	}
	s.running = drop(s.running, q)
	if q.flying == 0 {
		s.leave(q)
		return
	}
	q.gone = true
	s.leaving = append(s.leaving, q)
}

// leave gives back what running takes.
func (s *Scheduler) leave(q *Seq) {
	q.running = false
	if q.Table != nil {
		q.Table.Release()
		q.Table = nil
	}
	if q.Adapter != "" {
		s.adapters.Unuse(q.Adapter)
	}
}

func drop(qs []*Seq, q *Seq) []*Seq {
	if i := slices.Index(qs, q); i >= 0 {
		return slices.Delete(qs, i, i+1)
	}
	return qs
}

// Next plans a step, on the assumption that sequences whose token a launched
// step brings will go on with it. An empty plan means that nothing can run now:
// no work, or all of it waits for adapters or for what is launched.
func (s *Scheduler) Next() Plan {
	s.step++
	s.pool.At(s.step, len(s.running)) // a page each for those who run
	s.memory.At(s.step, len(s.running))
	s.memory.Tend()
	p := &planner{s: s, budget: s.cfg.MaxBatchTokens, set: s.chooseAdapters(), in: map[*Seq]int{}}
	for _, decode := range []bool{true, false} {
		for _, q := range slices.Clone(s.running) {
			if q.running && (q.pending() == 1) == decode && p.allows(q) {
				p.extend(q)
			}
		}
	}
	if p.plan.Full {
		return Plan{Full: true}
	}
	p.admit()
	return p.finish()
}

// chooseAdapters picks the step's adapters among the running ones.
func (s *Scheduler) chooseAdapters() map[string]bool {
	set := map[string]bool{}
	for _, q := range s.running {
		if q.Adapter != "" && q.pending() > 0 {
			set[q.Adapter] = true
		}
	}
	if len(set) <= s.cfg.MaxAdapters {
		return set
	}
	names := make([]string, 0, len(set))
	for a := range set {
		names = append(names, a)
	}
	slices.SortFunc(names, func(a, b string) int {
		if c := cmp.Compare(s.last[a], s.last[b]); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	clear(set)
	for _, a := range names[:s.cfg.MaxAdapters] {
		set[a] = true
	}
	return set
}

// planner is the state of one Next.
type planner struct {
	s      *Scheduler
	budget int
	set    map[string]bool // adapters of this step
	plan   Plan
	in     map[*Seq]int // index in plan.Entries
}

func (p *planner) allows(q *Seq) bool { return q.Adapter == "" || p.set[q.Adapter] }

// extend gives a running sequence its next tokens. When pages run out it waits
// for such as are coming; if none are, younger ones are preempted.
func (p *planner) extend(q *Seq) {
	n := min(q.pending(), p.budget)
	if n <= 0 {
		return
	}
	for !p.plan.Full && !q.Table.Grow(q.Computed+n) {
		if p.s.memory.More(q.Table.Lacks(q.Computed + n)) {
			return
		}
		if p.s.flying > 0 { // a launched step may use the victim's pages
			p.plan.Full = true
			break
		}
		victim := p.s.running[len(p.s.running)-1]
		p.preempt(victim)
		if victim == q {
			return
		}
	}
	if !p.plan.Full {
		p.add(q, n)
	}
}

func (p *planner) add(q *Seq, n int) {
	p.in[q] = len(p.plan.Entries)
	p.plan.Entries = append(p.plan.Entries, Entry{Seq: q, From: q.Computed, N: n, Sample: n == q.pending()})
	p.budget -= n
}

// preempt sends a running sequence back to wait, in its old place.
func (p *planner) preempt(q *Seq) {
	s := p.s
	if i, ok := p.in[q]; ok {
		p.budget += p.plan.Entries[i].N
		p.plan.Entries[i].Seq = nil // taken out by finish
		delete(p.in, q)
	}
	s.leave(q)
	q.Computed = 0
	s.running = drop(s.running, q)
	at, _ := slices.BinarySearchFunc(s.waiting, q, func(a, b *Seq) int { return cmp.Compare(a.order, b.order) })
	s.waiting = slices.Insert(s.waiting, at, q)
	p.plan.Preempted = append(p.plan.Preempted, q)
}

// admit starts waiting sequences, in order, past those that are parked.
func (p *planner) admit() {
	s := p.s
	if len(p.plan.Preempted) > 0 {
		return // the cache is full
	}
	s.unblock()
	s.drained()
	if s.holding() {
		return
	}
	parked := map[string]bool{}
	for _, q := range slices.Clone(s.waiting) {
		if p.budget <= 0 || len(s.running) >= s.cfg.MaxRunning {
			break
		}
		if q.Adapter != "" && !p.adapterReady(q.Adapter, parked) {
			continue
		}
		if !p.start(q) {
			break // pages: who comes later must not overtake for ever
		}
	}
	s.relieve()
}

// adapterReady asks for an adapter; parked collects those that must wait.
func (p *planner) adapterReady(a string, parked map[string]bool) bool {
	s := p.s
	if a == s.draining {
		return false
	}
	if s.adapters.Ready(a) {
		delete(s.blocked, a)
		return true
	}
	if parked[a] {
		return false
	}
	if s.adapters.Want(a) {
		delete(s.blocked, a)
		return false
	}
	parked[a] = true
	if _, ok := s.blocked[a]; !ok {
		s.blocked[a] = s.step
	}
	return false
}

// drained ends the draining of an adapter once its last running sequence has
// ended, by giving its place to the adapter it was drained for.
func (s *Scheduler) drained() {
	if s.draining == "" {
		return
	}
	if _, still := s.blocked[s.drainFor]; still && s.users()[s.draining] > 0 {
		return
	} else if still {
		s.claim(s.drainFor)
	}
	s.draining, s.drainFor = "", ""
}

// claim asks for a starving adapter. If one that was drained did not make room
// enough, because it is smaller or pages of running sequences take the memory,
// nobody is admitted until there is: those who run come to an end.
func (s *Scheduler) claim(starved string) {
	if s.adapters.Want(starved) {
		delete(s.blocked, starved)
		return
	}
	s.hold = starved
}

// holding tells whether admissions wait for a starving adapter.
func (s *Scheduler) holding() bool {
	if s.hold == "" {
		return false
	}
	if _, still := s.blocked[s.hold]; still && !s.adapters.Want(s.hold) {
		return len(s.running)+len(s.leaving) > 0
	}
	delete(s.blocked, s.hold)
	s.hold = ""
	return false
}

// users counts the sequences that use each adapter.
func (s *Scheduler) users() map[string]int {
	n := map[string]int{}
	for _, qs := range [][]*Seq{s.running, s.leaving} {
		for _, q := range qs {
			if q.Adapter != "" {
				n[q.Adapter]++
			}
		}
	}
	return n
}

// relieve starts to drain an adapter when another has been kept off the device
// for too long: the one with the fewest running sequences.
func (s *Scheduler) relieve() {
	if s.draining != "" {
		return
	}
	starved, since := "", uint64(0)
	for a, t := range s.blocked {
		if starved == "" || t < since || t == since && a < starved {
			starved, since = a, t
		}
	}
	if starved == "" || s.step-since < uint64(s.cfg.StarveSteps) {
		return
	}
	counts := s.users()
	for a, n := range counts {
		if s.adapters.Pinned(a) {
			continue
		}
		if v := s.draining; v == "" || n < counts[v] || n == counts[v] && a < v {
			s.draining = a
		}
	}
	if s.draining != "" {
		s.drainFor = starved
	} else if _, alone := s.memory.(fixed); !alone {
		s.hold = starved // nobody has an adapter to give: pages take the memory
	}
}

// unblock forgets blocked adapters that nobody waits for any more. That admit
// did not come as far as one's sequences is no reason: the clock runs on.
func (s *Scheduler) unblock() {
	if len(s.blocked) == 0 {
		return
	}
	wanted := map[string]bool{}
	for _, q := range s.waiting {
		wanted[q.Adapter] = true
	}
	for a := range s.blocked {
		if !wanted[a] {
			delete(s.blocked, a)
		}
	}
}

// start admits one sequence. False: the pages do not suffice.
func (p *planner) start(q *Seq) bool {
	s := p.s
	tokens := q.Tokens
	if q.NoPrefix {
		tokens = nil
	}
	t, cached := s.pool.NewTable(q.Adapter, tokens)
	// Pages for all it has and, while others run, for the next token and one
	// for each of them, lest the newcomer be preempted at once.
	room := len(q.Tokens)
	if len(s.running) > 0 {
		room++
	}
	need := (room+kv.PageSize-1)/kv.PageSize - len(t.Pages)
	if lacks := need + len(s.running) - s.pool.Available(); lacks > 0 {
		s.memory.More(lacks)
		t.Release()
		return false
	}
	q.Table, q.Computed = t, cached
	if !q.started {
		q.started, q.Cached = true, cached
	}
	q.running = true
	s.waiting = drop(s.waiting, q)
	at, _ := slices.BinarySearchFunc(s.running, q, func(a, b *Seq) int { return cmp.Compare(a.order, b.order) })
	s.running = slices.Insert(s.running, at, q)
	if q.Adapter != "" {
		s.adapters.Use(q.Adapter)
		if !p.set[q.Adapter] {
			if len(p.set) >= s.cfg.MaxAdapters {
				return true // runs, but its turn comes in a later step
			}
			p.set[q.Adapter] = true
		}
	}
	n := min(q.pending(), p.budget)
	if !t.Grow(q.Computed + n) {
		p.preempt(q) // cannot be: need was checked; kept so that no state is lost
		return false
	}
	p.add(q, n)
	return true
}

// finish removes preempted entries, groups rows by adapter (base first), and
// notes who had a turn.
func (p *planner) finish() Plan {
	es := slices.DeleteFunc(p.plan.Entries, func(e Entry) bool { return e.Seq == nil })
	slices.SortStableFunc(es, func(a, b Entry) int { return cmp.Compare(a.Seq.Adapter, b.Seq.Adapter) })
	p.plan.Entries = es
	for i, e := range es {
		if a := e.Seq.Adapter; a != "" && (i == 0 || es[i-1].Seq.Adapter != a) {
			p.plan.Adapters = append(p.plan.Adapters, a)
			p.s.last[a] = p.s.step
		}
	}
	return p.plan
}

// Launch records that an entry is being computed. When more, it will yield a
// token with which the sequence goes on: Next counts on it.
func (s *Scheduler) Launch(e Entry, more bool) {
	q := e.Seq
	s.flying++
	q.flying++
	q.Computed = e.From + e.N
	if more {
		q.Tokens = append(q.Tokens, Unknown)
	}
}

// Commit records that a launched entry was computed and, when token is not
// negative, that it yielded that token. Entries are committed in the order of
// their launch. Full pages become shareable.
func (s *Scheduler) Commit(e Entry, token int32) {
	q, end := e.Seq, e.From+e.N
	s.flying--
	q.flying--
	if q.gone {
		if q.flying == 0 {
			s.leaving = drop(s.leaving, q)
			s.leave(q)
		}
		return
	}
	q.Table.Publish(q.Tokens, end)
	if token < 0 {
		return
	}
	if end < len(q.Tokens) {
		q.Tokens[end] = token
	} else {
		q.Tokens = append(q.Tokens, token)
	}
}

// Forget drops what the scheduler remembers of an adapter that is gone.
func (s *Scheduler) Forget(digest string) {
	delete(s.last, digest)
	delete(s.blocked, digest)
	s.pool.Forget(digest)
}
