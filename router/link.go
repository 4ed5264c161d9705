package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// link is the router's side of one worker group. Its own goroutine dials and
// receives; the fields under "books" are the router goroutine's.
type link struct {
	r      *Router
	dialer Dialer
	log    *zap.Logger
	// cancelRun ends run; nil before it began. The router goroutine's.
	cancelRun context.CancelFunc

	// mu guards what both goroutines touch.
	mu   sync.Mutex
	conn Conn
	live map[uint64]*choice // sequences under way

	// books
	connected bool
	err       error
	info      GroupInfo
	status    GroupStatus
	devices   []DeviceState
	inflight  int
	adapters  map[string]int // sequences under way by digest, the base not counted
	prefixes  prefixes
	hints     []string // what the group was last told to prefetch
}

func newLink(r *Router, d Dialer) *link {
	return &link{
		r: r, dialer: d, log: r.log.With(zap.String("group", d.Address())),
		live: map[uint64]*choice{}, adapters: map[string]int{},
	}
}

// Back-off between attempts to reach a group.
const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
)

// run keeps the link up until ctx ends.
func (l *link) run(ctx context.Context) {
	wait := backoffMin
	for ctx.Err() == nil {
		began := time.Now()
		err := l.session(ctx)
		l.down(err, ctx.Err() != nil)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*backoffMax {
			wait = backoffMin
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, backoffMax)
	}
}

// session is one connection from dial to loss.
func (l *link) session(ctx context.Context) error {
	dctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	info, err := l.dialer.Describe(dctx)
	cancel()
	if err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if err := l.r.sameModel(info); err != nil {
		return err
	}
	conn, err := l.dialer.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// Recv ends with the connection, which must not outlive ctx.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	l.up(conn, info)
	for {
		out, err := conn.Recv()
		if err != nil {
			return err
		}
		l.receive(out)
	}
}

// up tells the router that the group takes work.
func (l *link) up(conn Conn, info GroupInfo) {
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	l.log.Info("worker group connected", zap.String("device", info.Device), zap.String("incarnation", info.Incarnation))
	l.r.do(func() {
		if info.Incarnation != l.info.Incarnation {
			l.prefixes.forget()
		}
		l.connected, l.err, l.info, l.status, l.devices, l.hints = true, nil, info, GroupStatus{}, nil, nil
		l.r.dispatch()
	})
}

// down takes the group out of service and gives its sequences back.
// stopping tells that the router itself ends.
func (l *link) down(err error, stopping bool) {
	l.mu.Lock()
	l.conn = nil
	lost := make([]*choice, 0, len(l.live))
	for _, c := range l.live {
		lost = append(lost, c)
	}
	clear(l.live)
	l.mu.Unlock()
	l.r.do(func() {
		if l.connected && !stopping {
			l.log.Warn("worker group lost", zap.Int("sequences", len(lost)), zap.Error(err))
		}
		l.connected, l.err, l.devices = false, err, nil
		l.giveBack(lost, 0, err)
		l.r.dispatch()
	})
}

// giveBack takes sequences off the books and queues them again, the oldest at
// the front.
func (l *link) giveBack(cs []*choice, wait time.Duration, cause error) {
	slices.SortFunc(cs, func(a, b *choice) int { return cmp.Compare(b.order, a.order) })
	for _, c := range cs {
		l.forget(c)
		l.r.requeue(c, wait, cause)
	}
}

// receive hands a message's outputs to their requests and books what ended.
func (l *link) receive(out StepOutputs) {
	var ended, refused, closed []*choice
	var abort []uint64
	tokens := map[flowKey]int{}
	l.mu.Lock()
	conn := l.conn
	for i := range out.Outputs {
		o := &out.Outputs[i]
		c, ok := l.live[o.ID]
		if !ok {
			continue // aborted meanwhile
		}
		if list := retryable(o, &refused, &closed); list != nil {
			delete(l.live, o.ID)
			*list = append(*list, c)
			continue
		}
		finished, early := l.r.deliver(c, o)
		tokens[c.flow] += len(o.IDs)
		if finished {
			delete(l.live, o.ID)
			ended = append(ended, c)
		}
		if early {
			abort = append(abort, o.ID)
		}
	}
	l.mu.Unlock()
	if len(abort) > 0 {
		_ = conn.Abort(abort) // a dead connection shows in Recv
	}
	l.r.do(func() {
		if out.Status != nil {
			l.take(*out.Status)
		}
		if len(out.Devices) > 0 {
			l.look(out.Devices)
		}
		if obs := l.r.cfg.Observer; obs != nil && len(out.Adapters) > 0 {
			obs.Adapters(l.dialer.Address(), l.info.Incarnation, out.Adapters)
		}
		for k, n := range tokens {
			l.r.queue.charge(k, n)
		}
		for _, c := range ended {
			l.forget(c)
			l.r.ended(c)
		}
		for _, c := range refused {
			c.refused = l
		}
		l.giveBack(refused, refusedMin, errRefused)
		l.giveBack(closed, refusedMin, errStopping)
		if len(ended)+len(refused)+len(closed) > 0 {
			l.r.dispatch()
		}
	})
}

