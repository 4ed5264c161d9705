package assemble_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// places gives an address for each transport.
func places() map[string]string {
	return map[string]string{
		"shared": fmt.Sprintf("unix:@chorale-test-%d-%d", os.Getpid(), time.Now().UnixNano()),
		"tcp":    "127.0.0.1:0",
	}
}

const patience = 30 * time.Second

// TestSameBits: processes over either transport get the same bits, all of them.
func TestSameBits(t *testing.T) {
	for _, size := range []int{2, 3} {
		var want uint64
		for name, address := range places() {
			for i, r := range launch(t, address, part{Size: size, Steps: 20, Mode: "steps", Stall: patience, Limit: patience}) {
				if l := r.next(t); !l.Running {
					t.Fatalf("%s: rank %d: %+v", name, i, l)
				}
				l := r.next(t)
				if want == 0 {
					want = l.Bits
				}
				if l.Bits != want || l.Bits == 0 {
					t.Errorf("%s: rank %d of %d: %x, want %x: %s", name, i, size, l.Bits, want, l.Failed)
				}
			}
		}
	}
}

// TestFaults: a process is killed or stopped in the middle of the work; the
// others learn whose fault it is. The promises are 500 ms for a dead one and
// Stall for a stopped one; here the machine is busy with other tests, so the log
// shows the time and the test only that it ends.
func TestFaults(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"kill": syscall.SIGKILL, "stop": syscall.SIGSTOP} {
		for transport := range places() {
			for _, victim := range []int{0, 2} {
				t.Run(fmt.Sprintf("%s/%s/%d", name, transport, victim), func(t *testing.T) {
					p := part{Size: 3, Mode: "steps", Stall: patience, Limit: patience}
					if name == "stop" {
						p.Stall = 1500 * time.Millisecond
					}
					fault(t, places()[transport], p, victim, signal)
				})
			}
		}
	}
}

func fault(t *testing.T, address string, p part, victim int, signal syscall.Signal) {
	ranks := launch(t, address, p)
	for i, r := range ranks {
		if l := r.next(t); !l.Running {
			t.Fatalf("rank %d: %+v", i, l)
		}
	}
	start := time.Now()
	if err := ranks[victim].cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	for i, r := range ranks {
		if i == victim {
			continue
		}
		l := r.next(t)
		t.Logf("rank %d after %v: rank %d: %s", i, time.Since(start).Round(time.Millisecond), l.Blamed, l.Failed)
		if l.Failed == "" || l.Blamed != victim {
			t.Errorf("rank %d: %+v", i, l)
		}
		if signal == syscall.SIGSTOP && !strings.Contains(l.Failed, "no life") {
			t.Errorf("rank %d waited for the operation's timeout: %s", i, l.Failed)
		}
	}
	if signal != syscall.SIGSTOP {
		return
	}
	// Who goes on after all learns that it is too late.
	if err := ranks[victim].cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if l := ranks[victim].next(t); l.Failed == "" {
		t.Errorf("the stopped one: %+v", l)
	}
}

// TestNothingLeft: killed groups leave no memory and no socket.
func TestNothingLeft(t *testing.T) {
	path := t.TempDir() + "/group.sock"
	ranks := launch(t, "unix:"+path, part{Size: 2, Mode: "steps", Stall: patience, Limit: patience})
	for _, r := range ranks {
		r.next(t)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	for _, r := range ranks {
		if err := r.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir("/dev/shm")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.Contains(f.Name(), "chorale") {
			t.Errorf("/dev/shm/%s", f.Name())
		}
	}
}
