package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"chorale/internal/chattemplate"
	"chorale/internal/tokenizer"
)

// Reasons that workers give for failed sequences.
const (
	// ReasonAdapterNotLoaded: the digest is not in the worker's memory.
	ReasonAdapterNotLoaded = "ADAPTER_NOT_LOADED"
	// ReasonAdapterUnloaded: the adapter was removed by force.
	ReasonAdapterUnloaded = "ADAPTER_UNLOADED"
	// ReasonTooLong: the sequence does not fit context or cache.
	ReasonTooLong = "TOO_LONG"
	// ReasonClosed: the worker is stopping.
	ReasonClosed = "WORKER_CLOSED"
)

// Text is the model's text half.
type Text struct {
	// Tokenizer is nil where prompts and answers are token ids only.
	Tokenizer *tokenizer.Tokenizer
	// Template is nil when the model has none.
	Template *chattemplate.Template
	BOS, EOS string // special tokens' spellings, for the template
}

// Residency brings adapters back that max_loaded_loras pushed out, and notes
// which are used. The adapter manager implements it.
type Residency interface {
	// Ensure returns, when the names can be used, the registry's revision to
	// wait for.
	Ensure(ctx context.Context, names []string) (revision uint64, err error)
	// Touch notes that names are in use.
	Touch(ctx context.Context, names []string) error
	// Reload loads a name again that was unloaded, from where it came.
	Reload(ctx context.Context, name, source string) (revision uint64, err error)
}

// Observer is told what happens to requests, for metrics. Its methods must
// not block.
type Observer interface {
	// FirstToken reports the waits until dispatch and until the first token.
	FirstToken(adapter string, queued, ttft time.Duration)
	// Finished reports an answer's end, total from arrival to end; ttft is 0 when
	// it had no token. end.Err is nil where a client left.
	Finished(adapter string, u Usage, end Finish, ttft, total time.Duration)
	// Adapters reports what has changed of the adapters' counts on a group, which
	// begin anew with each of its incarnations.
	Adapters(group, incarnation string, counts []AdapterCount)
}

// Config is what the router is made of.
type Config struct {
	// Name is the served model name, Path where the model is from.
	Name, Path string
	Version    string
	Text       Text
	Groups     []Dialer
	// Context, when positive, bounds prompt and answer below the model's own.
	Context int
	// LoRAEnabled is false with --enable-lora=false.
	LoRAEnabled bool
	// MaxLoadedLoRAs bounds the distinct adapters of one request; 0: no bound.
	MaxLoadedLoRAs int
	// ReloadUnloaded brings an adapter that was unloaded back on its next use,
	// as SGLang does.
	ReloadUnloaded bool
	// Preload are adapters that worker groups must have had on their devices before
	// the router is ready: names, or "all" or "pinned".
	Preload []string
	// MaxQueued bounds the waiting answers.
	MaxQueued int
	Residency Residency // nil: nothing is ever pushed out
	Observer  Observer  // nil: nobody watches
	Log       *zap.Logger
}

// Router is the core. See the package's story.
type Router struct {
	cfg Config
	log *zap.Logger

	catalogue atomic.Pointer[Catalogue]
	told      atomic.Bool   // somebody gave a catalogue
	revision  chan struct{} // closed and replaced at each new catalogue
	revMu     sync.Mutex
	// unloaded remembers where names came from that are gone (ReloadUnloaded).
	unloaded map[string]string

	// links are the router goroutine's, dialers what others may see of them.
	links   []*link
	dialers atomic.Pointer[[]Dialer]
	// launch runs a link while the router runs, nil before and after.
	launch func(*link)
	queue  *fairQueue
	byID   map[string][]*running // requests by their caller's id
	nextID atomic.Uint64
	order  uint64
	// model is the fingerprint that all groups must share, set by the first.
	modelMu sync.Mutex
	model   *GroupInfo

	started  time.Time
	state    atomic.Pointer[ServerState]
	draining atomic.Bool
	active   atomic.Int64 // answers submitted and not ended
	queued   atomic.Int64

	requests, promptTokens, completionTokens atomic.Uint64

	preload preload

	touchMu sync.Mutex
	touched map[string]struct{}

	// alive ends with Run; recalls are the adapters being brought back meanwhile.
	alive   context.Context
	recalls sync.WaitGroup

	mu     sync.Mutex
	inbox  []func()
	closed bool
	wake   chan struct{}
	idle   chan struct{} // capacity 1, signalled when an answer ends
}

