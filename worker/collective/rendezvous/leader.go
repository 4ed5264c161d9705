package rendezvous

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// helloTime is how long somebody who connected may take to say who they are.
const helloTime = 5 * time.Second

// Listener is where a leader waits. Who comes before the first Meet waits for
// it; who comes after one is answered that it is too late.
type Listener struct {
	l net.Listener

	mu      sync.Mutex
	meeting *meeting // nil before and after one
	closed  bool
	begun   chan struct{} // closed by the first Meet, or by Close
	once    sync.Once
	talking map[net.Conn]struct{} // those that have not said who they are
	all     sync.WaitGroup
}

// Listen opens the address. See Split.
func Listen(address string) (*Listener, error) {
	network, where := Split(address)
	l, err := net.Listen(network, where)
	if errors.Is(err, syscall.EADDRINUSE) && network == "unix" && orphan(where) {
		_ = os.Remove(where)
		l, err = net.Listen(network, where)
	}
	if err != nil {
		return nil, fmt.Errorf("rendezvous: %w", err)
	}
	ls := &Listener{l: l, talking: map[net.Conn]struct{}{}, begun: make(chan struct{})}
	ls.all.Add(1)
	go ls.accept()
	return ls, nil
}

// orphan tells whether a socket's file was left by a process that was killed.
func orphan(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// Address is where followers join, as Split reads it.
func (l *Listener) Address() string {
	a := l.l.Addr()
	return a.Network() + ":" + a.String()
}

// Close stops listening; a socket's file is removed. Meetings that are complete
// go on.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	l.once.Do(func() { close(l.begun) })
	for c := range l.talking {
		c.Close()
	}
	l.mu.Unlock()
	err := l.l.Close()
	l.all.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("rendezvous: %w", err)
	}
	return nil
}

func (l *Listener) accept() {
	defer l.all.Done()
	for {
		c, err := l.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say
			time.Sleep(10 * time.Millisecond)
			continue
		}
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			c.Close()
			continue
		}
		l.talking[c] = struct{}{}
		l.mu.Unlock()
		l.all.Add(1)
		go l.talk(c)
	}
}

// talk reads who came and hands the connection to the meeting.
func (l *Listener) talk(c net.Conn) {
	defer l.all.Done()
	h, err := greet(c)
	if err == nil {
		<-l.begun
	}
	l.mu.Lock()
	delete(l.talking, c)
	if err == nil {
		err = l.meeting.seat(h, c)
	}
	l.mu.Unlock()
	if err == nil {
		return
	}
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_ = write(c, kindRefusal, refusal{ruleOf(err), err.Error()}) // whoever it is may have gone
	c.Close()
}

func greet(c net.Conn) (hello, error) {
	var h hello
	if err := sameUser(c); err != nil {
		return h, err
	}
	_ = c.SetDeadline(time.Now().Add(helloTime))
	k, body, err := read(c)
	if err != nil {
		return h, err
	}
	if k != kindHello {
		return h, fmt.Errorf("message %d instead of a hello: %w", k, ErrProtocol)
	}
	if err := decode(body, &h); err != nil {
		return h, err
	}
	return h, c.SetDeadline(time.Time{})
}

// meeting collects followers.
type meeting struct {
	s     Session
	conns []net.Conn // by rank
	addrs []string
	here  int
	full  chan struct{} // closed when all are here
}

