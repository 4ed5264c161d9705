package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"chorale/internal/testkit"
	pb "chorale/proto/gen/chorale/v1"
)

// noticed bounds how long a group that cannot be reached may stay in service: a
// keepalive after 10 s that is not answered within 5, and a busy machine.
const noticed = 18 * time.Second

// fault is one way to hurt the site.
type fault struct {
	what string // a signal or a cut
	role string // whom, or the first end of a link
	to   string // its other end
}

func (f fault) String() string {
	if f.to != "" {
		return fmt.Sprintf("%s between %s and %s", f.what, f.role, f.to)
	}
	return f.what + " of the " + f.role
}

// kinds of faults. A cut that tells is one where routers answer that there is no
// way; a silent one loses packets.
const (
	kill      = "kill -9"
	standing  = "SIGSTOP"
	silentCut = "silent cut"
	toldCut   = "told cut"
)

// tally is what came of a fault, over all its times.
type tally struct {
	times, unnoticed int
	lasted           []time.Duration
	out, recovery    []time.Duration
}

// faults are all that this site can have.
func (c *chaos) faults() (out []fault) {
	for _, role := range []string{"router", "manager", "supervisor", "leader", "rank 1", "worker 1"} {
		out = append(out, fault{kill, role, ""}, fault{standing, role, ""})
	}
	if c.site.lan == nil {
		return out
	}
	for _, link := range [][2]string{{"router", "worker 0"}, {"router", "worker 1"}, {"router", "manager"}, {"manager", "worker 0"}, {"manager", "worker 1"}, {"client", "router"}} {
		out = append(out, fault{silentCut, link[0], link[1]}, fault{toldCut, link[0], link[1]})
	}
	return out
}

// strike does what a fault is, lets it last, heals it and waits until all is
// well. Cuts of a long run last up to 20 s.
func (c *chaos) strike(f fault, r *rand.Rand, long bool) {
	s := c.site
	if c.tallies[f] == nil {
		c.tallies[f] = &tally{}
	}
	out := c.tallies[f]
	lasts := 3 * time.Second
	if f.to != "" && long {
		lasts = time.Duration(100+r.IntN(1+[]int{1000, 5000, 20_000, 20_000}[r.IntN(4)])) * time.Millisecond
	} else if !long {
		lasts = time.Duration(100+r.IntN(1500)) * time.Millisecond
	}
	front := f.role == "router" && f.to == "" || f.role == "client"
	if front {
		c.stand(1)
	}
	began := time.Now()
	heal := c.hurt(f)
	healed := make(chan struct{})
	var watch sync.WaitGroup
	if gone := c.gone(f); gone != nil {
		watch.Go(func() { c.await(f, gone, began, lasts, healed, out) })
	}
	if heal != nil && f.what != kill {
		time.Sleep(lasts)
	}
	if heal != nil {
		heal()
	}
	close(healed)
	watch.Wait()
	s.until(fmt.Sprintf("all is well after %s", f), 2*startLimit, s.well)
	if front {
		c.stand(-1)
	}
	out.times++
	out.lasted = append(out.lasted, lasts)
	out.recovery = append(out.recovery, time.Since(began))
	if long {
		c.t.Logf("%s: lasted %s, all well after %s", f, seconds(lasts), seconds(time.Since(began)))
	}
}

// gone tells when a fault has been noticed, nil where there is nothing to see.
func (c *chaos) gone(f fault) func() bool {
	s := c.site
	group := -1
	switch {
	case f.what == standing && f.role == "supervisor": // serves on
	case f.role == "supervisor", f.role == "leader", f.role == "rank 1":
		group = 0
	case f.role == "worker 1":
		group = 1
	case f.role == "router" && strings.HasPrefix(f.to, "worker"):
		group = int(f.to[len(f.to)-1] - '0')
	case f.role == "manager" && f.to != "":
		worker := int(f.to[len(f.to)-1] - '0')
		return func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			r, err := s.admin.GetAdapter(ctx, &pb.GetAdapterRequest{Name: fixed})
			return err == nil && !slices.ContainsFunc(r.Adapter.Placements, func(p *pb.GroupPlacement) bool { return p.Worker == s.addrs[worker] && p.Loaded })
		}
	}
	if group < 0 {
		return nil
	}
	return func() bool { return !s.connected(group) }
}

