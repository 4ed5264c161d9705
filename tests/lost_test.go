package tests

import (
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chorale/internal/testkit"
	pb "chorale/proto/gen/chorale/v1"
)

// TestFaultDevice: a device that fails takes down its worker, which says what
// happened, and nothing else: its answers go on at the other worker, and when it
// is started again the manager fills it again.
func TestFaultDevice(t *testing.T) {
	l, exact := lossy()
	s := startSplit(t, l)
	all := []string{"alto", "bass", ""}
	want := map[string]string{}
	for _, n := range all {
		if n != "" {
			s.load(n)
		}
		want[n] = s.read(seeded(n, 40), nil).text
	}
	check := func(when string, i int, a answer) {
		t.Helper()
		n := all[i%len(all)]
		if a.err != nil || a.finish != pb.FinishReason_FINISH_REASON_LENGTH || exact && a.text != want[n] {
			t.Errorf("%s, answer %d of %q: %v %v %s, %q, undisturbed %q", when, i, n, a.err, a.finish, a.why, a.text, want[n])
		}
	}
	const victim = 0
	w := s.workers[victim]
	var once sync.Once
	for i, a := range together(3*len(all), func(i int) answer {
		return s.read(seeded(all[i%len(all)], 40), func(tokens int) {
			if tokens >= 12 {
				once.Do(func() { w.Signal(syscall.SIGUSR1) })
			}
		})
	}) {
		check("while one is lost", i, a)
	}
	obituary(t, w)
	if code, _ := s.get("/health"); code != 200 {
		t.Errorf("the router is not well: %d", code)
	}
	s.startWorker(victim)
	s.placed(victim, 2)
	for i, a := range together(3*len(all), func(i int) answer { return s.read(seeded(all[i%len(all)], 40), nil) }) {
		check("with both again", i, a)
	}
	s.idle(callLimit)
}

// obituary checks what a worker with a lost device leaves behind.
func obituary(t *testing.T, p *testkit.Process) {
	t.Helper()
	if code := p.Wait(t, 20*time.Second); code != 1 {
		t.Errorf("exit status %d", code)
	}
	log := p.Log()
	lines := strings.Split(strings.TrimSpace(log), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "chorale: worker: step ") || !strings.Contains(last, " rows ") {
		t.Errorf("the last line is %q", last)
	}
	if !slices.ContainsFunc(lines, func(l string) bool {
		return strings.Contains(l, `"level":"error"`) && strings.Contains(l, "the device is lost") && strings.Contains(l, `"device":"`)
	}) {
		t.Errorf("no report in the log:\n%s", log)
	}
}

// TestFaultDeviceServe: in one process there is nobody to go on: it ends, and
// whoever waits is told.
func TestFaultDeviceServe(t *testing.T) {
	l, _ := lossy()
	s := startServe(t, l)
	s.load("alto")
	var once sync.Once
	a := s.read(seeded("alto", 400), func(int) { once.Do(func() { s.front.Signal(syscall.SIGUSR1) }) })
	if a.err == nil && a.finish != pb.FinishReason_FINISH_REASON_ABORT {
		t.Errorf("the running answer: %+v", a)
	}
	obituary(t, s.front)
}
