package shm

import (
	"encoding/binary"
	"fmt"

	"chorale/worker/collective"
)

// A record in the ring: its length, as 8 bytes, and its bytes rounded up to 8.
// Both may go around the end.
const lengthBytes = 8

// forHead is what a follower's plan bell says; the leader's says mark(q, 0).
const forHead = 1

// Publish hands a record to all followers.
func (g *Group) Publish(record []byte) error {
	if g.rank != 0 {
		return fmt.Errorf("publish by rank %d: %w", g.rank, collective.ErrRole)
	}
	need := uint64(lengthBytes + (len(record)+7)&^7)
	g.planMu.Lock()
	defer g.planMu.Unlock()
	if err := g.planAlive(); err != nil {
		return err
	}
	ring := g.s.plan()
	if need > uint64(len(ring)) {
		return fmt.Errorf("%d bytes in a ring of %d: %w", len(record), len(ring), collective.ErrTooLong)
	}
	for q := 1; q < g.n; q++ {
		if err := g.planRoom(q, need); err != nil {
			return err
		}
	}
	var length [lengthBytes]byte
	binary.NativeEndian.PutUint64(length[:], uint64(len(record)))
	into(ring, g.planAt, length[:])
	into(ring, g.planAt+lengthBytes, record)
	g.planAt += need
	g.s.word(atPlanHead).Store(g.planAt)
	for q := 1; q < g.n; q++ {
		ringBell(g.s.half(g.s.of(q, atPlanBell)), forHead)
	}
	return nil
}

func (g *Group) planAlive() error {
	if g.planClosed {
		return g.left()
	}
	if e := g.s.ended(); e != nil {
		return e
	}
	return nil
}

// planRoom waits until follower q leaves room for so many bytes.
func (g *Group) planRoom(q int, need uint64) error {
	end := g.planAt + need
	if end <= uint64(g.s.planBytes) {
		return nil
	}
	a := awaited{g.s.word(g.s.of(q, atPlanTail)), end - uint64(g.s.planBytes), g.s.half(g.s.of(0, atPlanBell)), mark(q, 0), g.o.Spin, g.o.Timeout}
	switch g.s.await(a) {
	case arrived:
		return nil
	case late:
		err := fmt.Errorf("rank %d has not read %d bytes of plans for %v: %w", q, g.planAt-a.word.Load(), g.o.Timeout, collective.ErrLag)
		g.s.end(q, err.Error())
		return err
	}
	return g.s.ended()
}

// Next gives a follower the next record.
func (g *Group) Next(buf []byte) ([]byte, error) {
	if g.rank == 0 {
		return nil, fmt.Errorf("next by rank 0: %w", collective.ErrRole)
	}
	g.planMu.Lock()
	defer g.planMu.Unlock()
	if g.planClosed {
		return nil, g.planAlive()
	}
	a := awaited{g.s.word(atPlanHead), g.planAt + 1, g.s.half(g.s.of(g.rank, atPlanBell)), forHead, g.o.PlanSpin, 0}
	if g.s.await(a) == over {
		return nil, g.s.ended()
	}
	ring := g.s.plan()
	var length [lengthBytes]byte
	from(ring, g.planAt, length[:])
	n := binary.NativeEndian.Uint64(length[:])
	if n > uint64(len(ring)-lengthBytes) {
		g.s.end(g.rank, "the plan ring is broken")
		return nil, g.s.ended()
	}
	buf = append(buf[:0], make([]byte, n)...)
	from(ring, g.planAt+lengthBytes, buf)
	g.planAt += lengthBytes + (n+7)&^7
	g.s.word(g.s.of(g.rank, atPlanTail)).Store(g.planAt)
	ringBell(g.s.half(g.s.of(0, atPlanBell)), mark(g.rank, 0))
	return buf, nil
}

// into and from copy at a position of the endless stream that the ring shows.
func into(ring []byte, at uint64, b []byte) {
	i := int(at % uint64(len(ring)))
	n := copy(ring[i:], b)
	copy(ring, b[n:])
}

func from(ring []byte, at uint64, b []byte) {
	i := int(at % uint64(len(ring)))
	n := copy(b, ring[i:])
	copy(b[n:], ring)
}
