package sched

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chorale/worker/kv"
)

var update = flag.Bool("update", false, "renew the expected plans in testdata")

// TestScripts runs the scripts of testdata. A script is a list of blocks:
// commands, "----", what came of them. Commands:
//
//	config tokens=16 running=8 adapters=2 places=2 pages=32 starve=4
//	    limits of a step, places for adapters on the device, pages of 16 tokens
//	submit id=1 prompt=40 [adapter=a] [text=x] [noprefix]
//	    a sequence; equal texts begin with equal tokens
//	arrive a    adapter a has reached the device
//	pin a       adapter a stays there, used or not
//	step [n]    plan n steps (1) and compute them
//	finish 1    the sequence ends, however far it is
//
// A step prints its plan, sequence by sequence with the positions computed,
// and what the device was asked for. In a long run "…" stands for steps like
// the one before.
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
			got := runScript(t, string(want))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("plans differ (-want +got):\n%s", d)
			}
		})
	}
}

// script is a running script.
type script struct {
	t     *testing.T
	s     *Scheduler
	dev   *device
	pool  *kv.Pool
	seqs  map[string]*Seq
	names map[*Seq]string
	out   bytes.Buffer
}

// runScript executes a script and gives it back with its results.
func runScript(t *testing.T, text string) string {
	t.Helper()
	sc := &script{t: t, seqs: map[string]*Seq{}, names: map[*Seq]string{}}
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

func (sc *script) do(f []string) {
	sc.t.Helper()
	args := map[string]string{}
	for _, a := range f[1:] {
		k, v, _ := strings.Cut(a, "=")
		args[k] = v
	}
	switch f[0] {
	case "config":
		sc.config(args)
	case "submit":
		sc.submit(args)
	case "arrive":
		sc.dev.arrive(f[1])
	case "pin":
		sc.dev.pinned[f[1]] = true
	case "finish":
		sc.s.Remove(sc.seqs[f[1]])
		delete(sc.seqs, f[1])
	case "step":
		n := 1
		if len(f) > 1 {
			n = sc.number(f[1])
		}
		sc.steps(n)
	default:
		sc.t.Fatalf("unknown command %q", f[0])
	}
	sc.check()
}

func (sc *script) number(v string) int {
	sc.t.Helper()
	n, err := strconv.Atoi(v)
	if err != nil {
		sc.t.Fatal(err)
	}
	return n
}

func (sc *script) config(args map[string]string) {
	n := func(k string, def int) int {
		if v, ok := args[k]; ok {
			return sc.number(v)
		}
		return def
	}
	sc.seqs = map[string]*Seq{}
	sc.pool = kv.NewPool(n("pages", 64))
	sc.dev = newDevice(n("places", 4))
	sc.s = New(Config{
		MaxBatchTokens: n("tokens", 16), MaxRunning: n("running", 8), MaxAdapters: n("adapters", 4), StarveSteps: n("starve", 100),
	}, sc.pool, sc.dev)
}

func (sc *script) submit(args map[string]string) {
	text := args["id"]
	if v, ok := args["text"]; ok {
		text = v
	}
	_, noPrefix := args["noprefix"]
	q := &Seq{Adapter: args["adapter"], Tokens: make([]int32, sc.number(args["prompt"])), NoPrefix: noPrefix}
	for i := range q.Tokens {
		q.Tokens[i] = int32(text[0])<<16 + int32(i)
	}
	sc.seqs[args["id"]], sc.names[q] = q, args["id"]
	sc.s.Add(q)
}

// steps plans and computes n steps. Of many, those that print the same as the
// one before, positions apart, are left out.
func (sc *script) steps(n int) {
	last, omitted := "", false
	for range n {
		p := sc.s.Next()
		printed, shape := sc.describe(p)
		checkPlan(sc.t, sc.s, sc.dev, p)
		for _, e := range p.Entries {
			token := int32(-1)
			if e.Sample {
				token = int32(sc.names[e.Seq][0])<<16 + int32(len(e.Seq.Tokens))
			}
			sc.s.Launch(e, token >= 0)
			sc.s.Commit(e, token)
		}
		if n > 8 && shape == last {
			if !omitted {
				fmt.Fprintln(&sc.out, "…")
			}
			omitted = true
			continue
		}
		last, omitted = shape, false
		sc.out.WriteString(printed)
	}
}

func (sc *script) describe(p Plan) (text, shape string) {
	var parts, kinds []string
	for _, q := range p.Preempted {
		parts = append(parts, "preempt "+sc.names[q])
	}
	for _, e := range p.Entries {
		name := sc.names[e.Seq]
		if a := e.Seq.Adapter; a != "" {
			name += "/" + a
		}
		kind := "decode"
		at := fmt.Sprintf("[%d]", e.Seq.Computed)
		if e.N > 1 || !e.Sample {
			kind, at = "prefill", fmt.Sprintf("[%d:%d]", e.Seq.Computed, e.Seq.Computed+e.N)
		}
		parts = append(parts, kind+" "+name+at)
		kinds = append(kinds, kind+" "+name)
		if kind == "prefill" {
			kinds = append(kinds, strconv.Itoa(e.N))
		}
	}
	kinds = append(kinds, parts[:len(p.Preempted)]...)
	if len(parts) == 0 {
		parts = append(parts, "nothing")
	}
	events := sc.dev.tell()
	line := strings.Join(parts, "  ")
	if len(events) > 0 {
		line += "  # " + strings.Join(events, ", ")
	}
	return line + "\n", strings.Join(append(kinds, events...), " ")
}

func (sc *script) check() {
	sc.t.Helper()
	if sc.s == nil {
		return
	}
	var all []*Seq
	for _, q := range sc.seqs {
		all = append(all, q)
	}
	checkState(sc.t, sc.s, sc.dev, sc.pool, all)
}
