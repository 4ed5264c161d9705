package group

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"chorale/worker/tensor"
)

// verb is what a message on a lane is about.
type verb uint8

const (
	verbHello   verb = iota + 1 // a follower's first word: hello
	verbReply                   // a follower's answer: reply
	verbDigests                 // a follower's: digests of steps, in binary
	verbFit                     // layout → room: what memory is left
	verbPool                    // layout → room: make the pool
	verbGrow                    // groups → reply: bring groups of the cache
	verbShrink                  // groups: give them back
	verbPut                     // put and the weights' bytes → room: an adapter for host memory
	verbLoad                    // load → reply: an adapter onto the device
	verbUnload                  // unload: off the device
	verbDrop                    // drop: out of host memory
)

// Lanes of a follower.
const (
	laneControl = iota // in the order they were sent
	laneBulk           // adapters' weights, in front of nobody
	lanes
)

// message is a frame: a head in JSON and, for some verbs, bytes.
type message struct {
	id   uint64 // of a call, 0: no answer is wanted
	verb verb
	head []byte
	body []byte
}

type (
	hello struct {
		Rank, Lane int
		Token      string
		// Refused is why this rank does not want to be in the group.
		Refused string
	}
	reply struct {
		Code, Text string
		Room       room
	}
	// room tells of memory, in bytes, pages or chunks.
	room struct {
		Bytes, Device        int64
		Pages, Group, Chunks int
	}
	groupsMsg struct {
		Groups []int32
		Landed uint64 // steps that must have ended before
	}
	putMsg struct {
		Image  uint64
		Config []byte
	}
	loadMsg struct {
		Image  uint64
		Number uint32
		Landed uint64
	}
)

// frameHead is id, verb, lengths of head and body.
const frameHead = 8 + 1 + 4 + 8

// Limits of a frame: neither side believes the other anything.
const (
	maxHead = 16 << 20
	maxBody = 16 << 30
)

var errFrame = errors.New("a broken message on a lane")

// lane is one connection, at either end. Reading is one goroutine's.
type lane struct {
	c net.Conn
	r *bufio.Reader

	wmu sync.Mutex // of writes

	mu    sync.Mutex // of the queue
	queue []message
	shut  bool
	wake  chan struct{} // capacity 1
	wrote chan struct{} // closed when the queue's writer has ended
}

func newLane(c net.Conn) *lane {
	return &lane{c: c, r: bufio.NewReaderSize(c, 64<<10), wake: make(chan struct{}, 1), wrote: make(chan struct{})}
}

// post leaves a message for the queue's writer: the engine waits for no
// connection.
func (l *lane) post(m message) {
	l.mu.Lock()
	if !l.shut {
		l.queue = append(l.queue, m)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// pump writes what is posted until the lane is closed.
func (l *lane) pump() {
	defer close(l.wrote)
	for range l.wake {
		l.mu.Lock()
		todo, shut := l.queue, l.shut
		l.queue = nil
		l.mu.Unlock()
		if shut {
			return
		}
		for i := range todo {
			if l.write(&todo[i]) != nil {
				return // who reads learns why
			}
		}
	}
}

// close ends the lane; pump and whoever reads or writes are freed.
func (l *lane) close() {
	l.mu.Lock()
	l.shut = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	l.c.Close()
}

// write sends a message at once.
func (l *lane) write(m *message) error {
	var h [frameHead]byte
	binary.LittleEndian.PutUint64(h[:], m.id)
	h[8] = byte(m.verb)
	binary.LittleEndian.PutUint32(h[9:], uint32(len(m.head)))
	binary.LittleEndian.PutUint64(h[13:], uint64(len(m.body)))
	l.wmu.Lock()
	defer l.wmu.Unlock()
	parts := net.Buffers{h[:], m.head, m.body}
	_, err := parts.WriteTo(l.c)
	return err
}

// read gives the next message, in memory of its own.
func (l *lane) read() (m message, err error) {
	var h [frameHead]byte
	if _, err := io.ReadFull(l.r, h[:]); err != nil {
		return m, err
	}
	m.id, m.verb = binary.LittleEndian.Uint64(h[:]), verb(h[8])
	n, body := binary.LittleEndian.Uint32(h[9:]), binary.LittleEndian.Uint64(h[13:])
	if n > maxHead || body > maxBody {
		return m, fmt.Errorf("%d and %d bytes: %w", n, body, errFrame)
	}
	m.head, m.body = make([]byte, n), make([]byte, body)
	if _, err := io.ReadFull(l.r, m.head); err != nil {
		return m, err
	}
	_, err = io.ReadFull(l.r, m.body)
	return m, err
}

// pack makes a head. What is packed here always can be.
func pack(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func unpack[T any](m *message) (v T, err error) {
	if err = json.Unmarshal(m.head, &v); err != nil {
		err = fmt.Errorf("%w: %w", errFrame, err)
	}
	return v, err
}

// codes name the errors that mean something to who asked.
var codes = map[string]error{"memory": tensor.ErrOutOfMemory, "unsupported": tensor.ErrUnsupported, "lost": tensor.ErrLost, "shape": tensor.ErrShape}

// failed makes a reply of an error.
func failed(err error) reply {
	if err == nil {
		return reply{}
	}
	for code, e := range codes {
		if errors.Is(err, e) {
			return reply{Code: code, Text: err.Error()}
		}
	}
	return reply{Code: "other", Text: err.Error()}
}

// err makes an error of a rank's reply.
func (r *reply) err(rank int) error {
	if r.Code == "" {
		return nil
	}
	return &remoteError{rank, r.Text, codes[r.Code]}
}

// remoteError is what another rank says.
type remoteError struct {
	rank int
	text string
	is   error // nil: nothing that anybody asks for
}

func (e *remoteError) Error() string { return fmt.Sprintf("rank %d: %s", e.rank, e.text) }

func (e *remoteError) Unwrap() error { return e.is }
