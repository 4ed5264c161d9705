package tcp_test

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chorale/worker/collective"
	"chorale/worker/collective/conformance"
	"chorale/worker/collective/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, size int, o collective.Options) []collective.Member {
	t.Helper()
	ways := make([]tcp.Way, size)
	addresses := make([]string, size)
	for rank := range ways {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses[rank] = l.Addr().String()
		ways[rank] = tcp.Way{Rank: rank, Addresses: addresses, Nonce: "test", Listener: l}
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
		t.FailNow()
	}
	return ms
}

func TestConformance(t *testing.T) { conformance.Run(t, open) }

// TestStrangers: who does not greet rightly is not taken, and disturbs nobody.
func TestStrangers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addresses := []string{at, other.Addr().String()}
	lead := make(chan collective.Member, 1)
	go func() {
		m, err := tcp.Connect(t.Context(), tcp.Way{Rank: 0, Addresses: addresses, Nonce: "a", Listener: l}, conformance.Patient)
		if err != nil {
			t.Error(err)
		}
		lead <- m
	}()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 20)) // longer than any greeting
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	bad, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tcp.Connect(t.Context(), tcp.Way{Rank: 1, Addresses: addresses, Nonce: "b", Listener: bad}, conformance.Patient); err == nil {
		t.Error("another nonce was taken")
	}
	m, err := tcp.Connect(t.Context(), tcp.Way{Rank: 1, Addresses: addresses, Nonce: "a", Listener: other}, conformance.Patient)
	if err != nil {
		t.Fatal(err)
	}
	ms := []collective.Member{<-lead, m}
	defer conformance.CloseAll(t, ms)
	for rank, err := range conformance.Each(ms, func(m collective.Member) error { return m.Barrier() }) {
		if err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}