// take takes in a group's status.
func (l *link) take(s GroupStatus) {
	if s.Draining != l.status.Draining {
		l.log.Info("worker group drains", zap.Bool("draining", s.Draining), zap.Int("sequences", l.inflight))
	}
	l.status = s
}

// look takes in what a group tells of its devices. One that is in trouble gets no
// new sequences; those under way go on as long as it computes.
func (l *link) look(ds []DeviceState) {
	was := unhealthy(l.devices)
	l.devices = ds
	if now := unhealthy(ds); now != was && now != "" {
		l.log.Error("worker group is unhealthy and gets no new sequences", zap.String("reason", now))
	}
}

// usable tells whether the group takes sequences.
func (l *link) usable() bool {
	return l.connected && unhealthy(l.devices) == "" && !l.status.Draining
}

// refusedMin is how long a sequence waits before it is sent again after a
// worker refused it; it doubles with each refusal. A worker that has just come
// back gets its adapters within this time.
const refusedMin = 100 * time.Millisecond

// Why workers refuse.
var (
	errRefused  = fmt.Errorf("%w: it is not in the worker's memory", ErrAdapterNotReady)
	errStopping = errors.New("worker is stopping")
)

// retryable tells whether another try may succeed, and which list the sequence
// belongs to: the worker refused it because the adapter is not (yet, or any
// more) in its memory, or because it is stopping.
func retryable(o *SequenceOutput, refused, closed *[]*choice) *[]*choice {
	if o.Finish != FinishAbort || len(o.IDs) > 0 {
		return nil
	}
	switch o.ErrorReason {
	case ReasonAdapterNotLoaded:
		return refused
	case ReasonClosed:
		return closed
	}
	return nil
}

// forget takes a sequence off the books.
func (l *link) forget(c *choice) {
	l.inflight--
	if d := c.flow.digest; d != "" {
		if l.adapters[d]--; l.adapters[d] == 0 {
			delete(l.adapters, d)
		}
	}
}

// send hands sequences to the group. On failure they stay in live and come
// back through down.
func (l *link) send(cs []*choice) {
	seqs := make([]Sequence, len(cs))
	for i, c := range cs {
		seqs[i] = c.sequence()
		l.inflight++
		if len(l.r.links) > 1 {
			l.prefixes.note(c.blocks())
		}
		if c.flow.digest != "" {
			l.adapters[c.flow.digest]++
		}
	}
	l.mu.Lock()
	conn := l.conn
	if conn != nil {
		for _, c := range cs {
			l.live[c.id] = c
		}
	}
	l.mu.Unlock()
	if conn == nil { // lost a moment ago; down has run or is about to
		l.giveBack(cs, 0, ErrUnavailable)
		return
	}
	_ = conn.Submit(seqs) // a dead connection shows in Recv
}

// cancel aborts a sequence if it is under way here.
func (l *link) cancel(c *choice) bool {
	l.mu.Lock()
	_, ok := l.live[c.id]
	delete(l.live, c.id)
	conn := l.conn
	l.mu.Unlock()
	if !ok {
		return false
	}
	l.forget(c)
	if conn != nil {
		_ = conn.Abort([]uint64{c.id})
	}
	return true
}

// credit is how many more sequences the group may be given: what it runs, and
// a few so that it never waits for the router.
func (l *link) credit() int {
	if !l.usable() {
		return 0
	}
	return l.info.MaxRunning + l.info.MaxRunning/8 - l.inflight
}

func (l *link) state() GroupState {
	return GroupState{
		Address: l.dialer.Address(), Connected: l.connected, Err: l.err, Info: l.info, Status: l.status, Devices: l.devices, InFlight: l.inflight,
	}
}
