package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"chorale/worker/group/supervise"
)

// TestMain is also a rank's main function.
func TestMain(m *testing.M) {
	p, err := supervise.Inherit(func() { os.Exit(3) })
	if err != nil {
		panic(err)
	}
	if p == nil {
		goleak.VerifyTestMain(m)
		return
	}
	play(p)
}

// play is a rank that does what its setting says.
func play(p *supervise.Parent) {
	switch p.Settings["part"] {
	case "fail":
		p.Failed(errors.New("the model is missing"))
		os.Exit(1)
	case "deaf": // does not end when it is asked to
		p.Ready()
		select {}
	}
	if f := p.File(0); f != nil {
		fmt.Fprintf(f, "rank %d of %d, %s, %s\n", p.Rank, p.Size, p.Address, p.Token)
	}
	p.Ready()
	<-p.Stopped()
}

// run supervises until stop; states come on the channel.
func run(t *testing.T, o supervise.Options) (states chan supervise.State, stop func() error) {
	t.Helper()
	states = make(chan supervise.State, 16)
	o.Path, o.Size, o.Log = os.Args[0], 2, zap.NewNop()
	o.Meet = func() (string, string) { return "unix:@x", "secret" }
	o.Told = func(s supervise.State) { states <- s }
	o.PauseMin = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- supervise.Run(ctx, o) }()
	return states, func() error {
		cancel()
		select {
		case err := <-end:
			return err
		case <-time.After(30 * time.Second):
			t.Fatal("the supervisor does not end")
			return nil
		}
	}
}

func next(t *testing.T, states chan supervise.State, ready bool) supervise.State {
	t.Helper()
	for {
		select {
		case s := <-states:
			if s.Ready == ready {
				return s
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no state with ready %v", ready)
		}
	}
}

// TestRestart: whichever rank is killed, all are started again; they end when
// they are asked to.
func TestRestart(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	states, stop := run(t, supervise.Options{Ranks: []int{0, 1}, Files: []*os.File{w}})
	old := next(t, states, true)
	for i, victim := range []int{0, 1} {
		sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[i]
		if err := syscall.Kill(old.PIDs[victim], sig); err != nil {
			t.Fatal(err)
		}
		if s := next(t, states, false); !strings.Contains(s.Why, fmt.Sprintf("rank %d: signal: %v", victim, sig)) || s.Restarts != i {
			t.Errorf("told %+v", s)
		}
		s := next(t, states, true)
		if s.Restarts != i+1 {
			t.Errorf("told %+v", s)
		}
		for _, pid := range old.PIDs {
			if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				t.Errorf("process %d is left over", pid)
			}
		}
		old = s
	}
	if err := syscall.Kill(old.PIDs[1], syscall.SIGSTOP); err != nil { // a rank that stands still does not hold the end up
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	w.Close()
	said := make([]byte, 1000)
	n, _ := r.Read(said)
	if !strings.HasPrefix(string(said[:n]), "rank 0 of 2, unix:@x, secret\nrank 0") {
		t.Errorf("the first rank said %q", said[:n])
	}
}

// TestStart: a group that never was ready is not started again, and its reason is
// told.
func TestStart(t *testing.T) {
	err := supervise.Run(context.Background(), supervise.Options{
		Ranks: []int{0, 1}, Size: 2, Path: os.Args[0], Log: zap.NewNop(), Meet: func() (string, string) { return "", "" },
		Settings: func(rank int) map[string]string { return map[string]string{"part": []string{"deaf", "fail"}[rank]} },
		Told:     func(s supervise.State) { t.Errorf("told %+v", s) },
	})
	if !errors.Is(err, supervise.ErrStart) || !strings.Contains(err.Error(), "rank 1: the model is missing") {
		t.Errorf("the supervisor ended with %v", err)
	}
}

// TestDeaf: ranks that do not end in good order are killed.
func TestDeaf(t *testing.T) {
	states, stop := run(t, supervise.Options{Ranks: []int{0, 1}, Stop: 50 * time.Millisecond, Settings: func(int) map[string]string {
		return map[string]string{"part": "deaf"}
	}})
	s := next(t, states, true)
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, pid := range s.PIDs {
		if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			t.Errorf("process %d is left over", pid)
		}
	}
}
