package tests

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chorale/internal/testkit"
)

// TestE2EDrainCommand: a worker that is drained while it serves ends what it has
// and gets nothing new, until it is taken back.
func TestE2EDrainCommand(t *testing.T) {
	s := startSplit(t, limits{})
	s.load("alto")
	want := s.say(prompt, "alto", 120)
	ended := s.begin("alto", 120)
	i := s.busy()
	drain := func(more ...string) *testkit.Process {
		return testkit.Start(t, testkit.Options{Name: "drain", Args: append([]string{"worker", "drain", s.addrs[i]}, more...)})
	}
	d := drain()
	// Whatever comes now goes to the other one, also what would have been placed
	// with the running adapter.
	s.until("the router has heard of it", callLimit, func() bool { return strings.Contains(s.front.Log(), "worker group drains") })
	before := s.steps(i)
	if got := s.say(prompt, "alto", 8); !strings.HasPrefix(want, got) {
		t.Errorf("meanwhile: %q, want a beginning of %q", got, want)
	}
	if got := <-ended; got != want {
		t.Errorf("the running answer: %q, undisturbed %q", got, want)
	}
	if code := d.Wait(t, callLimit); code != 0 || !strings.Contains(d.Stdout(), "can be stopped") {
		t.Errorf("exit status %d: %s %s", code, d.Stdout(), d.Log())
	}
	settled := s.steps(i)
	for range 6 {
		s.say(prompt, "alto", 4)
	}
	if now := s.steps(i); now != settled {
		t.Errorf("a drained worker has computed %d steps more (%d while it drained)", now-settled, settled-before)
	}
	if code := drain("--resume").Wait(t, callLimit); code != 0 {
		t.Errorf("exit status %d", code)
	}
	s.workers[1-i].Kill()
	s.until("it serves again", callLimit, func() bool {
		code, _ := s.post("/generate", greedy(prompt, "alto", 4))
		return code == 200
	})
	nobody := testkit.Start(t, testkit.Options{Name: "drain", Args: []string{"worker", "drain", "127.0.0.1:1", "--timeout", "5s"}})
	if code := nobody.Wait(t, 10*time.Second); code != 1 || !strings.Contains(nobody.Log(), "127.0.0.1:1") {
		t.Errorf("without a worker: exit status %d: %s", code, nobody.Log())
	}
}

// steps are a worker's so far.
func (s *site) steps(worker int) uint64 {
	for _, g := range s.info().WorkerGroups {
		if g.Address == s.addrs[worker] {
			return g.Steps
		}
	}
	return 0
}

// TestE2EScale: a worker group is added and another one drained and taken away
// while answers run, by a line in a file.
func TestE2EScale(t *testing.T) {
	s := startSplit(t, limits{})
	s.load("alto")
	want := s.say(prompt, "alto", 120)
	// Router and manager again, with a file that names the first group only.
	file := filepath.Join(t.TempDir(), "workers")
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("# groups\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(s.addrs[0] + " # the first")
	s.front.Kill()
	s.manager.Kill()
	s.managerArgs = slices.Concat([]string{"adaptermgr", "--log-format", "json", "--data-dir", s.data, "--adapter-root", s.root, "--workers-file", file})
	s.frontArgs = slices.Concat([]string{"router"}, modelFlags(t, limits{}), []string{"--served-model-name", served, "--workers-file", file, "--adaptermgr", s.managerAddr})
	s.startManager(s.managerAddr)
	s.startFront()
	s.placed(0, 1)
	if n := len(s.info().WorkerGroups); n != 1 {
		t.Fatalf("%d groups", n)
	}
	ended := s.begin("alto", 120)
	write(s.addrs...)
	s.until("the second group is there", startLimit, func() bool { return len(s.info().WorkerGroups) == 2 })
	s.placed(1, 1)
	if got := <-ended; got != want {
		t.Errorf("the running answer: %q, want %q", got, want)
	}
	ended = s.begin("alto", 120)
	write(s.addrs[1]) // not drained: it goes on at the other one
	s.until("the first group is gone", startLimit, func() bool {
		g := s.info().WorkerGroups
		return len(g) == 1 && g[0].Address == s.addrs[1]
	})
	s.workers[0].Kill()
	if got := <-ended; got != want {
		t.Errorf("the answer of a group that was taken away: %q, want %q", got, want)
	}
	s.load("bass")
	if got := s.say(prompt, "alto", 120); got != want {
		t.Errorf("afterwards: %q, want %q", got, want)
	}
	fails(t, testkit.Options{Args: []string{"adaptermgr", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir()}}, 1, "--workers-file")
	fails(t, testkit.Options{Args: []string{"adaptermgr", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--workers-file", "/nowhere"}}, 1, "/nowhere")
}