// New makes a router; Run makes it work.
func New(cfg Config) *Router {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.MaxQueued <= 0 {
		cfg.MaxQueued = 4096
	}
	r := &Router{
		cfg: cfg, log: cfg.Log.Named("router"), revision: make(chan struct{}), queue: newFairQueue(),
		byID: map[string][]*running{}, started: time.Now(), touched: map[string]struct{}{},
		unloaded: map[string]string{},
		wake:     make(chan struct{}, 1), idle: make(chan struct{}, 1),
	}
	r.catalogue.Store(&Catalogue{Adapters: map[string]*AdapterEntry{}})
	r.setGroups(cfg.Groups)
	r.snapshot()
	return r
}

// SetGroups makes ds the worker groups, told apart by address. What runs on a
// group that is not among them any more goes on at another: drain it before.
func (r *Router) SetGroups(ds []Dialer) {
	r.do(func() {
		r.setGroups(ds)
		r.dispatch()
	})
}

func (r *Router) setGroups(ds []Dialer) {
	was := map[string]*link{}
	for _, l := range r.links {
		was[l.dialer.Address()] = l
	}
	links, dialers := make([]*link, 0, len(ds)), make([]Dialer, 0, len(ds))
	for _, d := range ds {
		l := was[d.Address()]
		if l == nil {
			l = newLink(r, d)
			if r.launch != nil {
				r.launch(l)
			}
		}
		delete(was, d.Address())
		links, dialers = append(links, l), append(dialers, l.dialer)
	}
	for _, l := range was {
		if l.cancelRun != nil {
			l.cancelRun()
		}
	}
	r.links = links
	r.dialers.Store(&dialers)
}

// Run serves until ctx ends; then every answer still open fails.
func (r *Router) Run(ctx context.Context) error {
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.alive = lctx
	var wg sync.WaitGroup
	r.launch = func(l *link) {
		own, end := context.WithCancel(lctx)
		l.cancelRun = end
		wg.Go(func() {
			defer end()
			l.run(own)
		})
	}
	for _, l := range r.links {
		r.launch(l)
	}
	wg.Go(func() { r.touchLoop(lctx) })
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-tick.C: // those whose adapters wait for room grow impatient
			r.do(r.dispatch)
		}
		r.absorb()
		r.snapshot()
	}
	cancel()
	r.launch = nil
	wg.Wait()
	r.recalls.Wait()
	r.stop()
	return nil
}

// stop fails what is left.
func (r *Router) stop() {
	r.absorb()
	r.mu.Lock()
	r.closed = true
	rest := r.inbox
	r.inbox = nil
	r.mu.Unlock()
	for _, f := range rest {
		f()
	}
	for _, c := range r.queue.all() {
		r.queue.remove(c)
		c.fail(ErrDraining)
		r.ended(c)
	}
	r.snapshot()
}

// do leaves a closure for the router's goroutine; false when it has ended.
func (r *Router) do(f func()) bool {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return false
	}
	r.inbox = append(r.inbox, f)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

func (r *Router) absorb() {
	r.mu.Lock()
	todo := r.inbox
	r.inbox = nil
	r.mu.Unlock()
	for _, f := range todo {
		f()
	}
}

