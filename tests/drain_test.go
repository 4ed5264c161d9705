package tests

import (
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
