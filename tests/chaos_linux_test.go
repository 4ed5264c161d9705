package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chorale/internal/testkit"
)

// blow is one way to hurt a role.
type blow struct {
	role string
	sig  syscall.Signal
}

// tally is what came of a blow, over all its times.
type tally struct {
	times, right, typed int
	out, recovery       []time.Duration
}

// TestFaultRandom hurts each role of a split site in random order under load,
// CHORALE_FAULTS times (default: each once). Every answer must be right or end
// with a typed error; everything recovers. It prints a table.
func TestFaultRandom(t *testing.T) {
	var blows []blow
	for _, role := range []string{"router", "manager", "supervisor", "leader", "rank 1"} {
		blows = append(blows, blow{role, syscall.SIGKILL}, blow{role, syscall.SIGSTOP})
	}
	times := len(blows)
	if v := os.Getenv("CHORALE_FAULTS"); v != "" {
		var err error
		if times, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	s := startRanks(t, 2, 1)
	const n = 400
	want := s.expected(n)
	rng := rand.New(rand.NewPCG(uint64(times), 5))
	tallies := map[blow]*tally{}
	var order []blow
	for i := range times {
		if i%len(blows) == 0 {
			order = slices.Clone(blows)
			rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		b := order[i%len(blows)]
		if tallies[b] == nil {
			tallies[b] = &tally{}
		}
		s.strike(b, time.Duration(rng.IntN(1000))*time.Millisecond, want, tallies[b])
		if t.Failed() {
			return
		}
	}
	t.Log("\n" + table(blows, tallies))
}

// strike hurts a role while answers run, and waits until all is well.
func (s *rankSite) strike(b blow, after time.Duration, want map[string][]int32, out *tally) {
	s.t.Helper()
	stop := make(chan struct{})
	var mu sync.Mutex
	var load sync.WaitGroup
	for i := range 6 {
		load.Go(func() {
			for {
				v := voicesAndBase()[i%4]
				a := s.speak(v, int32(len(want[v])), nil)
				mu.Lock()
				s.judge(b, v, a, want[v], out)
				mu.Unlock()
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond): // a refused one would come again at once
				}
			}
		})
	}
	time.Sleep(after)
	began := time.Now()
	s.hurt(b)
	if b.role == "leader" || b.role == "rank 1" || b.role == "supervisor" && b.sig == syscall.SIGKILL {
		s.until("the group is out of service", callLimit, func() bool { return !s.connected(0) })
		out.out = append(out.out, time.Since(began))
	}
	s.heal(b)
	s.placed(0, len(rankVoices))
	s.placed(1, len(rankVoices))
	for _, v := range voicesAndBase() {
		s.until("each voice is right again", startLimit, func() bool {
			a := s.speak(v, 20, nil)
			return a.err == nil && slices.Equal(a.ids, want[v][:20])
		})
	}
	out.recovery = append(out.recovery, time.Since(began))
	out.times++
	close(stop)
	load.Wait()
	s.idle(startLimit)
}

// judge counts an answer: right, or cut short with a typed error and right up to
// there.
func (s *rankSite) judge(b blow, voice string, a said, want []int32, out *tally) {
	if len(a.ids) > len(want) || !slices.Equal(a.ids, want[:len(a.ids)]) {
		s.t.Errorf("%v of the %s: %q says something else", b.sig, b.role, voice)
		return
	}
	switch code := status.Code(a.err); {
	case a.err == nil && a.why == "" && len(a.ids) == len(want):
		out.right++
	case code == codes.Unavailable || code == codes.FailedPrecondition: // no router, no group, adapter not there yet
		out.typed++
	case a.err == nil && strings.HasPrefix(a.why, "FINISH_REASON_ABORT"):
		out.typed++
	default:
		s.t.Errorf("%v of the %s: %q ended after %d tokens with %v %s", b.sig, b.role, voice, len(a.ids), a.err, a.why)
	}
}

// hurt sends the signal.
func (s *rankSite) hurt(b blow) {
	if p := s.process(b.role); p != nil {
		p.Signal(b.sig)
		return
	}
	rank := 0
	if b.role != "leader" {
		rank = 1
	}
	_ = syscall.Kill(pids(s.workers[0])[rank], b.sig)
}

// process is a role's, nil for ranks.
func (s *rankSite) process(role string) *testkit.Process {
	return map[string]*testkit.Process{"router": s.front, "manager": s.manager, "supervisor": s.workers[0]}[role]
}

// heal does what an orchestrator would: starts again what was killed. What stands
// still goes on after a while. Ranks are their supervisor's to heal.
func (s *rankSite) heal(b blow) {
	p := s.process(b.role)
	if p == nil {
		return
	}
	if b.sig == syscall.SIGSTOP {
		time.Sleep(3 * time.Second)
		p.Signal(syscall.SIGCONT)
		return
	}
	p.Kill()
	switch b.role {
	case "router":
		s.startFront()
		s.dial() // what was dialled backs off for long
	case "manager":
		s.startManager(s.managerAddr)
	default:
		s.startWorker(0)
	}
}

func table(blows []blow, tallies map[blow]*tally) string {
	var b strings.Builder
	b.WriteString("| fault | times | answers right | typed errors | wrong | out of service, worst | all well again, median | worst |\n|---|---|---|---|---|---|---|---|\n")
	for _, w := range blows {
		t := tallies[w]
		if t == nil {
			continue
		}
		out := "-"
		if len(t.out) > 0 {
			out = seconds(slices.Max(t.out))
		}
		slices.Sort(t.recovery)
		fmt.Fprintf(&b, "| %v of the %s | %d | %d | %d | 0 | %s | %s | %s |\n", name(w.sig), w.role, t.times, t.right, t.typed, out,
			seconds(t.recovery[len(t.recovery)/2]), seconds(slices.Max(t.recovery)))
	}
	return b.String()
}

func name(s syscall.Signal) string {
	if s == syscall.SIGKILL {
		return "kill -9"
	}
	return "SIGSTOP"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
