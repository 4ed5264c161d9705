package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chorale/internal/testkit"
)

const (
	// ChaosEnv is how long TestChaos goes on, such as 30m.
	ChaosEnv = "CHORALE_CHAOS"
	// SeedEnv makes it draw the same faults again.
	SeedEnv = "CHORALE_CHAOS_SEED"
)

// TestChaos: traffic over all faces while administrators load, replace, unload,
// pin and roll back adapters and give versions shares, and while roles are killed
// and stopped and the links between them cut. Every answer must be, token by
// token, what the adapter that it names says alone, or end with a typed error; at
// the end nothing is left over, and the manager's picture of each adapter is the
// one that was acknowledged, before and after its restart.
func TestChaos(t *testing.T) {
	length := 10 * time.Second
	if v := os.Getenv(ChaosEnv); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	inside := os.Getenv(InsideEnv) != ""
	if unshare, ok := networks(); ok && !inside {
		again(t, unshare, length)
		return
	}
	c := newChaos(t, inside)
	defer func() { t.Logf("seed %d\n%s\n%s", c.seed, &c.ledger, c.table()) }()
	c.run(length)
	if t.Failed() {
		return
	}
	c.end()
}

// again runs the test once more, in a network of its own, and judges that.
func again(t *testing.T, unshare []string, length time.Duration) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	limit := length + 10*time.Minute
	args := []string{self, "-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=" + limit.String()}
	cmd := exec.Command(unshare[0], append(unshare[1:], args...)...)
	cmd.Env = append(os.Environ(), InsideEnv+"=1", testkit.BinaryEnv+"="+testkit.Binary(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if testing.Verbose() { // long ones are watched
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			t.Error(err)
		}
		return
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// chaos is a site under everything at once.
type chaos struct {
	t    testing.TB
	ctx  context.Context // of load, changes and faults
	site *chaosSite
	seed uint64

	names          []*named
	numbers        sync.Map // name@version: digest
	asked, changed atomic.Int64
	ledger         ledger
	tallies        map[fault]*tally

	mu sync.Mutex
	// between counts what stands between clients and the router now, and since
	// is when that last ended.
	between int
	since   time.Time
}

func newChaos(t *testing.T, network bool) *chaos {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv(SeedEnv); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	c := &chaos{t: t, seed: seed, tallies: map[fault]*tally{}}
	c.site = &chaosSite{site: &site{t: t, split: true}}
	if network {
		c.site.lan = newLAN(t, "router", "manager", "worker 0", "worker 1")
		web = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	}
	startChaos(c.site)
	for i := range 5 {
		c.names = append(c.names, &named{name: fmt.Sprintf("team/%d", i)})
	}
	return c
}

// run lets all of it go on for a while.
func (c *chaos) run(length time.Duration) {
	var stop context.CancelFunc
	c.ctx, stop = context.WithTimeout(context.Background(), length)
	defer stop()
	var all sync.WaitGroup
	each := func(n int, pause time.Duration, do func(*rand.Rand)) {
		for range n {
			r := rand.New(rand.NewPCG(c.seed, uint64(c.asked.Add(1))))
			all.Go(func() {
				for c.ctx.Err() == nil && !c.t.Failed() {
					do(r)
					time.Sleep(time.Duration(r.Int64N(int64(pause))))
				}
			})
		}
	}
	each(8, 60*time.Millisecond, c.ask)
	each(3, 150*time.Millisecond, c.administer)
	r := rand.New(rand.NewPCG(c.seed, 0))
	faults := c.faults()
	for i := 0; c.ctx.Err() == nil && !c.t.Failed(); i++ {
		if i%len(faults) == 0 {
			r.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		}
		time.Sleep(time.Duration(r.IntN(700)) * time.Millisecond)
		c.strike(faults[i%len(faults)], r, length >= 5*time.Minute)
	}
	stop()
	all.Wait()
}

// end checks that nothing is left over, and that the manager knows what was
// acknowledged.
func (c *chaos) end() {
	s := c.site
	s.until("all is well", startLimit, s.well)
	s.idle(startLimit)
	c.compare("at the end")
	s.manager.Kill()
	s.launchManager()
	s.until("all is well with the manager back", startLimit, s.well)
	c.compare("after a restart of the manager")
	for _, n := range slices.Concat(c.listed(), []string{fixed}) {
		s.unload(n)
	}
	s.until("no adapter is left on a worker", startLimit, func() bool {
		c.stir()
		return s.series("chorale_worker_resident_adapters", "worker") == 0 && s.series("chorale_adapter_bytes", "worker") == 0
	})
	s.until("no page is in use", startLimit, func() bool {
		code, _ := s.post("/flush_cache", object{})
		return code == 200 && s.series("chorale_kv_pages", `state="used"`) == 0
	})
	for _, m := range []string{"chorale_worker_running", "chorale_worker_waiting"} {
		if n := s.series(m, "worker"); n != 0 {
			c.t.Errorf("%s is %v", m, n)
		}
	}
	s.site.blobs(0, 0)
	for _, must := range []string{"right answers over grpc", "right answers over sglang", "right answers over openai", "changes: load"} {
		if c.ledger.get(must) == 0 {
			c.t.Errorf("%s: none", must)
		}
	}
}

// stir lets each worker take a step, with which it tells what it holds.
func (c *chaos) stir() {
	together(8, func(int) error {
		q := question{names: []string{""}, prompts: []int{0}, n: 1, tokens: 2}
		_, err := c.site.infer.Generate(context.Background(), q.native())
		return err
	})
}
