package tcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"chorale/worker/collective"
)

// ErrConnect: not all ranks could be reached, or one that came is none of this
// group's.
var ErrConnect = errors.New("ranks cannot reach each other")

// Way is how a rank reaches the others.
type Way struct {
	Rank      int
	Addresses []string // host:port, by rank
	// Nonce tells groups apart: at most 255 bytes.
	Nonce string
	// Listener is this rank's, at Addresses[Rank]. Connect closes it.
	Listener net.Listener
}

// Connections are for tensors, or for plans from the leader.
const (
	forTensors = iota
	forPlans
)

const (
	greeting  = 0x43485443_00000001 // "CHTC", version; in the machine's byte order
	greetTime = 5 * time.Second
)

// greet is what who dials says: greeting, from, to, what for, the nonce.
func greet(from, to, what int, nonce string) []byte {
	b := binary.NativeEndian.AppendUint64(nil, greeting)
	b = append(b, byte(len(nonce)))
	b = binary.NativeEndian.AppendUint32(b, uint32(from))
	b = binary.NativeEndian.AppendUint32(b, uint32(to))
	b = append(b, byte(what))
	return append(b, nonce...)
}

// Connect makes the connections and gives this rank's end; all ranks call it.
func Connect(ctx context.Context, w Way, o collective.Options) (collective.Member, error) {
	defer w.Listener.Close()
	size := len(w.Addresses)
	if len(w.Nonce) > 255 || w.Rank < 0 || w.Rank >= size {
		return nil, fmt.Errorf("tcp: rank %d of %d, nonce of %d bytes: %w", w.Rank, size, len(w.Nonce), ErrConnect)
	}
	m := &mesh{w: w, came: make(chan came, 2*size)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go m.accept(ctx)
	for q := range w.Rank {
		go m.dial(ctx, q, forTensors)
	}
	if w.Rank > 0 {
		go m.dial(ctx, 0, forPlans)
	}
	tensors, plans, err := m.gather(ctx)
	cancel()
	w.Listener.Close()
	if err != nil {
		return nil, fmt.Errorf("tcp: rank %d: %w", w.Rank, err)
	}
	return newGroup(w.Rank, tensors, plans, o.Fill()), nil
}

type came struct {
	rank, what int
	c          net.Conn
	err        error
}

type mesh struct {
	w    Way
	came chan came

	mu   sync.Mutex
	done bool
}

// hand gives a connection to gather, or closes it when that has gone.
func (m *mesh) hand(c came) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.done {
		select {
		case m.came <- c:
			return
		default: // more than there are ranks
		}
	}
	if c.c != nil {
		c.c.Close()
	}
}

// gather waits for one connection of each kind for each rank.
func (m *mesh) gather(ctx context.Context) (tensors, plans []net.Conn, err error) {
	size := len(m.w.Addresses)
	kinds := [2][]net.Conn{make([]net.Conn, size), make([]net.Conn, size)}
	missing := size - 1
	if m.w.Rank == 0 {
		missing += size - 1
	} else {
		missing++
	}
	for missing > 0 && err == nil {
		select {
		case c := <-m.came:
			switch {
			case c.err != nil:
				err = c.err
			case kinds[c.what][c.rank] != nil:
				c.c.Close()
				err = fmt.Errorf("rank %d came twice: %w", c.rank, ErrConnect)
			default:
				kinds[c.what][c.rank] = c.c
				missing--
			}
		case <-ctx.Done():
			err = fmt.Errorf("%d connections are missing: %w: %w", missing, ErrConnect, context.Cause(ctx))
		}
	}
	m.mu.Lock()
	m.done = true
	m.mu.Unlock()
	for len(m.came) > 0 {
		if c := <-m.came; c.c != nil {
			c.c.Close()
		}
	}
	if err != nil {
		for _, c := range append(kinds[0], kinds[1]...) {
			if c != nil {
				c.Close()
			}
		}
		return nil, nil, err
	}
	return kinds[forTensors], kinds[forPlans], nil
}

// dial reaches a rank of which only the address is known yet: it listens, or it
// has gone.
func (m *mesh) dial(ctx context.Context, q, what int) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", m.w.Addresses[q])
	if err != nil {
		m.hand(came{rank: q, err: fmt.Errorf("rank %d: %w: %w", q, ErrConnect, err)})
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	_, err = c.Write(greet(m.w.Rank, q, what, m.w.Nonce))
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1)) // it took us
	}
	if !stop() && err == nil { // before it is handed over, or its deadline comes with it
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		m.hand(came{rank: q, err: fmt.Errorf("rank %d at %s does not take us: %w: %w", q, m.w.Addresses[q], ErrConnect, err)})
		return
	}
	m.hand(came{q, what, c, nil})
}

// accept takes those who greet rightly and ignores others.
func (m *mesh) accept(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { m.w.Listener.Close() })()
	for {
		c, err := m.w.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go m.greeted(ctx, c)
	}
}

func (m *mesh) greeted(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(greetTime))
	from, what, err := m.hear(c)
	if err == nil {
		_, err = c.Write([]byte{1})
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil || !stop() {
		c.Close()
		return
	}
	m.hand(came{from, what, c, nil})
}

// hear reads a greeting and checks it.
func (m *mesh) hear(r io.Reader) (from, what int, err error) {
	var head [18]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, err
	}
	nonce := make([]byte, head[8])
	if _, err := io.ReadFull(r, nonce); err != nil {
		return 0, 0, err
	}
	from, what = int(binary.NativeEndian.Uint32(head[9:])), int(head[17])
	whole := append(head[:], nonce...)
	known := from < len(m.w.Addresses) && (what == forTensors && from > m.w.Rank || what == forPlans && m.w.Rank == 0 && from > 0)
	if !known || !bytes.Equal(whole, greet(from, m.w.Rank, what, m.w.Nonce)) {
		return 0, 0, ErrConnect
	}
	return from, what, nil
}
