package group

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"chorale/worker/collective"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/tensor"
)

// Leader is rank 0's way to the others: what the engine does to its device, it
// has them do. Step, Landed and Shrink are the engine goroutine's; the rest
// anybody's.
type Leader struct {
	member collective.Member
	every  int // steps between digests
	peers  []*peer

	record  words
	part    []byte
	limit   int // bytes of a record
	mu      sync.Mutex
	numbers map[*nn.Adapter]uint32
	last    uint32 // number
	images  uint64 // given out

	// launched and landed are the engine goroutine's; landedNow is the latter for
	// the others.
	launched, landed uint64
	checks           checker
	rooms            []room // the others' pools, by rank from 1 on
	plans            Latency

	over  chan struct{}
	fault error
	once  sync.Once
	loops sync.WaitGroup
}

// look is how often the leader asks whether the group lives, while nothing is
// computed that would tell.
const look = 50 * time.Millisecond

func newLeader(m collective.Member, o Options, lanes [][lanes]*lane) *Leader {
	l := &Leader{
		member: m, every: o.DigestSteps, limit: o.Collective.Fill().PlanBytes / 2, numbers: map[*nn.Adapter]uint32{},
		over: make(chan struct{}),
	}
	l.checks.ranks = m.Size()
	for rank, two := range lanes {
		p := &peer{rank: rank + 1, l: l, lanes: two, calls: map[uint64]chan reply{}}
		l.peers = append(l.peers, p)
	}
	for _, p := range l.peers {
		for _, ln := range p.lanes {
			l.loops.Go(ln.pump)
			l.loops.Go(func() { p.listen(ln) })
		}
	}
	l.loops.Go(l.watch)
	return l
}

// Size is the number of ranks.
func (l *Leader) Size() int { return l.member.Size() }

// watch looks whether the group lives.
func (l *Leader) watch() {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if err := l.member.Ended(); err != nil {
			l.Fail(err)
			return
		}
		select {
		case <-tick.C:
		case <-l.over:
			return
		}
	}
}

// Over is closed when the group has ended; Err tells why then.
func (l *Leader) Over() <-chan struct{} { return l.over }

// Err is why the group ended: a *Fault.
func (l *Leader) Err() error {
	select {
	case <-l.over:
		return l.fault
	default:
		return nil
	}
}

// Fail ends the group, because of something that went wrong on this rank or was
// found out here.
func (l *Leader) Fail(err error) {
	l.once.Do(func() {
		l.fault = faultOf(err, 0)
		close(l.over)
		l.member.Abort(err.Error())
		for _, p := range l.peers {
			for _, ln := range p.lanes {
				ln.close()
			}
		}
	})
}

// Close leaves the group and waits for everything that runs for it.
func (l *Leader) Close() error {
	l.Fail(ErrLeft)
	l.loops.Wait()
	return l.member.Close()
}

// ErrLeft reports a group that its leader left in good order.
var ErrLeft = errors.New("the leader has left the group")

// Step has the others compute a step, which the caller is about to launch
// itself. After an error the group is over.
func (l *Leader) Step(s *decoder.Step, asks []tensor.SampleRow) error {
	start := time.Now()
	l.launched++
	l.mu.Lock()
	l.record.encode(s, asks, l.launched, l.landed, func(a *nn.Adapter) uint32 { return l.numbers[a] })
	l.mu.Unlock()
	if err := l.publish(l.record.bytes()); err != nil {
		l.Fail(err)
		return l.Err()
	}
	l.plans.add(time.Since(start))
	return nil
}

