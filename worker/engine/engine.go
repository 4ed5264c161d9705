package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"chorale/worker/kv"
	"chorale/worker/lora"
	"chorale/worker/memory"
	"chorale/worker/model/decoder"
	"chorale/worker/sample"
	"chorale/worker/sched"
	"chorale/worker/tensor"
)

// sequence is a request on its way.
type sequence struct {
	sched.Seq
	conn *Conn
	req  *Request
	// prompt counts the tokens that were given as prompt; generated those of
	// the answer.
	prompt, generated int
	maxTokens         int
	counts            *sample.Counts
	// unknown counts tokens that launched steps draw; row is the last one's place
	// among its step's logit rows.
	unknown, row int
	ended        bool
	// nextPrompt is the next prompt position to report log probabilities of.
	nextPrompt int
	promptLPs  []sample.Position
}

// Engine runs one model. See the package's story.
type Engine struct {
	opts    Options
	model   *decoder.Model
	backend tensor.Backend
	runner  *decoder.Runner
	mem     tensor.Memory
	ranks   Ranks
	log     *zap.Logger

	pool  *kv.Pool
	room  *memory.Pool
	store *lora.Store
	sched *sched.Scheduler
	conns map[*Conn]struct{}
	stats Status
	// capacity is the most tokens of a sequence.
	capacity int
	// bySeq finds the sequence of a plan's entry.
	bySeq map[*sched.Seq]*sequence
	// flights are the steps launched and not landed, oldest first; landed is when
	// the last one did.
	flights []*batch
	landed  time.Time
	// lost is why the device or the group is gone; it ends Run.
	lost error
	// outbox collects a step's outputs by connection.
	outbox map[*Conn][]Output

	mu     sync.Mutex
	inbox  []func()
	closed bool
	wake   chan struct{} // capacity 1
	done   chan struct{}
}

// New makes an engine for a model; Run makes it work. The engine owns neither
// model nor backend.
func New(b tensor.Backend, m *decoder.Model, o Options, log *zap.Logger) (*Engine, error) {
	if o.Context <= 0 || o.Context > m.Spec.Context {
		o.Context = m.Spec.Context
	}
	if o.MaxBatchTokens < 1 || o.MaxRunning < 1 || o.MaxAdapters < 1 || o.MaxResident != 0 && o.MaxResident < o.MaxAdapters || o.Pages < 0 || o.Pages == 1 {
		return nil, fmt.Errorf("%w: max batch tokens %d, max running %d, max adapters %d, max resident %d, pages %d",
			ErrOptions, o.MaxBatchTokens, o.MaxRunning, o.MaxAdapters, o.MaxResident, o.Pages)
	}
	// Buffers first: the pool takes what is left.
	runner, err := m.NewRunner(nil, o.MaxBatchTokens)
	if err != nil {
		return nil, err
	}
	if o.Ranks == nil {
		o.Ranks = alone{}
	}
	mem, err := openMemory(b, m, &o)
	if err != nil {
		runner.Free()
		return nil, err
	}
	runner.SetKV(mem.KV())
	e := &Engine{
		opts: o, model: m, backend: b, runner: runner, mem: mem, ranks: o.Ranks, log: log.Named("engine"),
		conns: map[*Conn]struct{}{}, outbox: map[*Conn][]Output{},
		bySeq: map[*sched.Seq]*sequence{},
		wake:  make(chan struct{}, 1), done: make(chan struct{}),
	}
	e.store = lora.NewStore(o.MaxResident, o.MaxHostBytes, func(a lora.Arrival) { e.do(func() { e.arrived(a) }) }, func(d string) { e.sched.Forget(d) })
	e.store.SetPolicy(o.Eviction)
	if err := e.share(); err != nil {
		runner.Free()
		return nil, errors.Join(err, mem.Close())
	}
	e.sched = sched.New(sched.Config{
		MaxBatchTokens: o.MaxBatchTokens, MaxRunning: o.MaxRunning, MaxAdapters: o.MaxAdapters, StarveSteps: o.StarveSteps,
	}, e.pool, e.store)
	e.sched.Share(e.room)
	return e, nil
}

// Capacity is the most tokens, prompt and answer, that one sequence can have.
func (e *Engine) Capacity() int { return e.capacity }

// Options gives the bounds in force.
func (e *Engine) Options() Options { return e.opts }

