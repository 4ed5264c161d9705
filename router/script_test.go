package router

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "renew the expected results in testdata")

// TestScripts runs the scripts of testdata. A script is a list of blocks:
// commands, "----", what came of them. Commands:
//
//	group g running=2 adapters=1 resident=2    a worker group
//	router [queue=100]                         starts with the groups so far
//	adapter a [groups=g,h] [state=draining]    puts a into the catalogue
//	submit hello [adapter=a] [tenant=t] [n=2] [stop=x] [id=i] [max=9]
//	    a request with a prompt of one word, which also names it
//	out g hello text        the group's next tokens for a prompt, one per byte
//	stop g hello [text]     the same, with the end token behind them
//	length g hello [text]   the same, and the length is reached
//	refuse g hello REASON   the group refuses the sequence
//	resident g a b          what the group tells of its device memory
//	lose g, back g          the connection breaks and cannot be made; can again
//	restart g               it breaks and can be made at once
//	abort i, abort *        by id, all
//	close hello             the client goes away
//	wait 400ms              time passes
//
// The results are what groups are told and what clients read.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = runScript(t, string(want)) })
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("results differ (-want +got):\n%s", d)
			}
		})
	}
}

type script struct {
	t        *testing.T
	h        *harness
	groups   []*group
	handles  map[string]*Handle
	order    []string
	adapters map[string]*AdapterEntry
	out      bytes.Buffer
}

func runScript(t *testing.T, text string) string {
	t.Helper()
	sc := &script{t: t}
	defer func() { sc.finish() }()
	var doc strings.Builder
	expected := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case expected && line == "":
			expected = false
			doc.WriteString("\n")
		case expected: // the old result
		case line == "----":
			expected = true
			doc.WriteString(line + "\n")
			doc.Write(sc.out.Bytes())
			sc.out.Reset()
		default:
			doc.WriteString(line + "\n")
			if line != "" && !strings.HasPrefix(line, "#") {
				sc.do(strings.Fields(line))
			}
		}
	}
	return doc.String()
}

// finish ends a router; its clients see how their answers fail.
func (sc *script) finish() {
	if sc.h == nil {
		return
	}
	for _, h := range sc.handles {
		h.Close()
	}
	synctest.Wait()
	if n := sc.h.active.Load(); n != 0 {
		sc.t.Errorf("%d answers are active though all clients are gone", n)
	}
	sc.h.end()
	sc.h = nil
}

func (sc *script) do(f []string) {
	sc.t.Helper()
	args := map[string]string{}
	for _, a := range f[1:] {
		if k, v, ok := strings.Cut(a, "="); ok {
			args[k] = v
		}
	}
	n := func(k string, def int) int {
		if v, err := strconv.Atoi(args[k]); err == nil {
			return v
		}
		return def
	}
	switch f[0] {
	case "group":
		if sc.h != nil { // a new script begins
			sc.finish()
			sc.groups = nil
		}
		sc.groups = append(sc.groups, newGroup(f[1], GroupInfo{
			MaxRunning: n("running", 8), MaxLoRAsPerBatch: n("adapters", 4), MaxResidentLoRAs: n("resident", 4), ModelDigest: args["model"],
		}))
		return
	case "router":
		sc.handles, sc.adapters, sc.order = map[string]*Handle{}, map[string]*AdapterEntry{}, nil
		sc.h = start(sc.t, Config{MaxQueued: n("queue", 100)}, sc.groups...)
	case "adapter":
		e := &AdapterEntry{Name: f[1], Digest: f[1], Usable: args["state"] == ""}
		if g, ok := args["groups"]; ok {
			e.Groups = strings.Split(g, ",")
		}
		sc.adapters[f[1]] = e
		sc.h.SetCatalogue(&Catalogue{Revision: 1, Adapters: maps.Clone(sc.adapters)})
	case "submit":
		sc.submit(f[1], args, n)
	case "close":
		sc.handles[f[1]].Close()
	case "abort":
		fmt.Fprintf(&sc.out, "aborted %d\n", sc.h.Abort(f[1], f[1] == "*"))
	case "wait":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			sc.t.Fatal(err)
		}
		time.Sleep(d)
	default:
		sc.worker(f)
	}
	synctest.Wait()
	sc.report()
}

