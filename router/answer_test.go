package router

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// piece is what a step brings: tokens, and how it ends.
type piece struct {
	ids    []int32
	finish FinishReason
	stop   int32
}

func text(s string) piece { return piece{ids: bytesOf(s), stop: -1} }

// perToken cuts a text into steps of one byte.
func perToken(s string, last ...piece) []piece {
	var out []piece
	for _, id := range bytesOf(s) {
		out = append(out, piece{ids: []int32{id}, stop: -1})
	}
	return append(out, last...)
}

var ended = piece{ids: []int32{eos}, finish: FinishStop, stop: eos}

// result is an answer as its client reads it.
type result struct {
	Text    string
	Pieces  []string // texts as they came, when each is read at once
	Reason  FinishReason
	TokenID int32
	Matched string
	Tokens  int
}

// TestAnswers: how tokens become text, and where it ends.
func TestAnswers(t *testing.T) {
	stop := func(words ...string) func(*Request) {
		return func(q *Request) { q.Sampling.Stop = words }
	}
	regex := func(e string) func(*Request) {
		return func(q *Request) { q.Sampling.StopRegex = []string{e} }
	}
	keep := func(q *Request) { q.Sampling.NoStopTrim = true }
	special := func(q *Request) { q.Sampling.SkipSpecial, q.Sampling.SpacesBetween = false, false }
	for _, tt := range []struct {
		name   string
		change []func(*Request)
		pieces []piece
		want   result
	}{
		{
			"words", nil,
			[]piece{text("hello "), text("world"), ended},
			result{"hello world", []string{"hello ", "world", ""}, FinishStop, eos, "", 12},
		},
		{
			"a character across steps", nil,
			[]piece{text("a\xe2"), text("\x82"), text("\xac!"), ended},
			result{"a€!", []string{"a", "", "€!", ""}, FinishStop, eos, "", 6},
		},
		{
			"half a character at the end", nil,
			[]piece{text("a\xe2\x82"), {nil, FinishLength, -1}},
			result{"a\uFFFD", []string{"a", "\uFFFD"}, FinishLength, -1, "", 3},
		},
		{
			"several tokens in a step", nil,
			[]piece{{[]int32{word, 'x', eos}, FinishStop, eos}},
			result{"héllox", []string{"héllox"}, FinishStop, eos, "", 3},
		},
		{
			"length", nil,
			[]piece{text("ab"), {bytesOf("c"), FinishLength, -1}},
			result{"abc", []string{"ab", "c"}, FinishLength, -1, "", 3},
		},
		{
			"nothing at all", nil,
			[]piece{{nil, FinishLength, -1}},
			result{"", []string{""}, FinishLength, -1, "", 0},
		},
		{
			"the end token kept",
			[]func(*Request){keep, special},
			[]piece{text("ab"), ended},
			result{"ab<eos>", []string{"ab", "<eos>"}, FinishStop, eos, "", 3},
		},
		{
			"the end token never part of the text",
			[]func(*Request){special},
			[]piece{text("ab"), ended},
			result{"ab", []string{"ab", ""}, FinishStop, eos, "", 3},
		},
		{
			"an end token in the middle, which the worker ignored",
			[]func(*Request){special},
			[]piece{{[]int32{'a', eos, 'b'}, FinishLength, -1}},
			result{"a<eos>b", []string{"a<eos>b"}, FinishLength, -1, "", 3},
		},
		{
			"stop text across steps",
			[]func(*Request){stop("END")},
			perToken("xyENDz"),
			result{"xy", []string{"x", "y", "", "", ""}, FinishStop, -1, "END", 5},
		},
		{
			"stop text in the middle of a step",
			[]func(*Request){stop("END")},
			[]piece{text("xyENDzzz")},
			result{"xy", []string{"xy"}, FinishStop, -1, "END", 5},
		},
		{
			"stop text in the last step",
			[]func(*Request){stop("END")},
			[]piece{text("xyE"), {bytesOf("NDzz"), FinishLength, -1}},
			result{"xy", []string{"xy", ""}, FinishStop, -1, "END", 5},
		},
		{
			"almost a stop",
			[]func(*Request){stop("END")},
			[]piece{text("xEN"), text("x"), text("EN"), ended},
			result{"xENxEN", []string{"x", "ENx", "", "EN"}, FinishStop, eos, "", 7},
		},
		{
			"stop of several bytes a character",
			[]func(*Request){stop("é€")},
			perToken("aé€b"),
			result{"a", []string{"a", "", "", "", "", ""}, FinishStop, -1, "é€", 6},
		},
		{
			"stop kept",
			[]func(*Request){stop("END"), keep},
			perToken("xENDz"),
			result{"xEND", nil, FinishStop, -1, "END", 4},
		},
		{
			"the first of several stops",
			[]func(*Request){stop("yE", "xyE")},
			perToken("axyEz"),
			result{"a", nil, FinishStop, -1, "xyE", 4},
		},
		{
			"stop regex",
			[]func(*Request){regex(`[0-9]{2}`)},
			perToken("a1b23c"),
			result{"a1b", nil, FinishStop, -1, "23", 5},
		},
		{
			"stop decided at the end",
			[]func(*Request){stop("ab!", "b")},
			[]piece{text("xab"), {nil, FinishLength, -1}},
			result{"xa", nil, FinishStop, -1, "b", 3},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup("g", GroupInfo{})
				h := start(t, Config{}, g)
				synctest.Wait()
				got := play(t, h, g, request("p", tt.change...), tt.pieces)
				if tt.want.Pieces == nil {
					got.Pieces = nil
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("-want +got:\n%s", d)
				}
				if n := len(g.sequences()); n != 0 {
					t.Errorf("the worker still computes %d sequences", n)
				}
				h.end()
			})
		})
	}
}