// await notes when a fault was noticed. A short cut may pass unnoticed, and so
// may what stands still for a moment; one that lasts must not.
func (c *chaos) await(f fault, gone func() bool, began time.Time, lasts time.Duration, healed <-chan struct{}, out *tally) {
	heals := f.to != "" || f.role == "worker 1" && f.what == standing
	for {
		if gone() {
			took := time.Since(began)
			out.out = append(out.out, took)
			if took > noticed {
				c.t.Errorf("%s: out of service after %v", f, took)
			}
			return
		}
		if heals {
			select {
			case <-healed:
				if out.unnoticed++; lasts > noticed {
					c.t.Errorf("%s: not noticed in %v", f, lasts)
				}
				return
			default:
			}
		}
		if time.Since(began) > callLimit {
			c.t.Errorf("%s: not noticed in %v", f, callLimit)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// hurt does it, and returns what an orchestrator or time would do against it; nil
// where the supervisor does.
func (c *chaos) hurt(f fault) (heal func()) {
	s := c.site
	if f.to != "" {
		return s.lan.cut(f.role, f.to, f.what == silentCut)
	}
	sig := map[string]syscall.Signal{kill: syscall.SIGKILL, standing: syscall.SIGSTOP}[f.what]
	processes := map[string]struct {
		p     *testkit.Process
		again func()
	}{
		"router": {s.front, s.launchFront}, "manager": {s.manager, s.launchManager},
		"supervisor": {s.workers[0], func() { s.launch(0) }}, "worker 1": {s.workers[1], func() { s.launch(1) }},
	}
	if role, ok := processes[f.role]; ok {
		role.p.Signal(sig)
		if f.what == standing {
			return func() { role.p.Signal(syscall.SIGCONT) }
		}
		role.p.Kill() // waits for its end
		return role.again
	}
	rank := 0
	if f.role == "rank 1" {
		rank = 1
	}
	_ = syscall.Kill(pids(s.workers[0])[rank], sig)
	return nil
}

// stand notes that something comes between clients and the router, or goes.
func (c *chaos) stand(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.between += n
	c.since = time.Now()
}

// troubled tells whether something stood between clients and the router while a
// request ran that began at a time.
func (c *chaos) troubled(began time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.between > 0 || c.since.After(began)
}

// listed are the names that the manager has, but the fixed one.
func (c *chaos) listed() (out []string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	r, err := c.site.admin.ListAdapters(ctx, &pb.ListAdaptersRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, a := range r.Adapters {
		if a.Name != fixed {
			out = append(out, a.Name)
		}
	}
	return out
}

// compare holds the manager's picture against the model's.
func (c *chaos) compare(when string) {
	c.t.Helper()
	known := slices.Clone(wild)
	for _, n := range c.names {
		known = append(known, n.name)
		n.mu.Lock()
		c.look(n)
		if a, err := c.get(n.name); err != nil || n.now.there && a.GetState() != pb.AdapterState_ADAPTER_STATE_LOADED {
			c.t.Errorf("%s %s is %v %v", when, n.name, a, err)
		}
		n.mu.Unlock()
	}
	for _, name := range c.listed() {
		if !slices.Contains(known, name) {
			c.t.Errorf("%s there is %s", when, name)
		}
		if a, err := c.get(name); err == nil && a != nil && a.State != pb.AdapterState_ADAPTER_STATE_LOADED && len(a.Versions) > 0 {
			c.t.Errorf("%s %s is %v", when, name, a.State)
		}
	}
}

// table is what came of the faults, as docs/adr/0010 shows it.
func (c *chaos) table() string {
	var b strings.Builder
	b.WriteString("| fault | times | not noticed | out of service, median | worst | lasted, median | all well again after, median | worst |\n|---|---|---|---|---|---|---|---|\n")
	var kinds []fault
	for f := range c.tallies {
		kinds = append(kinds, f)
	}
	slices.SortFunc(kinds, func(a, b fault) int { return strings.Compare(a.role+a.to+a.what, b.role+b.to+b.what) })
	for _, f := range kinds {
		t := c.tallies[f]
		fmt.Fprintf(&b, "| %s | %d | %d | %s | %s | %s | %s | %s |\n", f, t.times, t.unnoticed, middle(t.out), most(t.out), middle(t.lasted), middle(t.recovery), most(t.recovery))
	}
	return b.String()
}

// middle and most are a median and a maximum, "-" of nothing.
func middle(ds []time.Duration) string {
	if len(ds) == 0 {
		return "-"
	}
	return seconds(slices.Sorted(slices.Values(ds))[len(ds)/2])
}

func most(ds []time.Duration) string {
	if len(ds) == 0 {
		return "-"
	}
	return seconds(slices.Max(ds))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
