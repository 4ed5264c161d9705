package tcp_test

import (
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"chorale/worker/collective"
	"chorale/worker/collective/conformance"
	"chorale/worker/collective/tcp"
)

// wire is a network between ranks that can be cut: connections stay open and
// nothing comes through any more.
type wire struct {
	mu    sync.Mutex
	on    *sync.Cond
	state int // flows, cut, closed
	conns []net.Conn
	all   sync.WaitGroup
}

const (
	flows = iota
	cut
	closed
)

func newWire(t *testing.T) *wire {
	w := &wire{}
	w.on = sync.NewCond(&w.mu)
	t.Cleanup(func() { w.set(closed); w.all.Wait() })
	return w
}

func (w *wire) set(state int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = state
	w.on.Broadcast()
	if state == closed {
		for _, c := range w.conns {
			c.Close()
		}
	}
}

// passes waits while the wire is cut.
func (w *wire) passes() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.state == cut {
		w.on.Wait()
	}
	return w.state == flows
}

func (w *wire) keep(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, c)
}

// to gives an address behind which is another, over the wire.
func (w *wire) to(t *testing.T, address string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w.all.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", address)
			if err != nil {
				a.Close()
				continue
			}
			w.keep(a)
			w.keep(b)
			w.all.Go(func() { w.pump(a, b) })
			w.all.Go(func() { w.pump(b, a) })
		}
	})
	return l.Addr().String()
}

func (w *wire) pump(from, to net.Conn) {
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil || !w.passes() {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// TestCut: a network that swallows everything is noticed by all, and each says
// whom it cannot hear.
func TestCut(t *testing.T) {
	const size = 3
	w := newWire(t)
	o := conformance.Patient
	o.Stall = 500 * time.Millisecond
	ways := make([]tcp.Way, size)
	addresses := make([]string, size)
	for rank := range ways {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses[rank] = w.to(t, l.Addr().String())
		ways[rank] = tcp.Way{Rank: rank, Addresses: addresses, Nonce: "cut", Listener: l}
	}
	ms := make([]collective.Member, size)
	var all sync.WaitGroup
	for rank := range ms {
		all.Go(func() {
			m, err := tcp.Connect(t.Context(), ways[rank], o)
			if err != nil {
				t.Error(err)
			}
			ms[rank] = m
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	defer conformance.CloseAll(t, ms)
	for rank, err := range conformance.Each(ms, func(m collective.Member) error {
		return conformance.Step(m, collective.KindAllReduce, 1, 100000)
	}) {
		if err != nil {
			t.Fatalf("rank %d: %v", rank, err)
		}
	}
	w.set(cut)
	start := time.Now()
	for rank, err := range conformance.Each(ms, func(m collective.Member) error {
		for {
			// More than fits in the sockets' buffers: writers block too.
			if err := m.AllReduce(make([]float32, 1<<20)); err != nil {
				return err
			}
		}
	}) {
		var a *collective.AbortError
		if !errors.As(err, &a) || a.Rank == rank || !strings.Contains(a.Reason, "no life") {
			t.Errorf("rank %d: %v", rank, err)
		}
		t.Logf("rank %d after %v: %v", rank, time.Since(start).Round(time.Millisecond), err)
	}
}