// Model gives the model.
func (e *Engine) Model() *decoder.Model { return e.model }

// do leaves a closure for the engine's goroutine. After the end it is dropped.
func (e *Engine) do(f func()) bool {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return false
	}
	e.inbox = append(e.inbox, f)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return true
}

// absorb runs what others left.
func (e *Engine) absorb() {
	e.mu.Lock()
	todo := e.inbox
	e.inbox = nil
	e.mu.Unlock()
	for _, f := range todo {
		f()
	}
}

// Run is the loop. It returns when ctx ends, after every sequence was aborted
// and all memory was given back; or, with an error that wraps tensor.ErrLost,
// when the device is lost, or ErrGroup, when another rank is. Sequences then end
// with ErrClosed, as in a process that stops: other workers may continue them.
func (e *Engine) Run(ctx context.Context) error {
	var watch sync.WaitGroup
	defer watch.Wait()
	defer close(e.done)
	defer e.stop()
	if e.grouped() {
		watch.Go(e.watchGroup)
	}
	for ctx.Err() == nil && e.lost == nil {
		e.absorb()
		if e.lost != nil {
			break
		}
		plan := e.sched.Next()
		e.store.Ahead(e.sched.Upcoming(2 * e.opts.MaxAdapters))
		e.stats.Preemptions += uint64(len(plan.Preempted))
		switch {
		case len(plan.Entries) > 0:
			e.launch(&plan)
			if len(e.flights) == e.runner.Depth() {
				e.land()
			}
		case len(e.flights) > 0:
			e.land()
		default:
			e.flush()
			// Preempting without running anything frees pages: plan again.
			if len(plan.Preempted) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
			case <-e.wake:
			}
		}
	}
	return e.lost
}

// stop ends everything. Packs, and pages on their way, are waited for: they hold
// device memory that would leak.
func (e *Engine) stop() {
	for len(e.flights) > 0 {
		e.land()
	}
	for c := range e.conns {
		for _, q := range c.seqs {
			e.end(q, Output{Reason: Abort, Err: ErrClosed})
		}
	}
	e.flush()
	for e.store.Loading()+e.room.Coming() > 0 {
		<-e.wake
		e.absorb()
	}
	e.mu.Lock()
	e.closed = true
	rest := e.inbox
	e.inbox = nil
	e.mu.Unlock()
	for _, f := range rest { // those who wait for an answer must get one
		f()
	}
	for c := range e.conns {
		for _, q := range c.seqs {
			e.end(q, Output{Reason: Abort, Err: ErrClosed})
		}
	}
	e.flush()
	for c := range e.conns {
		c.shut()
	}
	e.store.Close()
	e.runner.Free()
	if err := e.mem.Close(); err != nil && e.lost == nil {
		e.log.Error("device memory is not given back", zap.Error(err))
	}
}

// accept takes a request in, or answers with what is wrong with it.
func (e *Engine) accept(c *Conn, r *Request) {
	q := &sequence{conn: c, req: r, prompt: len(r.Tokens) - r.Generated, generated: r.Generated}
	q.Adapter, q.Tokens = r.Adapter, slices.Clone(r.Tokens)
	if e.lost != nil { // this very moment
		e.emit(c, Output{ID: r.ID, Reason: Abort, Err: ErrClosed})
		return
	}
	if err := e.admissible(q); err != nil {
		e.emit(c, Output{ID: r.ID, Reason: Abort, Err: err})
		return
	}
	if q.Adapter != "" {
		if err := e.store.Lease(q.Adapter); err != nil {
			e.emit(c, Output{ID: r.ID, Reason: Abort, Err: err})
			return
		}
	}
	q.maxTokens = min(r.MaxTokens, e.Capacity()-q.prompt)
	q.counts = sample.NewCounts(&r.Params, r.Tokens[:q.prompt])
	for _, id := range r.Tokens[q.prompt:] {
		q.counts.Add(id)
	}
	if r.Logprobs != nil && r.Logprobs.PromptStart >= 0 && r.Generated == 0 {
		q.NoPrefix = true
		q.nextPrompt = r.Logprobs.PromptStart
		if q.nextPrompt == 0 {
			q.promptLPs = append(q.promptLPs, sample.Position{ID: r.Tokens[0]})
			q.nextPrompt = 1
		}
	} else {
		q.nextPrompt = q.prompt
	}
	if !r.IgnoreEOS {
		bans := append(slices.Clone(e.opts.EOS), r.StopIDs...)
		slices.Sort(bans)
		r.Params.Bans = slices.Compact(bans)
	}
	c.seqs[r.ID] = q
	e.sched.Add(&q.Seq)
	if q.Adapter != "" {
		e.store.Prefetch(q.Adapter) // comes while the sequence waits for its turn
	}
	e.bySeq[&q.Seq] = q
}