func (sc *script) submit(prompt string, args map[string]string, n func(string, int) int) {
	q := request(prompt, func(q *Request) {
		q.Adapter, q.Tenant, q.ID = args["adapter"], args["tenant"], args["id"]
		q.Sampling.N, q.Sampling.MaxTokens = n("n", 1), n("max", 128)
		if s, ok := args["stop"]; ok {
			q.Sampling.Stop = []string{s}
		}
	})
	hs, err := sc.h.Submit(context.Background(), []*Request{q})
	if err != nil {
		fmt.Fprintf(&sc.out, "%s: %v\n", prompt, err)
		return
	}
	sc.handles[prompt] = hs[0]
	sc.order = append(sc.order, prompt)
}

// worker makes a group say something.
func (sc *script) worker(f []string) {
	sc.t.Helper()
	i := slices.IndexFunc(sc.groups, func(g *group) bool { return g.addr == f[1] })
	if i < 0 {
		sc.t.Fatalf("unknown command %q or group", strings.Join(f, " "))
	}
	g := sc.groups[i]
	switch f[0] {
	case "lose":
		g.lose(errLost)
		return
	case "restart":
		g.mu.Lock()
		g.info.Incarnation += "again"
		g.mu.Unlock()
		g.lose(nil)
		return
	case "back":
		g.back()
		return
	case "resident":
		g.message(StepOutputs{Status: &GroupStatus{Resident: f[2:]}})
		return
	}
	seqs := g.sequences()
	j := slices.IndexFunc(seqs, func(s Sequence) bool { return decodeASCII(s.IDs[:len(s.IDs)-s.Generated]) == f[2] })
	if j < 0 {
		sc.t.Fatalf("%s has no sequence %q", g.addr, f[2])
	}
	o := SequenceOutput{ID: seqs[j].ID, StopToken: -1}
	if len(f) > 3 {
		o.IDs = bytesOf(f[3])
	}
	switch f[0] {
	case "out":
	case "stop":
		o.IDs, o.Finish, o.StopToken = append(o.IDs, eos), FinishStop, eos
	case "length":
		o.Finish = FinishLength
	case "refuse":
		o.IDs, o.Finish, o.ErrorReason, o.Error = nil, FinishAbort, f[3], "no"
	default:
		sc.t.Fatalf("unknown command %q", f[0])
	}
	g.say(o)
}

// report prints what groups were told and what clients can read without waiting.
func (sc *script) report() {
	for _, g := range sc.groups {
		for _, line := range g.tell() {
			fmt.Fprintln(&sc.out, line)
		}
	}
	for _, name := range sc.order {
		sc.read(name)
	}
}

func (sc *script) read(name string) {
	h := sc.handles[name]
	if h == nil {
		return
	}
	for h.EventSource.(*running).pendingEvents() {
		ev, err := h.Next(context.Background())
		if errors.Is(err, io.EOF) {
			delete(sc.handles, name)
			return
		}
		if ev.Choice > 0 {
			name = fmt.Sprintf("%s[%d]", name, ev.Choice)
		}
		fmt.Fprintf(&sc.out, "%s: %q", name, ev.Text)
		if fin := ev.Finish; fin != nil {
			fmt.Fprintf(&sc.out, " %s", map[FinishReason]string{FinishStop: "stop", FinishLength: "length", FinishAbort: "abort"}[fin.Reason])
			if fin.Matched != "" {
				fmt.Fprintf(&sc.out, " %q", fin.Matched)
			}
			if fin.Err != nil {
				fmt.Fprintf(&sc.out, ": %v", fin.Err)
			}
			fmt.Fprintf(&sc.out, " (%d tokens)", ev.Usage.CompletionTokens)
		}
		fmt.Fprintln(&sc.out)
	}
}

// pendingEvents tells whether Next would return at once.
func (r *running) pendingEvents() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events) > 0 || r.open == 0 || r.closed
}
