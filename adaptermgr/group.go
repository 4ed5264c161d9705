package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/blob"
)

// link is the state of the connection to a worker group.
type link int

const (
	linkNew link = iota // not tried yet
	linkUp
	linkDown
)

var errRestarted = errors.New("the worker was restarted")

// group keeps one worker group's adapters as they are wanted.
type group struct {
	m    *Manager
	w    Worker
	log  *zap.Logger
	kick chan struct{} // holds one token when something has changed
	// cancel ends run; nil before it began. Guarded by m.mu.
	cancel context.CancelFunc

	// moved is when the group last took part: connected, took bytes, or ended an
	// operation. Monotonic, guarded by m.mu.
	moved time.Time

	// Guarded by m.mu; written only by run's goroutine, but tries also by pushed.
	link        link
	linkErr     error
	incarnation string
	held        map[string]bool // digest → pinned
	// leaving are held digests that this process was told to drop and has not
	// acknowledged: it may drop them any time, also when the call was
	// cancelled. A push keeps them.
	leaving map[string]bool
	tries   map[string]*try // digests whose push or drop failed

	// Of run's goroutine only.
	ops     map[string]*op
	results chan result
	saw     uint64 // the m.wants of the last reconcile
}

// try is a failed operation that is to be repeated.
type try struct {
	err  error
	next time.Time
	wait time.Duration
}

// op is a running push or drop of one digest.
type op struct {
	push, pinned, force bool
	cancel              context.CancelFunc
	cancelled           bool
}

type result struct {
	digest string
	err    error
}

func newGroup(m *Manager, w Worker) *group {
	return &group{
		m: m, w: w, log: m.log.With(zap.String("worker", w.Address())), kick: make(chan struct{}, 1),
		held: map[string]bool{}, leaving: map[string]bool{}, tries: map[string]*try{},
	}
}