// admissible checks what the router should have checked.
func (e *Engine) admissible(q *sequence) error {
	if _, dup := q.conn.seqs[q.req.ID]; dup {
		return fmt.Errorf("%w: sequence id %d is in use", ErrRequest, q.req.ID)
	}
	if q.prompt < 1 || q.generated < 0 {
		return fmt.Errorf("%w: %d tokens, %d of them generated", ErrRequest, len(q.Tokens), q.generated)
	}
	if len(q.Tokens) >= e.Capacity() && (q.req.MaxTokens > q.generated || len(q.Tokens) > e.Capacity()) {
		return fmt.Errorf("%w: %d tokens, %d fit", ErrTooLong, len(q.Tokens), e.Capacity())
	}
	for i, id := range q.Tokens {
		if id < 0 || int(id) >= e.model.Spec.Vocab {
			return fmt.Errorf("%w: token %d is %d, the vocabulary has %d", ErrRequest, i, id, e.model.Spec.Vocab)
		}
	}
	if lp := q.req.Logprobs; lp != nil {
		for _, id := range lp.IDs {
			if id < 0 || int(id) >= e.model.Spec.Vocab {
				return fmt.Errorf("%w: log probability of token %d, the vocabulary has %d", ErrRequest, id, e.model.Spec.Vocab)
			}
		}
	}
	return nil
}

// end is the one way out for a sequence: its place on the connection is given
// back and its last output emitted; pages, device and lease follow, at once or
// when no launched step computes it any more.
func (e *Engine) end(q *sequence, last Output) {
	q.ended = true
	e.sched.Remove(&q.Seq)
	delete(q.conn.seqs, q.req.ID)
	last.ID = q.req.ID
	e.emit(q.conn, last)
	e.settle(q)
}

// settle gives back the lease of a sequence that has ended and is computed
// nowhere.
func (e *Engine) settle(q *sequence) {
	if !q.ended || q.Flying() {
		return
	}
	delete(e.bySeq, &q.Seq)
	if q.Adapter != "" {
		e.store.Return(q.Adapter)
	}
}

func (e *Engine) emit(c *Conn, o Output) { e.outbox[c] = append(e.outbox[c], o) }

// publish sends every connection its outputs and the status.
func (e *Engine) publish() {
	st := e.status()
	for c := range e.conns {
		c.push(e.outbox[c], st)
	}
	clear(e.outbox)
}

// flush sends outputs that came about without a step.
func (e *Engine) flush() {
	if len(e.outbox) > 0 {
		e.publish()
	}
}

func (e *Engine) status() Status {
	st := e.stats
	st.Running, st.Waiting = e.sched.Running(), e.sched.Waiting()
	st.PagesUsed, st.Pages = e.pool.Held(), e.pool.Len()
	st.Resident = e.store.Resident()
	st.LoRA = e.store.Totals()
	st.Memory = e.memoryStatus()
	return st
}

// arrived takes in an adapter that reached the device, or fails those who
// waited for it.
func (e *Engine) arrived(a lora.Arrival) {
	e.store.Arrived(a)
	if a.Err == nil {
		if len(e.flights) == 0 { // no step will tell of it soon
			e.publish()
		}
		return
	}
	if e.ranks.Err() != nil { // the adapter is not at fault: its sequences go on elsewhere
		e.groupLost()
		return
	}
	if errors.Is(a.Err, tensor.ErrLost) {
		e.lost = fmt.Errorf("bringing adapter %s onto the device: %w", a.Digest, a.Err)
		return
	}
	e.log.Error("adapter could not be brought onto the device", zap.String("digest", a.Digest), zap.Error(a.Err))
	e.abortAdapter(a.Digest, e.store.Failed(a.Digest))
}

func (e *Engine) abortAdapter(digest string, err error) {
	for c := range e.conns {
		for _, q := range c.seqs {
			if q.Adapter == digest {
				e.end(q, Output{Reason: Abort, Err: err})
			}
		}
	}
}
