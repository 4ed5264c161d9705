package tcp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"chorale/worker/collective"
)

const (
	// beats is how often a rank shows life within Options.Stall.
	beats = 10
	// farewell is how long who is writing goes on once the group is over, and
	// how long a lost connection may take to be explained.
	farewell = 50 * time.Millisecond
	// lastWords is how long the last message may take to fit into the socket's
	// buffer, in the background.
	lastWords = time.Second
	// drain is how long a closed end waits for the others to hang up.
	drain = 200 * time.Millisecond
)

// Group is one rank's end.
type Group struct {
	collective.Counter
	rank, n int
	o       collective.Options
	peers   []*peer // by rank; nil at its own

	mu    sync.Mutex // of operations
	piece uint64
	kind  collective.Kind
	sign  uint64
	parts [][]float32
	used  []message // whose memory parts show
	timer *time.Timer

	why      atomic.Pointer[collective.AbortError] // the hard end
	over     chan struct{}                         // closed then
	leaver   atomic.Pointer[collective.AbortError] // the first rank that said bye
	closed   atomic.Bool
	until    atomic.Int64 // when readers stop, once the group is over
	closing  sync.Once
	closeErr error
	stop     chan struct{} // ends beats
	readers  sync.WaitGroup

	allMu sync.Mutex
	ended bool // nothing more is started
	all   sync.WaitGroup

	plans plans
}

var _ collective.Member = (*Group)(nil)

func newGroup(rank int, tensors, planConns []net.Conn, o collective.Options) *Group {
	g := &Group{
		rank: rank, n: len(tensors), o: o, peers: make([]*peer, len(tensors)), parts: make([][]float32, len(tensors)),
		timer: time.NewTimer(time.Hour), over: make(chan struct{}), stop: make(chan struct{}),
	}
	for q, c := range tensors {
		if c != nil {
			g.peers[q] = newPeer(q, c)
		}
	}
	g.plans.open(g, planConns)
	for _, p := range g.peers {
		if p != nil {
			g.readers.Add(1)
			go g.read(p)
			g.start(func() { g.beat(p) })
		}
	}
	return g
}

// start runs f beside, unless the group is closed.
func (g *Group) start(f func()) {
	g.allMu.Lock()
	defer g.allMu.Unlock()
	if !g.ended {
		g.all.Go(f)
	}
}

// noMore lets readers listen for a last while.
func (g *Group) noMore() {
	if !g.until.CompareAndSwap(0, time.Now().Add(drain).UnixNano()) {
		return
	}
	for _, p := range g.peers {
		if p != nil {
			_ = p.c.SetReadDeadline(time.Unix(0, g.until.Load()))
		}
	}
}

func (g *Group) Rank() int { return g.rank }
func (g *Group) Size() int { return g.n }

// Abort ends the group for everybody.
func (g *Group) Abort(reason string) { g.end(g.rank, reason) }

// Ended tells why the group is over.
func (g *Group) Ended() error { return g.alive() }

// Blame ends the group by another's fault.
func (g *Group) Blame(rank int, reason string) { g.end(rank, reason) }

// end is the hard end: everybody here is freed and the others are told.
func (g *Group) end(rank int, reason string) {
	if !g.why.CompareAndSwap(nil, &collective.AbortError{Rank: rank, Reason: reason}) {
		return
	}
	close(g.over)
	g.plans.interrupt()
	for _, p := range g.peers {
		if p != nil {
			g.start(func() { p.finish(g.last(), farewell) })
		}
	}
	g.noMore()
}

// last is the last message to everybody: how the group ended, or that it goes
// on without this rank.
func (g *Group) last() message {
	why := g.why.Load()
	if why == nil {
		return message{kind: msgBye}
	}
	reason := why.Reason[:min(len(why.Reason), 1024)]
	return message{kind: msgAbort, piece: uint64(why.Rank), payload: []byte(reason)}
}

// lost ends the group because a connection failed. The other side may have said
// why just before.
func (g *Group) lost(p *peer, err error) {
	select {
	case <-g.over:
		return
	case <-p.gone:
		return
	case <-time.After(farewell):
	}
	g.end(p.rank, fmt.Sprintf("connection lost: %v", err))
}

// read takes everything that a rank sends.
func (g *Group) read(p *peer) {
	defer g.readers.Done()
	e := &ears{c: p.c, r: bufio.NewReaderSize(p.c, 64<<10), stall: g.o.Stall, last: &g.until}
	for {
		m, err := e.next(p)
		if err != nil {
			g.deaf(p, err)
			return
		}
		switch m.kind {
		case msgPut, msgSum:
			select {
			case p.in <- m:
			default:
				g.end(p.rank, fmt.Sprintf("is more than %d messages ahead", ahead))
			}
		case msgAck:
			p.acks.Add(1)
			select {
			case p.acked <- struct{}{}:
			default:
			}
		case msgBeat:
		case msgAbort:
			g.end(int(m.piece), string(m.payload))
		case msgBye:
			g.bye(p)
		default:
			g.end(p.rank, fmt.Sprintf("sent message %d", m.kind))
		}
	}
}

// deaf is told when nothing more comes from a rank.
func (g *Group) deaf(p *peer, err error) {
	switch {
	case p.left.Load() || g.closed.Load():
	case errors.Is(err, errSilent):
		g.end(p.rank, err.Error())
	case errors.Is(err, io.EOF):
		g.end(p.rank, "its process has gone")
	default:
		g.end(p.rank, fmt.Sprintf("connection lost: %v", err))
	}
}

// bye notes that a rank left. What it sent counts, and the operation that goes
// on may still end well without it.
func (g *Group) bye(p *peer) {
	g.leaver.CompareAndSwap(nil, &collective.AbortError{Rank: p.rank, Reason: "left the group"})
	p.left.Store(true)
	close(p.gone)
	g.plans.interrupt()
	g.start(func() { p.finish(message{kind: msgBeat}, farewell) }) // so that it need not wait for us
}

// beat says now and then that this rank lives.
func (g *Group) beat(p *peer) {
	every := time.NewTicker(max(g.o.Stall/beats, time.Millisecond))
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-g.stop:
			return
		case <-g.over:
			return
		case <-p.gone:
			return
		}
		if !p.wmu.TryLock() {
			continue // what is being written is life enough
		}
		err := p.sendLocked(message{kind: msgBeat})
		p.wmu.Unlock()
		if err != nil {
			g.lost(p, err)
			return
		}
	}
}

// alive gives the reason why the group is over.
func (g *Group) alive() error {
	switch {
	case g.closed.Load():
		return &collective.AbortError{Rank: g.rank, Reason: "left the group"}
	case g.why.Load() != nil:
		return g.why.Load()
	case g.leaver.Load() != nil:
		return g.leaver.Load()
	}
	return nil
}

// Close leaves the group.
func (g *Group) Close() error {
	g.closing.Do(g.close)
	return g.closeErr
}

func (g *Group) close() {
	if !g.mu.TryLock() { // in the middle of an operation
		g.end(g.rank, "left the group")
		g.mu.Lock()
	}
	defer g.mu.Unlock()
	g.closed.Store(true)
	close(g.stop)
	var told sync.WaitGroup
	for _, p := range g.peers {
		if p != nil {
			told.Go(func() { p.finish(g.last(), farewell) })
		}
	}
	told.Wait()
	g.noMore()
	g.readers.Wait()
	g.plans.close()
	g.allMu.Lock()
	g.ended = true
	g.allMu.Unlock()
	g.all.Wait()
	for _, p := range g.peers {
		if p != nil {
			p.c.Close()
		}
	}
	g.timer.Stop()
}
