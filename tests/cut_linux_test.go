package tests

import (
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"chorale/internal/testkit"
)

// TestFaultRanksCut: the network between two ranks on different machines (here: a
// namespace of its own) is cut. The group leaves service, its answers go on at
// another one, and when the network is back so is the group.
func TestFaultRanksCut(t *testing.T) {
	const hostEnd, farEnd, leader = "chcut0", "chcut1", "10.213.7.1:7391"
	if err := exec.Command("ip", "link", "add", hostEnd, "type", "veth", "peer", "name", farEnd).Run(); err != nil {
		t.Skip("this system does not allow networks of one's own")
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", hostEnd).Run() }) // the far end's namespace may have taken it along
	ip("addr", "add", "10.213.7.1/24", "dev", hostEnd)
	ip("link", "set", hostEnd, "up")

	s := startRanksBeside(t, func(config string) (groups [][]string) {
		byHand := []string{"--tp-size", "2", "--tp-leader", leader, "--tp-token", "t"}
		far := testkit.Start(t, testkit.Options{
			Name: "far rank", Args: slices.Concat([]string{"worker"}, rankFlags(config), rankWorkerFlags(), byHand, []string{"--tp-rank", "1"}),
			Wrap: []string{"unshare", "-n", "sh", "-c", `until ip link show ` + farEnd + ` >/dev/null 2>&1; do sleep 0.05; done
				ip addr add 10.213.7.2/24 dev ` + farEnd + ` && ip link set ` + farEnd + ` up && exec "$@"`, "sh"},
		})
		// unshare has made the namespace by the time the shell asks for the link.
		s := &site{t: t}
		s.until("the link is in the far namespace", callLimit, func() bool {
			return exec.Command("ip", "link", "set", farEnd, "netns", fmt.Sprint(far.PID())).Run() == nil && exec.Command("ip", "link", "show", farEnd).Run() != nil
		})
		return [][]string{slices.Concat(byHand, []string{"--tp-rank", "0"}), nil}
	})
	const n = 1200
	want := s.expected(n)
	for round := range 2 {
		out := make(chan time.Duration, 1)
		var once sync.Once
		cut := func() {
			began := time.Now()
			ip("link", "set", hostEnd, "down")
			go func() {
				s.until("the group is out of service", callLimit, func() bool { return !s.connected(0) })
				out <- time.Since(began)
			}()
		}
		for i, a := range together(8, func(i int) said {
			return s.speak(voicesAndBase()[i%4], n, func(tokens int) {
				if tokens >= n/10 {
					once.Do(cut)
				}
			})
		}) {
			v := voicesAndBase()[i%4]
			s.check(fmt.Sprintf("cut %d", round), v, a, want[v])
		}
		took := <-out
		ip("link", "set", hostEnd, "up")
		back := time.Now()
		s.placed(0, len(rankVoices))
		t.Logf("out of service after %v, back %v after the network was", took.Round(time.Millisecond), time.Since(back).Round(time.Millisecond))
		if took > 8*time.Second {
			t.Errorf("out of service after %v", took)
		}
	}
}