// play submits a request, lets the group give the pieces, and reads each event
// as it comes.
func play(t *testing.T, h *harness, g *group, q *Request, pieces []piece) result {
	t.Helper()
	hd := h.submit(q)
	synctest.Wait()
	var out result
	id := g.sequences()[0].ID
	for _, p := range pieces {
		g.say(SequenceOutput{ID: id, IDs: p.ids, Finish: p.finish, StopToken: p.stop})
		synctest.Wait()
		for hd.EventSource.(*running).pendingEvents() {
			ev, err := hd.Next(context.Background())
			if errors.Is(err, io.EOF) {
				break
			}
			if !utf8.ValidString(ev.Text) {
				t.Errorf("%q is not UTF-8", ev.Text)
			}
			out.Text += ev.Text
			out.Pieces = append(out.Pieces, ev.Text)
			out.Tokens = ev.Usage.CompletionTokens
			if ev.Usage.PromptTokens != len(hd.PromptIDs) {
				t.Errorf("%d prompt tokens, want %d", ev.Usage.PromptTokens, len(hd.PromptIDs))
			}
			if f := ev.Finish; f != nil {
				out.Reason, out.TokenID, out.Matched = f.Reason, f.TokenID, f.Matched
			}
		}
	}
	if _, err := hd.Next(context.Background()); !errors.Is(err, io.EOF) {
		t.Errorf("after the last event: %v, want EOF", err)
	}
	return out
}

// TestStopNeverLeaks: however the text is cut, no part of a stop is emitted.
func TestStopNeverLeaks(t *testing.T) {
	const full = "some text\n\nUser: more"
	for cut := 1; cut < len(full); cut++ {
		synctest.Test(t, func(t *testing.T) {
			g := newGroup("g", GroupInfo{})
			h := start(t, Config{}, g)
			synctest.Wait()
			got := play(t, h, g, request("p", func(q *Request) { q.Sampling.Stop = []string{"\n\nUser:", "text\nX"} }),
				[]piece{text(full[:cut]), text(full[cut:])})
			if got.Text != "some text" || got.Matched != "\n\nUser:" {
				t.Errorf("cut at %d: %q, matched %q", cut, got.Text, got.Matched)
			}
			h.end()
		})
	}
}