// Drain refuses new requests and waits until the running ones have ended.
func (r *Router) Drain(ctx context.Context) error {
	r.draining.Store(true)
	for r.active.Load() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.idle:
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// sameModel refuses a group that serves another model than the others.
func (r *Router) sameModel(g GroupInfo) error {
	r.modelMu.Lock()
	defer r.modelMu.Unlock()
	if r.model == nil {
		r.model = &g
		return nil
	}
	if r.model.ModelDigest != g.ModelDigest {
		return fmt.Errorf("worker group serves another model: %s, the others %s", g.ModelDigest, r.model.ModelDigest)
	}
	if r.model.Device != g.Device || r.model.DType != g.DType {
		r.log.Warn("worker groups compute with different kernels: the same seed may give another text on another group",
			zap.String("one", r.model.Device+" "+r.model.DType), zap.String("other", g.Device+" "+g.DType))
	}
	return nil
}

// Model describes the base model; its Group is zero until a group has been
// reached.
func (r *Router) Model() ModelInfo {
	m := ModelInfo{
		Name: r.cfg.Name, Path: r.cfg.Path, HasChatTemplate: r.cfg.Text.Template != nil,
		LoRAEnabled: r.cfg.LoRAEnabled, Created: r.started,
	}
	r.modelMu.Lock()
	defer r.modelMu.Unlock()
	if r.model != nil {
		m.Group = *r.model
		if r.cfg.Context > 0 {
			m.Group.ContextLength = min(m.Group.ContextLength, r.cfg.Context)
		}
	}
	return m
}

// snapshot renews the state that State gives out.
func (r *Router) snapshot() {
	st := &ServerState{Version: r.cfg.Version, Started: r.started, Queued: r.queue.len, CatalogueRevision: r.Catalogue().Revision}
	running, waiting := map[string]struct{}{}, map[string]struct{}{}
	for _, l := range r.links {
		st.Groups = append(st.Groups, l.state())
		st.Running += l.inflight
		for d := range l.adapters {
			running[d] = struct{}{}
		}
	}
	if r.queue.len > 0 { // or the memory of idle flows would cost at every step
		for k, f := range r.queue.flows {
			if k.digest != "" && len(f.waiting) > 0 {
				waiting[k.digest] = struct{}{}
			}
		}
	}
	st.RunningAdapters, st.WaitingAdapters = slices.Sorted(maps.Keys(running)), slices.Sorted(maps.Keys(waiting))
	r.queued.Store(int64(r.queue.len))
	r.state.Store(st)
}

// State tells the router's state.
func (r *Router) State() ServerState {
	st := *r.state.Load()
	st.Requests, st.PromptTokens, st.CompletionTokens = r.requests.Load(), r.promptTokens.Load(), r.completionTokens.Load()
	st.Draining, st.Missing = r.draining.Load(), r.missing()
	return st
}

// Ready tells whether requests can be served.
func (r *Router) Ready() bool {
	return !r.draining.Load() && r.missing() == "" && slices.ContainsFunc(r.state.Load().Groups, func(g GroupState) bool { return g.Usable() })
}

// Catalogue gives the adapters as last told.
func (r *Router) Catalogue() *Catalogue { return r.catalogue.Load() }

// SetCatalogue swaps in a new picture of the adapters.
func (r *Router) SetCatalogue(c *Catalogue) {
	r.revMu.Lock()
	if r.cfg.ReloadUnloaded {
		for n, e := range r.Catalogue().Adapters {
			if _, still := c.Adapters[n]; !still {
				r.unloaded[n] = e.Source
			}
		}
	}
	r.catalogue.Store(c)
	r.told.Store(true)
	close(r.revision)
	r.revision = make(chan struct{})
	r.revMu.Unlock()
	r.do(r.dispatch)
}

// WaitRevision waits until the catalogue is at least at revision rev.
func (r *Router) WaitRevision(ctx context.Context, rev uint64) error {
	for {
		r.revMu.Lock()
		reached, changed := r.Catalogue().Revision >= rev, r.revision
		r.revMu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for registry revision %d: %w", rev, ctx.Err())
		}
	}
}

// FlushCache forgets the prefixes that the worker groups have cached.
func (r *Router) FlushCache(ctx context.Context) error {
	var errs []error
	for _, d := range *r.dialers.Load() {
		if err := d.Flush(ctx); err != nil {
			errs = append(errs, fmt.Errorf("worker group %s: %w", d.Address(), err))
		}
	}
	return errors.Join(errs...)
}

// Abort ends the requests of an id, or all; it returns how many it found.
func (r *Router) Abort(id string, all bool) int {
	found := make(chan int, 1)
	if !r.do(func() {
		var rs []*running
		for k, list := range r.byID {
			// A batch's requests carry its id and a suffix, as SGLang's do.
			if all || k == id || id != "" && strings.HasPrefix(k, id+"_") {
				rs = append(rs, list...)
			}
		}
		for _, q := range rs {
			q.aborted = true
			for _, c := range q.choices {
				if r.takeBack(c) {
					c.fail(ErrAborted)
					r.ended(c)
				}
			}
		}
		r.dispatch() // once, lest places go to those who are next
		found <- len(rs)
	}) {
		return 0
	}
	return <-found
}

// touchLoop tells the adapter manager now and then which adapters are in use.
func (r *Router) touchLoop(ctx context.Context) {
	if r.cfg.Residency == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.touchMu.Lock()
		names := make([]string, 0, len(r.touched))
		for n := range r.touched {
			names = append(names, n)
		}
		clear(r.touched)
		r.touchMu.Unlock()
		if len(names) > 0 {
			if err := r.cfg.Residency.Touch(ctx, names); err != nil && !errors.Is(err, context.Canceled) {
				r.log.Warn("adapter use could not be noted", zap.Error(err))
			}
		}
	}
}
