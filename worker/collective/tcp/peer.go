package tcp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Messages between two ranks.
const (
	msgPut   = iota + 1 // parts to add, or bytes to copy
	msgSum              // sums
	msgAck              // a piece of a broadcast has come
	msgBeat             // I live
	msgAbort            // the group is over: piece is the rank at fault, the payload says why
	msgBye              // I leave, and have sent everything
)

const (
	headBytes  = 24
	pieceBytes = 1 << 18
	// ahead is how many messages of one rank may wait here: see doc.go.
	ahead = 64
)

// message is one message: a head and what follows it.
type message struct {
	kind    byte
	piece   uint64
	sign    uint64 // of the operation
	payload []byte // from peer.buffer
}

func (m *message) head(b *[headBytes]byte) []byte {
	b[0] = m.kind
	binary.NativeEndian.PutUint32(b[4:], uint32(len(m.payload)))
	binary.NativeEndian.PutUint64(b[8:], m.piece)
	binary.NativeEndian.PutUint64(b[16:], m.sign)
	return b[:]
}

// peer is the connection to one other rank.
type peer struct {
	rank int
	c    *net.TCPConn
	in   chan message
	free chan []byte // buffers that were used

	acks  atomic.Uint64 // of broadcasts
	acked chan struct{}
	sent  uint64 // pieces of broadcasts; of operations

	left atomic.Bool   // it said bye
	gone chan struct{} // closed then

	wmu      sync.Mutex
	head     [headBytes]byte
	lines    [2][]byte
	broken   bool // something was written in part
	finished bool // the last message was sent
}

func newPeer(rank int, c net.Conn) *peer {
	t := c.(*net.TCPConn)
	_ = t.SetNoDelay(true)
	return &peer{rank: rank, c: t, in: make(chan message, ahead), free: make(chan []byte, ahead), acked: make(chan struct{}, 1), gone: make(chan struct{})}
}

// buffer gives memory for n bytes.
func (p *peer) buffer(n int) []byte {
	select {
	case b := <-p.free:
		if cap(b) >= n {
			return b[:n]
		}
	default:
	}
	if n <= pieceBytes {
		return make([]byte, n, max(n, min(4*n, pieceBytes)))
	}
	return make([]byte, n)
}

// recycle gives a message's memory back.
func (p *peer) recycle(b []byte) {
	if cap(b) == 0 {
		return
	}
	select {
	case p.free <- b[:0]:
	default:
	}
}

// send writes a message. Errors are final.
func (p *peer) send(m message) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	return p.sendLocked(m)
}

func (p *peer) sendLocked(m message) error {
	if p.broken || p.finished {
		return net.ErrClosed
	}
	p.lines[0], p.lines[1] = m.head(&p.head), m.payload
	lines := net.Buffers(p.lines[:])
	if _, err := lines.WriteTo(p.c); err != nil {
		p.broken = true
		return err
	}
	return nil
}

// finish says a last message, and that no more comes. Who is writing is freed
// after a while.
func (p *peer) finish(m message, while time.Duration) {
	_ = p.c.SetWriteDeadline(time.Now().Add(while))
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if p.finished {
		return
	}
	_ = p.c.SetWriteDeadline(time.Now().Add(lastWords))
	if p.broken || p.sendLocked(m) != nil {
		p.c.Close() // in the middle of a message
	} else {
		_ = p.c.CloseWrite()
	}
	p.finished = true
}

// ears reads one connection and notices silence.
type ears struct {
	c     *net.TCPConn
	r     *bufio.Reader
	stall time.Duration
	// last is when listening ends, in Unix nanoseconds; 0 while the group lives.
	last *atomic.Int64
}

// rest sets how long to wait for the next byte.
func (e *ears) rest(wait time.Duration) {
	if e.last.Load() == 0 {
		_ = e.c.SetReadDeadline(time.Now().Add(wait))
	}
	if last := e.last.Load(); last != 0 { // perhaps since then
		_ = e.c.SetReadDeadline(time.Unix(0, last))
	}
}

var errSilent = errors.New("has shown no life")

// fill reads all of b. Each byte is a sign of life.
func (e *ears) fill(b []byte) error {
	for got := 0; got < len(b); {
		if e.r.Buffered() == 0 {
			e.rest(e.stall)
		}
		n, err := e.r.Read(b[got:])
		if got += n; n > 0 {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// If it was this process that stood still, it is all there.
			e.rest(e.stall / beats)
			n, err = e.r.Read(b[got:])
			if got += n; n > 0 {
				continue
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("%w for %v", errSilent, e.stall)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next reads a message.
func (e *ears) next(p *peer) (message, error) {
	var head [headBytes]byte
	if err := e.fill(head[:]); err != nil {
		return message{}, err
	}
	m := message{kind: head[0], piece: binary.NativeEndian.Uint64(head[8:]), sign: binary.NativeEndian.Uint64(head[16:])}
	n := binary.NativeEndian.Uint32(head[4:])
	if n > pieceBytes {
		return m, fmt.Errorf("a message of %d bytes", n)
	}
	if n > 0 {
		m.payload = p.buffer(int(n))
		if err := e.fill(m.payload); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return m, err
		}
	}
	return m, nil
}