// run connects, serves until the connection is lost, and connects again.
func (g *group) run(ctx context.Context) {
	wait := g.m.o.RetryMin
	for ctx.Err() == nil {
		err := g.connect(ctx)
		if err == nil {
			wait = g.m.o.RetryMin
			err = g.serve(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		g.lost(err)
		if errors.Is(err, errRestarted) {
			continue
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, g.m.o.RetryMax)
	}
}

// connect learns what the group is and what it holds.
func (g *group) connect(ctx context.Context) error {
	dctx, cancel := context.WithTimeout(ctx, g.m.o.CallTimeout)
	info, err := g.w.Describe(dctx)
	cancel()
	if err != nil {
		return err
	}
	// It serves nobody yet who could suffer from an end to this.
	patience := g.m.o.AckTimeout / 2
	lctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it does not tell what it holds for %v", patience))
	inv, err := g.w.List(lctx)
	cause := context.Cause(lctx)
	cancel()
	switch {
	case err != nil && ctx.Err() == nil && cause != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, cause)
	case err != nil:
		return err
	}
	if inv.Incarnation != info.Incarnation {
		return fmt.Errorf("%w: it restarted between two calls", ErrUnavailable)
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.incarnation != info.Incarnation {
		g.tries = map[string]*try{} // a new process may take what the old refused
		g.leaving = map[string]bool{}
	}
	g.link, g.linkErr, g.incarnation, g.moved = linkUp, nil, info.Incarnation, time.Now()
	g.setHeld(inv)
	if old := g.m.base; old != nil && old.ModelDigest != info.ModelDigest {
		g.log.Warn("the worker serves another base model than the last one described",
			zap.String("model", info.ModelDigest), zap.String("before", old.ModelDigest))
	}
	g.m.base = &info
	g.m.observeAll("worker " + g.w.Address() + " is connected")
	g.m.notify()
	g.log.Info("worker connected", zap.String("incarnation", info.Incarnation), zap.Int("adapters", len(g.held)))
	return nil
}

// has tells whether the group holds a digest and keeps it. m.mu is held.
func (g *group) has(digest string) bool {
	_, held := g.held[digest]
	return held && !g.leaving[digest]
}

// setHeld takes over an inventory. m.mu is held.
func (g *group) setHeld(inv Inventory) (changed bool) {
	held := make(map[string]bool, len(inv.Adapters))
	for _, h := range inv.Adapters {
		held[h.Digest] = h.Pinned
		if pinned, ok := g.held[h.Digest]; !ok || pinned != h.Pinned {
			changed = true
		}
	}
	changed = changed || len(held) != len(g.held)
	g.held = held
	return changed
}

// lost notes that the connection is gone, and with it what the group held.
func (g *group) lost(err error) {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.link != linkDown {
		g.log.Warn("worker lost", zap.Error(err))
	}
	g.link, g.linkErr, g.held = linkDown, err, map[string]bool{}
	g.m.observeAll("worker " + g.w.Address() + " was lost")
	g.m.notify()
}

// serve keeps the group as it is wanted until the connection is lost.
func (g *group) serve(ctx context.Context) error {
	opCtx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	// Results of this connection only: an acknowledgement by a process that
	// has been replaced since says nothing about the new one.
	g.ops, g.results = map[string]*op{}, make(chan result)
	poll := time.NewTicker(g.m.o.PollInterval)
	defer poll.Stop()
	var retry <-chan time.Time
	for again := true; ; {
		if again {
			retry = g.reconcile(opCtx, &running)
		}
		again = true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-g.kick:
			again = g.outdated()
		case <-retry:
		case r := <-g.results:
			if err := g.settle(r); err != nil {
				return err
			}
		case <-poll.C:
			if err := g.poll(ctx); err != nil {
				return err
			}
		}
	}
}

// poll asks what the group holds. Operations that end meanwhile are settled
// after, and so on top of what it answered. It has no time limit: a worker
// answers between two steps, which may be long, and still serves what it holds;
// one that is gone shows in the connection.
func (g *group) poll(ctx context.Context) error {
	inv, err := g.w.List(ctx)
	if err != nil {
		return err
	}
	if inv.Incarnation != g.incarnation {
		return errRestarted
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.setHeld(inv) {
		g.m.observeAll("worker " + g.w.Address() + " holds others than before")
		g.m.notify()
	}
	return nil
}

// outdated tells whether other adapters are wanted than reconcile saw. Most
// changes are of what is shown only.
func (g *group) outdated() bool {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.wanted()
	return g.saw != g.m.wants
}

// reconcile starts the operations that are missing and cancels those that are
// no longer wanted. It returns when the next failed one is due.
func (g *group) reconcile(ctx context.Context, running *sync.WaitGroup) <-chan time.Time {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	wanted, forced := g.m.wanted(), g.m.forced()
	g.saw = g.m.wants
	due := time.Duration(-1)
	start := func(digest string, c content, o op) {
		if t := g.tries[digest]; t != nil {
			if d := time.Until(t.next); d > 0 {
				if due < 0 || d < due {
					due = d
				}
				return
			}
		}
		g.start(ctx, running, digest, c, o)
	}
	for digest, c := range wanted {
		pinned := g.held[digest]
		switch o := g.ops[digest]; {
		case o != nil:
			if !o.push || o.pinned != c.pinned {
				o.stop()
			}
		case (!g.has(digest) || pinned != c.pinned) && g.pushes() < g.m.o.MaxPushes:
			start(digest, c, op{push: true, pinned: c.pinned})
		}
	}
	for digest, o := range g.ops {
		if _, ok := wanted[digest]; !ok && (o.push || forced[digest] && !o.force) {
			o.stop()
		}
	}
	for digest := range g.held {
		if _, ok := wanted[digest]; !ok && g.ops[digest] == nil {
			start(digest, content{}, op{force: forced[digest]})
		}
	}
	g.forgetTries(wanted)
	if due < 0 {
		return nil
	}
	return time.After(due)
}

// forgetTries drops what there is nothing left to try for. m.mu is held.
func (g *group) forgetTries(wanted map[string]content) {
	for digest := range g.tries {
		_, isWanted := wanted[digest]
		_, isHeld := g.held[digest]
		if !isWanted && !isHeld {
			delete(g.tries, digest)
		}
	}
}

func (o *op) stop() {
	o.cancelled = true
	o.cancel()
}

func (g *group) pushes() int {
	n := 0
	for _, o := range g.ops {
		if o.push {
			n++
		}
	}
	return n
}

// start begins an operation that lives as long as the connection at most.
func (g *group) start(conn context.Context, running *sync.WaitGroup, digest string, c content, o op) {
	ctx, end := context.WithCancelCause(conn)
	o.cancel = func() { end(nil) }
	heard, stop := g.watch(&o, end)
	if !o.push {
		g.leaving[digest] = true
		g.m.lookAgain(digest)
	}
	g.ops[digest] = &o
	results := g.results
	running.Go(func() {
		defer o.cancel()
		var err error
		if o.push {
			err = g.push(ctx, digest, c, heard)
		} else {
			err = g.w.Drop(ctx, digest, o.force)
		}
		stop()
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, errSilent) {
			err = cause
		}
		select {
		case results <- result{digest, err}:
		case <-conn.Done(): // nobody waits for it any more
		}
	})
}

// push sends one adapter. The worker checks what it gets against the digest, so
// the files are not read twice; they are when it refuses them, to tell who is
// at fault.
func (g *group) push(ctx context.Context, digest string, c content, heard func()) error {
	config, err := g.m.o.Blobs.OpenVerified(c.config)
	if err != nil {
		return err
	}
	defer config.Close()
	weights, err := g.m.o.Blobs.Open(c.weights)
	if err != nil {
		return err
	}
	defer weights.Close()
	text, err := io.ReadAll(config)
	if err != nil {
		return fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
	}
	err = g.w.Push(ctx, Push{Digest: digest, Config: text, Weights: weights, Size: c.size, Pinned: c.pinned, Sent: heard})
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	again, corrupt := g.m.o.Blobs.OpenVerified(c.weights)
	if corrupt != nil {
		return corrupt
	}
	return errors.Join(err, again.Close())
}

// settle takes over an operation's result. An error ends the connection.
func (g *group) settle(r result) error {
	o := g.ops[r.digest]
	delete(g.ops, r.digest)
	switch {
	case r.err == nil:
	case errors.Is(r.err, blob.ErrCorrupt), errors.Is(r.err, blob.ErrNotFound):
		if o.cancelled {
			return nil // removed because nobody wants it any more
		}
		g.log.Error("stored adapter cannot be read", zap.String("digest", r.digest), zap.Error(r.err))
		g.m.setFault(r.digest, fmt.Errorf("its stored files cannot be read; load it again: %w", r.err))
		return nil
	case o.cancelled:
		return nil
	case errors.Is(r.err, ErrUnavailable):
		return r.err
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if !errors.Is(r.err, errSilent) {
		g.moved = time.Now()
	}
	switch {
	case r.err != nil:
		g.failed(r, o)
	case o.push:
		g.held[r.digest] = o.pinned
		delete(g.leaving, r.digest)
		delete(g.tries, r.digest)
	default:
		delete(g.held, r.digest)
		delete(g.leaving, r.digest)
		delete(g.tries, r.digest)
	}
	g.m.observeDigest(r.digest, "worker "+g.w.Address()+" has it as it is wanted")
	g.m.notify()
	return nil
}

// failed plans the repetition. m.mu is held.
func (g *group) failed(r result, o *op) {
	t := g.tries[r.digest]
	if t == nil {
		t = &try{wait: g.m.o.RetryMin}
		g.tries[r.digest] = t
	}
	if errors.Is(r.err, ErrRejected) {
		t.wait = g.m.o.RetryMax
	}
	t.err, t.next = r.err, time.Now().Add(t.wait)
	t.wait = min(2*t.wait, g.m.o.RetryMax)
	g.log.Warn("adapter operation failed", zap.String("digest", r.digest), zap.Bool("push", o.push),
		zap.Duration("again_in", time.Until(t.next)), zap.Error(r.err))
}