// TestLogprobsEndWithTheStop: log probabilities of tokens behind a stop are
// dropped with the tokens.
func TestLogprobsEndWithTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{}, g)
		synctest.Wait()
		hd := h.submit(request("p", func(q *Request) { q.Sampling.Stop, q.Logprobs.Enabled = []string{"b"}, true }))
		synctest.Wait()
		lps := make([]PositionLogprobs, 4)
		g.say(SequenceOutput{ID: g.sequences()[0].ID, IDs: bytesOf("abcd"), Logprobs: lps, StopToken: -1})
		ev, err := hd.Next(t.Context())
		if err != nil || len(ev.IDs) != 2 || len(ev.Logprobs) != 2 {
			t.Errorf("%d tokens with %d log probabilities, %v", len(ev.IDs), len(ev.Logprobs), err)
		}
		h.end()
	})
}

// TestSlowReader: events that nobody reads are merged, one per choice.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{}, g)
		synctest.Wait()
		hd := h.submit(request("p", func(q *Request) { q.Sampling.N = 2 }))
		synctest.Wait()
		seqs := g.sequences()
		for range 1000 {
			g.say(SequenceOutput{ID: seqs[0].ID, IDs: bytesOf("a"), StopToken: -1}, SequenceOutput{ID: seqs[1].ID, IDs: bytesOf("b"), StopToken: -1, CachedTokens: 1})
		}
		g.say(SequenceOutput{ID: seqs[0].ID, IDs: []int32{eos}, Finish: FinishStop, StopToken: eos})
		g.say(SequenceOutput{ID: seqs[1].ID, Finish: FinishLength, StopToken: -1})
		synctest.Wait()
		if n := len(hd.EventSource.(*running).events); n != 2 {
			t.Errorf("%d events wait, want 2", n)
		}
		for i, want := range []string{strings.Repeat("a", 1000), strings.Repeat("b", 1000)} {
			ev, err := hd.Next(t.Context())
			if err != nil || ev.Choice != i || ev.Text != want || ev.Finish == nil || ev.Usage.CompletionTokens != len(ev.IDs) || ev.Usage.CachedTokens != i {
				t.Errorf("choice %d: %d bytes, %+v, %v", ev.Choice, len(ev.Text), ev.Usage, err)
			}
		}
		if _, err := hd.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want EOF", err)
		}
		h.end()
	})
}

// TestContinuation: a sequence that goes on elsewhere has the same seed, counts
// its tokens, and its text is that of an undisturbed answer, also where the
// loss cut a character or a stop in two.
func TestContinuation(t *testing.T) {
	const answer = "a€ba STOP!"
	for cut := range len(answer) {
		synctest.Test(t, func(t *testing.T) {
			g := newGroup("g", GroupInfo{})
			h := start(t, Config{}, g)
			synctest.Wait()
			seed := uint64(77)
			hd := h.submit(request("p", func(q *Request) { q.Sampling.Seed, q.Sampling.Stop = &seed, []string{"STOP!"} }))
			synctest.Wait()
			first := g.sequences()[0]
			if cut > 0 {
				g.say(SequenceOutput{ID: first.ID, IDs: bytesOf(answer[:cut]), StopToken: -1, CachedTokens: 1})
			}
			g.lose(nil)
			synctest.Wait()
			waitFor(t, func() bool { return len(g.sequences()) == 1 })
			again := g.sequences()[0]
			if again.ID == first.ID || again.Seed != seed || first.Seed != seed || again.Generated != cut || again.MaxTokens != first.MaxTokens || string(byteText(again.IDs)) != "p"+answer[:cut] {
				t.Errorf("cut at %d: continued with %+v", cut, again)
			}
			// What the lost connection would have said late is of no interest.
			g.say(SequenceOutput{ID: first.ID, IDs: bytesOf("zzz"), StopToken: -1})
			g.say(SequenceOutput{ID: again.ID, IDs: bytesOf(answer[cut:]), StopToken: -1})
			synctest.Wait()
			ev, err := hd.Next(t.Context())
			if err != nil || ev.Text != "a€ba " || string(byteText(ev.IDs)) != answer || ev.Finish == nil || ev.Finish.Matched != "STOP!" || ev.Usage.CompletionTokens != len(answer) {
				t.Errorf("cut at %d: %q of %q, %+v, %v", cut, ev.Text, byteText(ev.IDs), ev.Finish, err)
			}
			h.end()
		})
	}
}

func byteText(ids []int32) []byte {
	b := make([]byte, len(ids))
	for i, id := range ids {
		b[i] = byte(id)
	}
	return b
}

