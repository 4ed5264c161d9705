package tcp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"chorale/worker/collective"
)

// plans is the way of plans: a record is its length, 4 bytes, and itself. Back
// comes, now and then, how many bytes were read.
type plans struct {
	g *Group

	mu  sync.Mutex
	to  []*follower // the leader's, by rank
	buf []byte
	at  uint64 // bytes sent, or read

	c     net.Conn // a follower's
	r     *bufio.Reader
	acked uint64
	stop  atomic.Bool // reading ends
}

type follower struct {
	c    net.Conn
	read atomic.Uint64
	more chan struct{} // it has read more, or has gone
}

const recordHead = 4

func (s *plans) open(g *Group, conns []net.Conn) {
	s.g = g
	if g.rank > 0 {
		s.c, s.r = conns[0], bufio.NewReaderSize(conns[0], 64<<10)
		return
	}
	s.to = make([]*follower, len(conns))
	for q, c := range conns {
		if c == nil {
			continue
		}
		f := &follower{c: c, more: make(chan struct{}, 1)}
		s.to[q] = f
		g.start(f.listen)
	}
}

// listen notes how far a follower has read.
func (f *follower) listen() {
	var b [8]byte
	for {
		_, err := io.ReadFull(f.c, b[:])
		if err == nil {
			f.read.Store(binary.NativeEndian.Uint64(b[:]))
		}
		select {
		case f.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// interrupt frees who waits for plans.
func (s *plans) interrupt() {
	s.stop.Store(true)
	past := time.Unix(1, 0)
	if s.c != nil {
		_ = s.c.SetReadDeadline(past)
	}
	for _, f := range s.to {
		if f != nil {
			_ = f.c.SetDeadline(past)
		}
	}
}

func (s *plans) close() {
	s.interrupt()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		s.c.Close()
	}
	for _, f := range s.to {
		if f != nil {
			f.c.Close()
		}
	}
}

// Publish sends a record to all followers.
func (g *Group) Publish(record []byte) error {
	s := &g.plans
	if g.rank != 0 {
		return fmt.Errorf("publish by rank %d: %w", g.rank, collective.ErrRole)
	}
	if recordHead+len(record) > g.o.PlanBytes {
		return fmt.Errorf("%d bytes, at most %d are under way: %w", len(record), g.o.PlanBytes, collective.ErrTooLong)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := g.alive(); err != nil {
		return err
	}
	s.buf = binary.NativeEndian.AppendUint32(s.buf[:0], uint32(len(record)))
	s.buf = append(s.buf, record...)
	s.at += uint64(len(s.buf))
	end := time.Now().Add(g.o.Timeout)
	for q, f := range s.to {
		if f == nil {
			continue
		}
		if err := s.send(q, f, end); err != nil {
			return err
		}
	}
	return nil
}

// send waits until the follower has room for the record in buf.
func (s *plans) send(q int, f *follower, end time.Time) error {
	g := s.g
	late := time.NewTimer(time.Until(end))
	defer late.Stop()
	for s.at-f.read.Load() > uint64(g.o.PlanBytes) {
		if err := g.alive(); err != nil {
			return err
		}
		select {
		case <-f.more:
		case <-g.over:
		case <-late.C:
			return s.lags(q, f)
		}
	}
	_ = f.c.SetWriteDeadline(end)
	_, err := f.c.Write(s.buf)
	switch {
	case err == nil:
		return nil
	case g.alive() != nil:
		return g.alive()
	case time.Now().After(end):
		return s.lags(q, f)
	}
	g.end(q, fmt.Sprintf("plans cannot be sent to it: %v", err))
	return g.alive()
}

func (s *plans) lags(q int, f *follower) error {
	err := fmt.Errorf("rank %d has not read %d bytes of plans for %v: %w", q, s.at-uint64(len(s.buf))-f.read.Load(), s.g.o.Timeout, collective.ErrLag)
	s.g.end(q, err.Error())
	return err
}

// Next gives a follower the next record.
func (g *Group) Next(buf []byte) ([]byte, error) {
	s := &g.plans
	if g.rank == 0 {
		return nil, fmt.Errorf("next by rank 0: %w", collective.ErrRole)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r.Buffered() == 0 && s.acked < s.at {
		s.acknowledge() // before a wait
	}
	var head [recordHead]byte
	_, err := io.ReadFull(s.r, head[:])
	if err != nil {
		return nil, s.ended(err)
	}
	n := int(binary.NativeEndian.Uint32(head[:]))
	if n > g.o.PlanBytes {
		g.end(0, fmt.Sprintf("sent a plan of %d bytes", n))
		return nil, g.alive()
	}
	buf = append(buf[:0], make([]byte, n)...)
	if _, err := io.ReadFull(s.r, buf); err != nil {
		return nil, s.ended(err)
	}
	s.at += uint64(recordHead + n)
	if s.at-s.acked > uint64(g.o.PlanBytes/8) {
		s.acknowledge()
	}
	return buf, nil
}

func (s *plans) acknowledge() {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], s.at)
	if _, err := s.c.Write(b[:]); err == nil {
		s.acked = s.at
	}
}

// ended is why no more plans come.
func (s *plans) ended(err error) error {
	if !s.stop.Load() {
		// The leader's other connection tells what happened, or it is lost.
		s.g.lost(s.g.peers[0], err)
	}
	if why := s.g.alive(); why != nil {
		return why
	}
	return errors.Join(collective.ErrAborted, err)
}
