// Package processes runs a group's ranks as processes of a test's own program:
// whoever shares a GPU, stops or dies needs a process of his own. The transports
// are the real ones.
//
// The program's TestMain calls Main with what ranks can do; a test then calls Run.
package processes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chorale/worker/collective"
	"chorale/worker/collective/assemble"
	"chorale/worker/collective/rendezvous"
)

// variable tells a process that it is a rank.
const variable = "CHORALE_TEST_PROCESS"

// Play is what a rank does; args are those that Run was given, as JSON. What it
// gives goes to the test, as JSON.
type Play func(m collective.Member, args []byte) (any, error)

// part is what a process is told.
type part struct {
	Play       string
	Rank, Size int
	Address    string
	Options    collective.Options
	Args       json.RawMessage
}

// Result is what came of a rank. Err is also there when the process was killed.
type Result struct {
	Out []byte // JSON of what the play gave
	Log string // what it printed to standard error
	Err error
}

// Main runs the tests, or one rank.
func Main(m *testing.M, plays map[string]Play) {
	text := os.Getenv(variable)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := run(text, plays); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(text string, plays map[string]Play) error {
	var p part
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	team, err := p.meet()
	if err != nil {
		return err
	}
	out, err := plays[p.Play](team, p.Args)
	if err != nil {
		team.Abort(err.Error())
		return errors.Join(err, team.Close())
	}
	if err := errors.Join(json.NewEncoder(os.Stdout).Encode(out), team.Barrier()); err != nil {
		return err
	}
	return team.Close()
}

func (p part) meet() (*assemble.Team, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := assemble.Config{Rank: p.Rank, Session: rendezvous.Session{Size: p.Size, Nonce: "test", Digest: "test"}, Options: p.Options}
	if p.Rank > 0 {
		return assemble.Follow(ctx, p.Address, c)
	}
	l, err := rendezvous.Listen(p.Address)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return assemble.Lead(ctx, l, c)
}

// Run starts size ranks that do a play and waits for all.
func Run(t testing.TB, play string, size int, o collective.Options, args any) []Result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ranks") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	out := make([]Result, size)
	var all sync.WaitGroup
	for rank := range out {
		p := part{play, rank, size, "unix:" + filepath.Join(dir, "s"), o, raw}
		all.Go(func() { out[rank] = start(t.Context(), self, p) })
	}
	all.Wait()
	return out
}

func start(ctx context.Context, self string, p part) (r Result) {
	text, err := json.Marshal(p)
	if err != nil {
		return Result{Err: err}
	}
	var log bytes.Buffer
	c := exec.CommandContext(ctx, self)
	c.Env = append(os.Environ(), variable+"="+string(text))
	c.Stderr = &log
	r.Out, r.Err = c.Output()
	r.Log = log.String()
	if r.Err != nil {
		r.Err = fmt.Errorf("rank %d: %w: %s", p.Rank, r.Err, r.Log)
	}
	return r
}