// publish sends a record, in pieces when it is too long for one.
func (l *Leader) publish(b []byte) error {
	if len(b) <= l.limit {
		return l.member.Publish(b)
	}
	for len(b) > 0 {
		n := min(len(b), l.limit-4)
		kind := []uint32{recPart}
		if n == len(b) {
			kind[0] = recLast
		}
		l.part = append(append(l.part[:0], collective.Bytes(kind)...), b[:n]...)
		if err := l.member.Publish(l.part); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Landed notes that the oldest launched step has ended, with these tokens.
func (l *Leader) Landed(out []tensor.Sampled) {
	l.landed++
	if l.every > 0 {
		if err := l.checks.own(l.landed, digest(out)); err != nil {
			l.Fail(err)
		}
	}
}

// Fit makes a layout one that all ranks have memory for, and has the others make
// their pools of it.
func (l *Leader) Fit(m *tensor.MemoryLayout) error {
	rooms, err := l.all(verbFit, *m)
	if err != nil {
		return err
	}
	for _, r := range rooms {
		if r.Bytes > 0 && (m.Bytes == 0 || r.Bytes < m.Bytes) {
			m.Bytes = r.Bytes
		}
	}
	l.rooms, err = l.all(verbPool, *m)
	return err
}

// Same checks that the others' pools are like this rank's: what the engine's
// books say must hold everywhere.
func (l *Leader) Same(m tensor.Memory) error {
	own := roomOf(m)
	for i, r := range l.rooms {
		if r != own {
			return fmt.Errorf("rank %d has a pool of %d chunks with %d pages in %d, the leader %d with %d in %d",
				i+1, r.Chunks, r.Pages, r.Group, own.Chunks, own.Pages, own.Group)
		}
	}
	return nil
}

func roomOf(m tensor.Memory) room {
	pages, chunks := m.Group()
	total, _ := m.Chunks()
	return room{Pages: pages, Group: chunks, Chunks: total}
}

// Grow has the others bring groups of the cache, and returns when all have.
func (l *Leader) Grow(groups []int32) error {
	_, err := l.all(verbGrow, groupsMsg{Groups: groups})
	return err
}

// Shrink has the others give groups of the cache back, which no step uses that
// has not landed.
func (l *Leader) Shrink(groups []int32) {
	l.tell(verbShrink, groupsMsg{Groups: groups, Landed: l.landed})
}

// tell posts a command that needs no answer.
func (l *Leader) tell(v verb, head any) {
	m := message{verb: v, head: pack(head)}
	for _, p := range l.peers {
		p.lanes[laneControl].post(m)
	}
}

// all asks all others for something and waits for their answers, by rank from 1
// on, and the first error.
func (l *Leader) all(v verb, head any) ([]room, error) {
	b := pack(head)
	waits := make([]func() (room, error), len(l.peers))
	for i, p := range l.peers {
		waits[i] = p.ask(message{verb: v, head: b}, p.lanes[laneControl].post)
	}
	return l.gather(waits)
}

func (l *Leader) gather(waits []func() (room, error)) ([]room, error) {
	rooms := make([]room, len(waits))
	var first error
	for i, wait := range waits {
		var err error
		if rooms[i], err = wait(); err != nil && first == nil {
			first = err
		}
	}
	return rooms, first
}

// Plans tells how long plans took from the engine to the followers' ring.
func (l *Leader) Plans() *Latency { return &l.plans }

// peer is a follower, to the leader.
type peer struct {
	rank  int
	l     *Leader
	lanes [lanes]*lane

	mu    sync.Mutex
	last  uint64
	calls map[uint64]chan reply
}

// ask sends a call by way of send and gives what waits for its answer.
func (p *peer) ask(m message, send func(message)) func() (room, error) {
	answer := make(chan reply, 1)
	p.mu.Lock()
	p.last++
	m.id = p.last
	p.calls[m.id] = answer
	p.mu.Unlock()
	send(m)
	return func() (room, error) {
		select {
		case r := <-answer:
			return r.Room, r.err(p.rank)
		case <-p.l.over:
			return room{}, p.l.fault
		}
	}
}

// listen takes what comes on a lane.
func (p *peer) listen(ln *lane) {
	for {
		m, err := ln.read()
		if err == nil {
			err = p.take(&m)
		}
		if err == nil {
			continue
		}
		p.l.lost(p.rank, err)
		return
	}
}

func (p *peer) take(m *message) error {
	switch m.verb {
	case verbReply:
		r, err := unpack[reply](m)
		if err != nil {
			return err
		}
		p.mu.Lock()
		answer := p.calls[m.id]
		delete(p.calls, m.id)
		p.mu.Unlock()
		if answer != nil {
			answer <- r
		}
		return nil
	case verbDigests:
		if err := p.l.checks.theirs(p.rank, m.body); err != nil {
			p.l.Fail(err)
		}
		return nil
	}
	return fmt.Errorf("verb %d from a follower: %w", m.verb, errFrame)
}

// lost ends the group because a lane has: unless the group tells something better
// within a moment.
func (l *Leader) lost(rank int, err error) {
	select {
	case <-l.over:
	case <-time.After(4 * look):
		l.Fail(&Fault{Rank: rank, Reason: fmt.Sprintf("its connection is lost: %v", err)})
	}
}
