package rendezvous

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var session = Session{Size: 4, Nonce: "n1", Digest: "d1"}

// addresses of all kinds that this system has.
func addresses(t *testing.T) []string {
	out := []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "r.sock")}
	if runtime.GOOS == "linux" {
		out = append(out, fmt.Sprintf("unix:@chorale-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	}
	return out
}

func listen(t *testing.T, address string) *Listener {
	t.Helper()
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

type joined struct {
	links *Links
	w     *Welcome
	f     *os.File
	err   error
}

func join(t *testing.T, ctx context.Context, l *Listener, rank int, s Session) chan joined {
	out := make(chan joined, 1)
	go func() {
		links, w, f, err := Join(ctx, l.Address(), rank, s, fmt.Sprintf("place-%d", rank))
		out <- joined{links, w, f, err}
	}()
	return out
}

func TestMeeting(t *testing.T) {
	for _, address := range addresses(t) {
		t.Run(address, func(t *testing.T) {
			l := listen(t, address)
			ctx := within(t, time.Minute)
			var ends []chan joined
			for rank := 1; rank < 4; rank++ {
				ends = append(ends, join(t, ctx, l, rank, session))
			}
			o := Offer{Address: "place-0", Message: []byte("id")}
			unix := address[:4] == "unix"
			if unix {
				f, err := os.Open(os.Args[0])
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				o.File = f
			}
			lead, w, err := l.Meet(ctx, session, o)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"place-0", "place-1", "place-2", "place-3"}
			left := make(chan int, 3)
			lead.Watch(func(rank int) { left <- rank })
			defer lead.Close()
			var all []joined
			for i, c := range ends {
				j := <-c
				if j.err != nil {
					t.Fatal(j.err)
				}
				if !slices.Equal(j.w.Addresses, want) || !slices.Equal(w.Addresses, want) || string(j.w.Message) != "id" || j.links.Rank != i+1 {
					t.Errorf("rank %d: %+v", i+1, j.w)
				}
				if (j.f != nil) != unix {
					t.Errorf("rank %d: file %v", i+1, j.f)
				}
				if unix {
					a, _ := j.f.Stat()
					b, _ := o.File.Stat()
					if !os.SameFile(a, b) {
						t.Error("another file came")
					}
					j.f.Close()
				}
				all = append(all, j)
			}
			j := <-join(t, ctx, l, 2, session)
			if !errors.Is(j.err, ErrLate) {
				t.Errorf("a fifth: %v", j.err)
			}
			all[1].links.Close()
			if rank := <-left; rank != 2 {
				t.Errorf("rank %d is said to have gone", rank)
			}
			gone := make(chan int, 1)
			all[0].links.Watch(func(rank int) { gone <- rank })
			lead.Close()
			if rank := <-gone; rank != 0 {
				t.Errorf("rank %d is said to have gone", rank)
			}
			all[0].links.Close()
			all[2].links.Close()
		})
	}
}

func TestRules(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	ctx := within(t, time.Minute)
	short, stop := context.WithCancel(ctx)
	met := make(chan error)
	go func() {
		_, _, err := l.Meet(short, session, Offer{})
		met <- err
	}()
	first := join(t, ctx, l, 1, session)
	waitFor(t, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.meeting != nil && l.meeting.here == 1 })
	with := func(f func(s *Session)) Session { s := session; f(&s); return s }
	for name, c := range map[string]struct {
		rank int
		s    Session
		want error
	}{
		"duplicate": {1, session, ErrDuplicate},
		"size":      {2, with(func(s *Session) { s.Size = 3 }), ErrSize},
		"rank":      {4, session, ErrSize},
		"leader":    {0, session, ErrSize},
		"digest":    {2, with(func(s *Session) { s.Digest = "d2" }), ErrDigest},
		"session":   {2, with(func(s *Session) { s.Nonce = "n2" }), ErrSession},
	} {
		j := <-join(t, ctx, l, c.rank, c.s)
		var r *RefusedError
		if !errors.Is(j.err, c.want) || !errors.As(j.err, &r) {
			t.Errorf("%s: %v", name, j.err)
		}
	}
	stop()
	var m *MissingError
	if err := <-met; !errors.As(err, &m) || !slices.Equal(m.Ranks, []int{2, 3}) || !errors.Is(err, ErrMissing) {
		t.Errorf("leader: %v", err)
	}
	if j := <-first; !errors.Is(j.err, ErrMissing) {
		t.Errorf("the one that came: %v", j.err)
	}
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

// TestAgain: a follower that died while it waited may come again.
func TestAgain(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	ctx := within(t, time.Minute)
	s := Session{Size: 2, Nonce: "n", Digest: "d"}
	m := &meeting{s: Session{Size: 3}, conns: make([]net.Conn, 3), addrs: make([]string, 3), full: make(chan struct{})}
	a, b := net.Pipe()
	if err := m.seat(hello{Version: version, Rank: 1, Size: 3}, a); err != nil {
		t.Fatal(err)
	}
	b.Close()
	c, d := net.Pipe()
	defer c.Close()
	defer d.Close()
	if err := m.seat(hello{Version: version, Rank: 1, Size: 3}, c); err != nil || m.here != 1 {
		t.Errorf("%v, %d here", err, m.here)
	}
	j := join(t, ctx, l, 1, s) // also before the leader waits for it
	time.Sleep(10 * time.Millisecond)
	links, _, err := l.Meet(ctx, s, Offer{})
	if err != nil {
		t.Fatal(err)
	}
	links.Close()
	(<-j).links.Close()
}

// TestNobody: a leader that never listens, one that hangs up, one that is none.
func TestNobody(t *testing.T) {
	ctx := within(t, 50*time.Millisecond)
	if _, _, _, err := Join(ctx, "unix:"+filepath.Join(t.TempDir(), "none"), 1, session, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	}()
	if _, _, _, err := Join(within(t, time.Minute), l.Addr().String(), 1, session, ""); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
	if _, _, err := listen(t, "127.0.0.1:0").Meet(within(t, time.Minute), Session{Size: 1}, Offer{}); err != nil {
		t.Error(err)
	}
}

// TestOrphan: the file of a killed leader's socket is no obstacle.
func TestOrphan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + path); err == nil {
		t.Error("a living leader's socket was taken")
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	listen(t, "unix:"+path)
}

func FuzzRead(f *testing.F) {
	for k, v := range map[kind]any{kindHello: hello{Rank: 1}, kindWelcome: Welcome{Addresses: []string{"a"}}, kindRefusal: refusal{"size", "x"}} {
		b, err := encode(k, v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, body, err := read(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(body) > len(b) {
			t.Errorf("message %d has %d bytes out of %d", k, len(body), len(b))
		}
		var h hello
		if decode(body, &h) == nil {
			_, _ = encode(kindHello, h)
		}
	})
}
