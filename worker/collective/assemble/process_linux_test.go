package assemble_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chorale/worker/collective"
	"chorale/worker/collective/assemble"
	"chorale/worker/collective/conformance"
	"chorale/worker/collective/rendezvous"
)

const roleVariable = "CHORALE_TEST_RANK"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
		return
	}
	goleak.VerifyTestMain(m)
}

// part is what a rank process is to do; the leader's address comes to followers
// with it.
type part struct {
	Rank, Size   int
	Address      string
	Steps        int // 0: until the group is over
	Mode         string
	Stall, Limit time.Duration
	Spin         time.Duration
}

// line is what a rank process says.
type line struct {
	Address string        // of the leader, when it listens
	Running bool          // the first step is done
	Bits    uint64        // of all results, at the end
	Failed  string        // why the group ended
	Blamed  int           // whose fault
	Took    time.Duration // of something
	Times   []time.Duration
}

func say(l line) {
	b, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(b, '\n'))
}

// play is a rank process.
func play(role string) {
	var p part
	if err := json.Unmarshal([]byte(role), &p); err != nil {
		panic(err)
	}
	team, err := p.join()
	if err != nil {
		say(line{Failed: err.Error()})
		return
	}
	switch p.Mode {
	case "steps":
		err = p.steps(team)
	case "reduce":
		err = p.reduce(team)
	case "plans":
		err = p.plans(team)
	}
	var a *collective.AbortError
	var late *collective.TimeoutError
	switch {
	case errors.As(err, &a):
		say(line{Failed: a.Reason, Blamed: a.Rank})
	case errors.As(err, &late):
		say(line{Failed: late.Error(), Blamed: late.Rank})
	case err != nil:
		say(line{Failed: err.Error(), Blamed: -1})
	}
	if err := team.Close(); err != nil {
		say(line{Failed: err.Error()})
	}
}

func (p part) join() (*assemble.Team, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := assemble.Config{
		Rank: p.Rank, Session: rendezvous.Session{Size: p.Size, Nonce: "test", Digest: "d"},
		Options: collective.Options{Stall: p.Stall, Timeout: p.Limit, PlanSpin: p.Spin},
	}
	if p.Rank > 0 {
		return assemble.Follow(ctx, p.Address, c)
	}
	l, err := rendezvous.Listen(p.Address)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	say(line{Address: l.Address()})
	return assemble.Lead(ctx, l, c)
}

// steps runs step after step: a plan, then what it says.
func (p part) steps(m collective.Member) error {
	sum := fnv.New64a()
	var plan []byte
	var err error
	for i := 0; p.Steps == 0 || i < p.Steps; i++ {
		if p.Rank == 0 {
			plan, err = json.Marshal([]uint64{uint64(i), uint64(1000 + i*7919%70000)})
			if err == nil {
				err = m.Publish(plan)
			}
		} else {
			plan, err = m.Next(plan)
		}
		if err != nil {
			return err
		}
		var s [2]uint64
		if err := json.Unmarshal(plan, &s); err != nil || s[0] != uint64(i) {
			return fmt.Errorf("plan %q instead of step %d: %w", plan, i, err)
		}
		x := conformance.Floats(s[0], p.Rank, int(s[1]))
		if err := m.AllReduce(x); err != nil {
			return err
		}
		sum.Write(collective.Bytes(x))
		if i == 0 {
			say(line{Running: true})
		}
	}
	say(line{Bits: sum.Sum64()})
	return m.Barrier()
}

// rank is a process as the test sees it.
type rank struct {
	cmd   *exec.Cmd
	lines chan line
}

// launch starts a group. Its processes are killed when the test ends.
func launch(t testing.TB, address string, p part) []*rank {
	t.Helper()
	ranks := make([]*rank, p.Size)
	p.Address = address
	for p.Rank = 0; p.Rank < p.Size; p.Rank++ {
		ranks[p.Rank] = start(t, p)
		if p.Rank == 0 {
			p.Address = ranks[0].next(t).Address
		}
	}
	return ranks
}

func start(t testing.TB, p part) *rank {
	t.Helper()
	role, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+string(role))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &rank{cmd, make(chan line, 8)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(r.lines)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 1<<24)
		for s.Scan() {
			var l line
			if err := json.Unmarshal(s.Bytes(), &l); err == nil {
				r.lines <- l
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		go func() {
			for range r.lines {
			}
		}()
		<-read
		_ = cmd.Wait()
	})
	return r
}

func (r *rank) next(t testing.TB) line {
	t.Helper()
	select {
	case l, ok := <-r.lines:
		if !ok {
			t.Fatal("the process ended without a word")
		}
		return l
	case <-time.After(2 * time.Minute):
		t.Fatal("the process says nothing")
	}
	return line{}
}
