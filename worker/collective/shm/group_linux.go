package shm

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"chorale/worker/collective"
)

// Member is an end of a group of this machine's processes.
type Member interface {
	collective.Member
	// Blame ends the group by the fault of another rank.
	Blame(rank int, reason string)
}

// Marks of bells: for which counter, of which rank.
const (
	forPut = iota
	forSummed
	forTaken
)

func mark(rank, field int) uint32 { return uint32(rank+1)<<2 | uint32(field) }

// Group is one rank's end.
type Group struct {
	collective.Counter
	s       *segment
	rank, n int
	o       collective.Options

	mu     sync.Mutex // of operations
	closed bool
	piece  uint64          // the next one's number, the same on all ranks
	kind   collective.Kind // what goes on
	sign   uint64
	parts  [][]float32 // scratch of sums

	planMu     sync.Mutex
	planClosed bool
	planAt     uint64 // bytes published, or read

	life   sync.RWMutex // held for reading while somebody beside the operations uses the memory
	gone   bool
	stop   chan struct{}
	health sync.WaitGroup
}

var _ Member = (*Group)(nil)

// Open maps the memory as one rank, and begins to watch the others: all should
// open within Options.Stall after the first operation. f may be closed then.
func Open(f *os.File, rank int, o collective.Options) (Member, error) {
	o = o.Fill()
	s, err := attach(f)
	if err != nil {
		return nil, err
	}
	if err := collective.CheckRoot(rank, s.ranks); err != nil {
		_ = unix.Munmap(s.mem)
		return nil, fmt.Errorf("shm: %w", err)
	}
	o.Spin = spinFor(o.Spin, 100*time.Microsecond, s.ranks)
	o.PlanSpin = spinFor(o.PlanSpin, time.Millisecond, s.ranks)
	g := &Group{s: s, rank: rank, n: s.ranks, o: o, parts: make([][]float32, s.ranks), stop: make(chan struct{})}
	s.word(s.of(rank, atBeat)).Add(1) // from now on standing still is noticed
	g.health.Add(1)
	go g.watch()
	return g, nil
}

func (g *Group) Rank() int { return g.rank }
func (g *Group) Size() int { return g.n }

// Abort ends the group for everybody.
func (g *Group) Abort(reason string) { g.Blame(g.rank, reason) }

// Blame ends the group by another's fault.
func (g *Group) Blame(rank int, reason string) {
	g.life.RLock()
	defer g.life.RUnlock()
	if !g.gone {
		g.s.end(rank, reason)
	}
}

// Ended tells why the group is over.
func (g *Group) Ended() error {
	g.life.RLock()
	defer g.life.RUnlock()
	if g.gone {
		return g.left()
	}
	if e := g.s.ended(); e != nil {
		return e
	}
	return nil
}

// Close leaves the group.
func (g *Group) Close() error {
	g.Blame(g.rank, "left the group")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.planMu.Lock()
	defer g.planMu.Unlock()
	if g.closed {
		return nil
	}
	g.closed, g.planClosed = true, true
	close(g.stop)
	g.health.Wait()
	g.life.Lock()
	defer g.life.Unlock()
	g.gone = true
	if err := unix.Munmap(g.s.mem); err != nil {
		return fmt.Errorf("shm: %w", err)
	}
	return nil
}

// left is what an end that was closed says.
func (g *Group) left() error {
	return &collective.AbortError{Rank: g.rank, Reason: "left the group"}
}

// begin locks the group for an operation over so many bytes.
func (g *Group) begin(k collective.Kind, bytes, root int) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return g.left()
	}
	if e := g.s.ended(); e != nil {
		g.mu.Unlock()
		return e
	}
	g.Count(k)
	g.kind = k
	g.sign = uint64(k)<<56 | uint64(root)<<44 | uint64(bytes)&(1<<44-1)
	return nil
}

// advance publishes one of this rank's counters and wakes who waits for it.
func (g *Group) advance(at, field int, to uint64) {
	g.s.word(g.s.of(g.rank, at)).Store(to)
	for q := range g.n {
		if q != g.rank {
			ringBell(g.s.half(g.s.of(q, atBell)), mark(g.rank, field))
		}
	}
}

// need waits for one rank's counter.
func (g *Group) need(q, at, field int, want uint64) error {
	word := g.s.word(g.s.of(q, at))
	if word.Load() >= want {
		return nil
	}
	v := g.s.await(awaited{word, want, g.s.half(g.s.of(g.rank, atBell)), mark(q, field), g.o.Spin, g.o.Timeout})
	switch v {
	case arrived:
		return nil
	case late:
		g.s.end(q, blameLate(g.kind.String(), g.o.Timeout))
		return &collective.TimeoutError{Op: g.kind.String(), Rank: q, After: g.o.Timeout}
	}
	return g.s.ended()
}

// needAll waits for everybody's counter.
func (g *Group) needAll(at, field int, want uint64) error {
	for q := range g.n {
		if q == g.rank {
			continue
		}
		if err := g.need(q, at, field, want); err != nil {
			return err
		}
	}
	return nil
}

// room waits until the slot of a piece is free: all have taken the piece that
// was in it.
func (g *Group) room(piece uint64) error {
	if piece < ring {
		return nil
	}
	return g.needAll(atTaken, forTaken, piece-ring+1)
}

// put publishes that this rank's part of a piece is in its slot.
func (g *Group) put(piece uint64) {
	g.s.word(g.s.of(g.rank, atSign+8*int(piece%ring))).Store(g.sign)
	g.advance(atPut, forPut, piece+1)
}

// taken publishes that this rank has done with a piece.
func (g *Group) taken(piece uint64) { g.advance(atTaken, forTaken, piece+1) }

// has waits until rank q has put the piece, and checks that it means the same.
func (g *Group) has(q int, piece uint64) error {
	if err := g.need(q, atPut, forPut, piece+1); err != nil {
		return err
	}
	theirs := g.s.word(g.s.of(q, atSign+8*int(piece%ring))).Load()
	if theirs == g.sign {
		return nil
	}
	err := fmt.Errorf("rank %d: %s of %d bytes; rank %d: %s of %d bytes: %w", g.rank, g.kind, g.sign&(1<<44-1),
		q, collective.Kind(theirs>>56), theirs&(1<<44-1), collective.ErrMismatch)
	g.s.end(g.rank, err.Error())
	return err
}

func (g *Group) allHave(piece uint64) error {
	for q := range g.n {
		if q == g.rank {
			continue
		}
		if err := g.has(q, piece); err != nil {
			return err
		}
	}
	return nil
}