// waitFor lets the bubble's time pass until ok.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 100 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
	}
	t.Fatal("waited in vain")
}

// TestSeeds: n answers have n seeds, the first the request's; without one they
// are made up.
func TestSeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{MaxRunning: 100})
		h := start(t, Config{}, g)
		synctest.Wait()
		seed := uint64(5)
		with := func(q *Request) { q.Sampling.N, q.Sampling.Seed = 8, &seed }
		a, b := h.submit(request("a", with)), h.submit(request("a", with))
		c := h.submit(request("c", func(q *Request) { q.Sampling.N = 8 }))
		synctest.Wait()
		seqs := g.sequences()
		seen := map[uint64]bool{}
		for i := range 8 {
			if seqs[i].Seed != seqs[8+i].Seed {
				t.Errorf("answer %d of two equal requests has seeds %d and %d", i, seqs[i].Seed, seqs[8+i].Seed)
			}
			seen[seqs[i].Seed], seen[seqs[16+i].Seed] = true, true
		}
		if len(seen) != 16 || seqs[0].Seed != seed {
			t.Errorf("%d distinct seeds of 16, the first %d", len(seen), seqs[0].Seed)
		}
		for _, hd := range []*Handle{a, b, c} {
			hd.Close()
		}
		synctest.Wait()
		h.empty()
		h.end()
	})
}

// TestRace lets everything happen at once: answers, aborts, losses, closes and
// refusals. Nothing may be left. (The bubble only makes waiting cheap.)
func TestRace(t *testing.T) { synctest.Test(t, race) }

func race(t *testing.T) {
	groups := []*group{newGroup("g", GroupInfo{MaxRunning: 4}), newGroup("h", GroupInfo{MaxRunning: 4})}
	h := start(t, Config{MaxQueued: 10_000}, groups...)
	h.SetCatalogue(&Catalogue{Adapters: map[string]*AdapterEntry{"a": {Name: "a", Digest: "a", Usable: true}}})
	for !h.Ready() {
		pause()
	}
	stop := make(chan struct{})
	var workers, clients sync.WaitGroup
	for i, g := range groups {
		workers.Go(func() { chaos(g, i, stop) })
	}
	for i := range 8 {
		clients.Go(func() { client(t, h, i) })
	}
	clients.Wait()
	h.Abort("", true)
	if err := h.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	close(stop)
	workers.Wait()
	h.end()
}

// chaos answers, refuses and breaks at random, but mostly answers.
func chaos(g *group, salt int, stop chan struct{}) {
	for i := salt; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		var outs []SequenceOutput
		for _, s := range g.sequences() {
			o := SequenceOutput{ID: s.ID, IDs: bytesOf("x"), StopToken: -1}
			switch (i + int(s.ID)) % 7 {
			case 0, 1:
				o.IDs, o.Finish, o.StopToken = []int32{eos}, FinishStop, eos
			case 2:
				if i%5 == 0 {
					o.IDs, o.Finish, o.ErrorReason = nil, FinishAbort, ReasonAdapterNotLoaded
				}
			}
			outs = append(outs, o)
		}
		g.message(StepOutputs{Outputs: outs, Status: &GroupStatus{Step: uint64(i), Resident: []string{"a"}}})
		if i%50 == 49 {
			g.lose(nil)
		}
		pause()
	}
}

func client(t *testing.T, h *harness, i int) {
	for j := range 40 {
		q := request("p", func(q *Request) {
			q.Sampling.N, q.ID, q.Tenant = 1+j%3, "id"+string(rune('0'+i)), string(rune('a'+i%3))
			if j%2 == 0 {
				q.Adapter = "a"
			}
			if j%4 == 0 {
				q.Sampling.Stop = []string{"xx"}
			}
		})
		hs, err := h.Submit(t.Context(), []*Request{q, q})
		if err != nil {
			if !errors.Is(err, ErrUnavailable) {
				t.Error(err)
			}
			pause()
			continue
		}
		if j%5 == 0 {
			h.Abort(q.ID, false)
		}
		for k, hd := range hs {
			for n := 0; ; n++ {
				if j%7 == k && n == j%3 {
					hd.Close()
				}
				if _, err := hd.Next(t.Context()); err != nil {
					break
				}
			}
			hd.Close()
		}
	}
}