// seat checks a follower and takes it in.
func (m *meeting) seat(h hello, c net.Conn) error {
	if h.Version != version {
		return fmt.Errorf("rank %d speaks version %d, the leader %d: %w", h.Rank, h.Version, version, ErrProtocol)
	}
	if m == nil {
		return fmt.Errorf("rank %d: no group is waiting for it: %w", h.Rank, ErrLate)
	}
	switch same := subtle.ConstantTimeCompare([]byte(h.Nonce), []byte(m.s.Nonce)) == 1; {
	case !same:
		return fmt.Errorf("rank %d: %w", h.Rank, ErrSession)
	case h.Size != m.s.Size:
		return fmt.Errorf("rank %d is of a group of %d, this one has %d: %w", h.Rank, h.Size, m.s.Size, ErrSize)
	case h.Rank < 1 || h.Rank >= m.s.Size:
		return fmt.Errorf("rank %d follows in no group of %d: %w", h.Rank, m.s.Size, ErrSize)
	case h.Digest != m.s.Digest:
		return fmt.Errorf("rank %d runs %q, the leader %q: %w", h.Rank, h.Digest, m.s.Digest, ErrDigest)
	case m.conns[h.Rank] != nil && !hasGone(m.conns[h.Rank]):
		return fmt.Errorf("rank %d: %w", h.Rank, ErrDuplicate)
	}
	old := m.conns[h.Rank]
	m.conns[h.Rank], m.addrs[h.Rank] = c, place(h.Address, c)
	if old != nil { // it was started again
		old.Close()
		return nil
	}
	if m.here++; m.here == m.s.Size-1 {
		close(m.full)
	}
	return nil
}

// hasGone tells whether a follower's process ended while it waited. Nothing is
// sent while it waits, so nothing is lost.
func hasGone(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	_ = c.SetReadDeadline(time.Time{})
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// Offer is what the leader brings to a meeting.
type Offer struct {
	Address string // its own, for Welcome
	Message []byte
	File    *os.File // only over unix sockets; may be closed afterwards
}

// Links are a rank's connections to the others: the leader's to all followers,
// by rank, a follower's to the leader at [0]; the rest is nil.
type Links struct {
	Rank  int
	Conns []net.Conn

	mu     sync.Mutex
	closed bool
	all    sync.WaitGroup
}

// Meet waits for all followers and welcomes them. When ctx ends first, those
// that came are told, and the error is a *MissingError.
func (l *Listener) Meet(ctx context.Context, s Session, o Offer) (*Links, *Welcome, error) {
	start := time.Now()
	m := &meeting{s: s, conns: make([]net.Conn, max(s.Size, 1)), addrs: make([]string, max(s.Size, 1)), full: make(chan struct{})}
	m.addrs[0] = o.Address
	if s.Size <= 1 {
		close(m.full)
	}
	l.mu.Lock()
	if l.meeting != nil || l.closed {
		l.mu.Unlock()
		return nil, nil, fmt.Errorf("rendezvous: the listener is closed or has a meeting: %w", ErrProtocol)
	}
	l.meeting = m
	l.once.Do(func() { close(l.begun) })
	l.mu.Unlock()
	select {
	case <-m.full:
	case <-ctx.Done():
	}
	l.mu.Lock()
	l.meeting = nil // from here on m is ours
	l.mu.Unlock()
	if m.here < s.Size-1 {
		return nil, nil, m.giveUp(time.Since(start))
	}
	w := &Welcome{Addresses: m.addrs, Message: o.Message, File: o.File != nil}
	for rank := 1; rank < s.Size; rank++ {
		if err := welcome(m.conns[rank], w, o.File); err != nil {
			m.closeAll()
			return nil, nil, fmt.Errorf("rendezvous: rank %d came and went: %w: %w", rank, &MissingError{[]int{rank}, time.Since(start)}, err)
		}
	}
	return &Links{Rank: 0, Conns: m.conns}, w, nil
}

func (m *meeting) closeAll() {
	for _, c := range m.conns {
		if c != nil {
			c.Close()
		}
	}
}

// giveUp tells those who came who did not.
func (m *meeting) giveUp(after time.Duration) error {
	e := &MissingError{After: after}
	for rank := 1; rank < m.s.Size; rank++ {
		if m.conns[rank] == nil {
			e.Ranks = append(e.Ranks, rank)
		}
	}
	for _, c := range m.conns {
		if c != nil {
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_ = write(c, kindRefusal, refusal{ruleOf(e), e.Error()}) // it may have gone
		}
	}
	m.closeAll()
	return fmt.Errorf("rendezvous: %w", e)
}
