package tests

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// InsideEnv tells a test that it runs in a network namespace of its own.
const InsideEnv = "CHORALE_TEST_INSIDE"

// lan is a network of roles: each has a namespace and a link to a hub that passes
// packets on. The test itself is one of the hosts, "client".
type lan struct {
	t     testing.TB
	hub   int // process whose namespace it is
	hosts map[string]*host
}

// host is a role's place in the lan.
type host struct {
	pid  int // whose namespace it is, 0 for the test's own
	addr string
}

// networks tells whether this system lets a test have a network of its own, and
// the command that makes one.
func networks() (unshare []string, ok bool) {
	const try = `ip rule add from 10.0.0.1 to 10.0.0.2 blackhole && ip link add end0 type veth peer name end1 && echo 1 > /proc/sys/net/ipv4/ip_forward`
	for _, flags := range []string{"-n", "-rn"} {
		if exec.Command("unshare", flags, "sh", "-c", try).Run() == nil {
			return []string{"unshare", flags}, true
		}
	}
	return nil, false
}

// newLAN connects roles. The test runs in a namespace of its own already.
func newLAN(t testing.TB, roles ...string) *lan {
	t.Helper()
	l := &lan{t: t, hosts: map[string]*host{}}
	l.hub = l.namespace()
	l.ip(0, "link", "set", "lo", "up")
	l.in(l.hub, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	for i, role := range append([]string{"client"}, roles...) {
		h := &host{addr: fmt.Sprintf("10.213.%d.2", i)}
		hubEnd, end := fmt.Sprintf("hub%d", i), fmt.Sprintf("end%d", i)
		l.ip(0, "link", "add", hubEnd, "type", "veth", "peer", "name", end)
		l.ip(0, "link", "set", hubEnd, "netns", fmt.Sprint(l.hub))
		l.ip(l.hub, "addr", "add", fmt.Sprintf("10.213.%d.1/24", i), "dev", hubEnd)
		l.ip(l.hub, "link", "set", hubEnd, "up")
		if role != "client" {
			h.pid = l.namespace()
			l.ip(0, "link", "set", end, "netns", fmt.Sprint(h.pid))
			l.ip(h.pid, "link", "set", "lo", "up")
		}
		l.ip(h.pid, "addr", "add", h.addr+"/24", "dev", end)
		l.ip(h.pid, "link", "set", end, "up")
		l.ip(h.pid, "route", "add", "default", "via", fmt.Sprintf("10.213.%d.1", i))
		l.hosts[role] = h
	}
	return l
}

// namespace makes one and returns a process that holds it until the test's end.
func (l *lan) namespace() int {
	l.t.Helper()
	c := exec.Command("unshare", "-n", "sleep", "infinity")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // killed
	})
	mine, _ := os.Readlink("/proc/self/ns/net")
	for end := time.Now().Add(callLimit); ; time.Sleep(time.Millisecond) {
		if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", c.Process.Pid)); err == nil && its != mine {
			return c.Process.Pid
		}
		if time.Now().After(end) {
			l.t.Fatal("no namespace")
		}
	}
}

// enter is the command that runs another one in a process's network.
func enter(pid int) []string { return []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid)} }

// in runs a command in a process's network, 0 being this one.
func (l *lan) in(pid int, args ...string) {
	l.t.Helper()
	if pid != 0 {
		args = append(enter(pid), args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s: %v %s", strings.Join(args, " "), err, out)
	}
}

func (l *lan) ip(pid int, args ...string) {
	l.t.Helper()
	l.in(pid, append([]string{"ip"}, args...)...)
}

// cut ends all traffic between two roles. Silently is without a word to the
// senders; otherwise the hub tells them that there is no way. heal undoes it.
func (l *lan) cut(a, b string, silently bool) (heal func()) {
	l.t.Helper()
	how := "unreachable"
	if silently {
		how = "blackhole"
	}
	rule := func(what string) {
		for _, way := range [][2]string{{a, b}, {b, a}} {
			l.ip(l.hub, "rule", what, "from", l.hosts[way[0]].addr, "to", l.hosts[way[1]].addr, how)
		}
	}
	rule("add")
	return func() { rule("del") }
}
