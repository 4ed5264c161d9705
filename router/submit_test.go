package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pause lets the others go on.
func pause() { time.Sleep(200 * time.Microsecond) }

// TestFields: what no request may have is refused with the field's path.
func TestFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{ContextLength: 20})
		h := start(t, Config{}, g)
		synctest.Wait()
		for _, tt := range []struct {
			field  string
			change func(*Request)
		}{
			{"max_tokens", func(q *Request) { q.Sampling.MaxTokens = -1 }},
			{"min_tokens", func(q *Request) { q.Sampling.MinTokens = -1 }},
			{"min_tokens", func(q *Request) { q.Sampling.MinTokens = 129 }},
			{"temperature", func(q *Request) { q.Sampling.Temperature = -0.1 }},
			{"temperature", func(q *Request) { q.Sampling.Temperature = math.NaN() }},
			{"temperature", func(q *Request) { q.Sampling.Temperature = math.Inf(1) }},
			{"top_p", func(q *Request) { q.Sampling.TopP = 0 }},
			{"top_p", func(q *Request) { q.Sampling.TopP = 1.1 }},
			{"top_p", func(q *Request) { q.Sampling.TopP = math.NaN() }},
			{"top_k", func(q *Request) { q.Sampling.TopK = -2 }},
			{"min_p", func(q *Request) { q.Sampling.MinP = 2 }},
			{"frequency_penalty", func(q *Request) { q.Sampling.FrequencyPenalty = 3 }},
			{"frequency_penalty", func(q *Request) { q.Sampling.FrequencyPenalty = math.NaN() }},
			{"presence_penalty", func(q *Request) { q.Sampling.PresencePenalty = -3 }},
			{"repetition_penalty", func(q *Request) { q.Sampling.RepetitionPenalty = 0 }},
			{"n", func(q *Request) { q.Sampling.N = 0 }},
			{"n", func(q *Request) { q.Sampling.N = 129 }},
			{"top_logprobs", func(q *Request) { q.Logprobs.Top = -1 }},
			{"logprob_start_len", func(q *Request) { q.Logprobs.PromptStart = -2 }},
			{"logit_bias", func(q *Request) { q.Sampling.LogitBias = map[int32]float64{-1: 1} }},
			{"logit_bias", func(q *Request) { q.Sampling.LogitBias = map[int32]float64{999: 1} }},
			{"logit_bias", func(q *Request) { q.Sampling.LogitBias = map[int32]float64{1: math.NaN()} }},
			{"logit_bias", func(q *Request) { q.Sampling.LogitBias = map[int32]float64{1: 101} }},
			{"stop_token_ids", func(q *Request) { q.Sampling.StopTokenIDs = []int32{999} }},
			{"token_ids_logprob", func(q *Request) { q.Logprobs.TokenIDs = []int32{-1} }},
			{"stop_regex", func(q *Request) { q.Sampling.StopRegex = []string{"("} }},
			{"messages", func(q *Request) { q.Prompt = Prompt{Messages: []byte(`[]`)} }},
			{"", func(q *Request) { q.Prompt = Prompt{} }},
			{"", func(q *Request) { q.Prompt = Prompt{Text: new(string)} }},
			{"[1]", func(q *Request) { q.Prompt = Prompt{IDs: []int32{1, 999}} }},
			{"[0]", func(q *Request) { q.Prompt = Prompt{IDs: []int32{-1}} }},
		} {
			_, err := h.Submit(t.Context(), []*Request{request("fine"), request("p", tt.change, func(q *Request) { q.Field = "prompts[1]" })})
			var fe *FieldError
			want := "prompts[1]"
			if tt.field != "" && tt.field[0] != '[' {
				want += "."
			}
			if want += tt.field; !errors.As(err, &fe) || fe.Field != want || !errors.Is(err, ErrInvalid) || fe.Problem == "" {
				t.Errorf("%s: %v", want, err)
			}
		}
		// All or nothing: the first of each pair was fine, and none was taken.
		synctest.Wait()
		if n := len(g.sequences()); n != 0 || h.active.Load() != 0 {
			t.Errorf("%d sequences of refused requests are under way", n)
		}
		h.end()
	})
}

// TestContext: prompt and answer share the context.
func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{ContextLength: 20})
		h := start(t, Config{Context: 10}, g) // the smaller one counts
		synctest.Wait()
		for _, tt := range []struct {
			prompt, max, want int // want < 0: refused
		}{{9, 5, 1}, {9, 1, 1}, {9, 0, 0}, {10, 0, 0}, {10, 1, -1}, {11, 0, -1}, {3, 7, 7}, {3, 8, 7}, {1, math.MaxInt, 9}} {
			hs, err := h.Submit(t.Context(), []*Request{request(strings.Repeat("x", tt.prompt), func(q *Request) { q.Sampling.MaxTokens = tt.max })})
			if tt.want < 0 {
				if !errors.Is(err, ErrTooLong) {
					t.Errorf("prompt of %d, %d more: %v", tt.prompt, tt.max, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := g.sequences()[0].MaxTokens; got != tt.want {
				t.Errorf("prompt of %d, %d more: at most %d, want %d", tt.prompt, tt.max, got, tt.want)
			}
			hs[0].Close()
			synctest.Wait()
		}
		h.end()
	})
}

// residency is an adapter manager that brings adapters back when told.
type residency struct {
	mu                         sync.Mutex
	ensured, touched, reloaded []string
	rev                        uint64
	err                        error
	calls                      int
}

func (r *residency) Ensure(_ context.Context, names []string) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	r.ensured = append(r.ensured, names...)
	return r.rev, r.err
}

func (r *residency) Touch(_ context.Context, names []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.touched = append(r.touched, names...)
	return nil
}

func (r *residency) Reload(_ context.Context, name, _ string) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reloaded = append(r.reloaded, name)
	return r.rev, r.err
}

// TestRecall: naming an adapter that was pushed out brings it back, once per
// request, and the request waits for the catalogue that has it.
func TestRecall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := &residency{rev: 7}
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{Residency: res}, g)
		entry := func(name string, usable bool) *AdapterEntry {
			return &AdapterEntry{Name: name, Digest: "d-" + name, Usable: usable, Evicted: !usable}
		}
		h.SetCatalogue(&Catalogue{Revision: 6, Adapters: map[string]*AdapterEntry{"in": entry("in", true), "out": entry("out", false)}})
		synctest.Wait()
		reqs := []*Request{}
		for _, name := range []string{"in", "out", "out", ""} {
			reqs = append(reqs, request("p", func(q *Request) { q.Adapter = name }))
		}
		done := make(chan []*Handle)
		go func() {
			hs, err := h.Submit(context.Background(), reqs)
			if err != nil {
				t.Error(err)
			}
			done <- hs
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("the request did not wait for the registry")
		default:
		}
		h.SetCatalogue(&Catalogue{Revision: 7, Adapters: map[string]*AdapterEntry{"in": entry("in", true), "out": entry("out", true)}})
		hs := <-done
		synctest.Wait()
		if fmt.Sprint(res.ensured) != "[in out]" || res.calls != 1 {
			t.Errorf("asked for %v in %d calls", res.ensured, res.calls)
		}
		if n := len(g.sequences()); n != 4 || hs[1].Digest != "d-out" || hs[1].Adapter != "out" || hs[3].Adapter != "" {
			t.Errorf("%d sequences, %+v", n, hs[1])
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		res.mu.Lock()
		if len(res.touched) != 2 {
			t.Errorf("touched %v", res.touched)
		}
		res.mu.Unlock()
		for _, hd := range hs {
			hd.Close()
		}
		// A client that gives up while waiting leaves nothing behind.
		h.SetCatalogue(&Catalogue{Revision: 8, Adapters: map[string]*AdapterEntry{"out": entry("out", false)}})
		res.rev = 99
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Submit(ctx, reqs[1:2]); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want a deadline", err)
		}
		res.err = errors.New("no room")
		if _, err := h.Submit(t.Context(), reqs[1:2]); !errors.Is(err, ErrAdapterNotReady) || !strings.Contains(err.Error(), "no room") {
			t.Errorf("%v, want that it is not ready", err)
		}
		synctest.Wait()
		h.end()
	})
}

// TestAdapterErrors: names that cannot be served.
func TestAdapterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, Config{MaxLoadedLoRAs: 2}, newGroup("g", GroupInfo{}))
		many := map[string]*AdapterEntry{}
		for i := range 30 {
			n := fmt.Sprintf("n%02d", i)
			many[n] = &AdapterEntry{Name: n, Digest: n, Usable: true}
		}
		h.SetCatalogue(&Catalogue{Adapters: many})
		synctest.Wait()
		named := func(names ...string) error {
			var reqs []*Request
			for _, n := range names {
				reqs = append(reqs, request("p", func(q *Request) { q.Adapter = n }))
			}
			_, err := h.Submit(t.Context(), reqs)
			return err
		}
		if err := named("n00", "n01", "n02"); !errors.Is(err, ErrTooManyAdapters) {
			t.Errorf("three distinct: %v", err)
		}
		var unknown *UnknownAdapterError
		if err := named("n00", "x"); !errors.As(err, &unknown) || unknown.Name != "x" || len(unknown.Loaded) != 21 || !errors.Is(err, ErrUnknownAdapter) {
			t.Errorf("unknown: %v", err)
		}
		h.cfg.LoRAEnabled = false
		if err := named("n00"); !errors.Is(err, ErrLoRADisabled) {
			t.Errorf("disabled: %v", err)
		}
		h.end()
	})
}

// TestEnds: a router that drains, stops, or has stopped.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{MaxRunning: 1})
		h := start(t, Config{}, g)
		if _, err := h.Submit(t.Context(), []*Request{request("early")}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("before any group is there: %v", err)
		}
		synctest.Wait()
		underway, waiting := h.submit(request("under way")), h.submit(request("waits"))
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- h.Drain(t.Context()) }()
		synctest.Wait()
		if _, err := h.Submit(t.Context(), []*Request{request("late")}); !errors.Is(err, ErrDraining) {
			t.Errorf("while draining: %v", err)
		}
		if st := h.State(); !st.Draining || st.Running != 1 || st.Queued != 1 || st.Requests != 2 {
			t.Errorf("state %+v", st)
		}
		for range 2 {
			g.say(SequenceOutput{ID: g.sequences()[0].ID, IDs: bytesOf("x"), Finish: FinishLength, StopToken: -1})
			synctest.Wait()
		}
		if err := <-drained; err != nil {
			t.Errorf("drain: %v", err)
		}
		underway.Close()
		waiting.Close()
		h.end()
	})
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{MaxRunning: 1})
		h := start(t, Config{}, g)
		synctest.Wait()
		hs := []*Handle{h.submit(request("under way")), h.submit(request("waits"))}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drain: %v", err)
		}
		h.end() // Recv of the fake ends only by Close
		for _, hd := range hs {
			ev, err := hd.Next(t.Context())
			if err != nil || ev.Finish == nil || ev.Finish.Reason != FinishAbort || !errors.Is(ev.Finish.Err, ErrDraining) {
				t.Errorf("%+v, %v", ev.Finish, err)
			}
			if _, err := hd.Next(t.Context()); !errors.Is(err, io.EOF) {
				t.Errorf("%v, want EOF", err)
			}
		}
		h.draining.Store(false) // somebody who had passed the checks before
		if n := h.Abort("", true); n != 0 {
			t.Errorf("%d aborted after the end", n)
		}
		late, err := h.prepare(request("late"), nil)
		if err != nil {
			t.Fatal(err)
		}
		h.enqueue([]*running{late}, 1)
		if ev, err := late.Next(t.Context()); err != nil || !errors.Is(ev.Finish.Err, ErrDraining) {
			t.Errorf("after the end: %+v, %v", ev, err)
		}
		h.empty()
	})
}

// TestReaderGivesUp: a Next whose context ends closes the request.
func TestReaderGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{}, g)
		synctest.Wait()
		hd := h.submit(request("p", func(q *Request) { q.Sampling.N = 3 }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := hd.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want a deadline", err)
		}
		synctest.Wait()
		if n := len(g.sequences()); n != 0 || h.active.Load() != 0 {
			t.Errorf("%d sequences go on", n)
		}
		if _, err := hd.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want EOF", err)
		}
		hd.Close()
		h.end()
	})
}

// TestAbortBetweenBooks: an abort that comes while a lost sequence is in
// nobody's books (taken from its group, not queued yet) still ends it.
func TestAbortBetweenBooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{}, g)
		synctest.Wait()
		hd := h.submit(request("p", func(q *Request) { q.ID = "x" }))
		synctest.Wait()
		l, block := h.links[0], make(chan struct{})
		h.do(func() { <-block }) // the router's goroutine is busy
		synctest.Wait()
		aborted := make(chan int)
		go func() { aborted <- h.Abort("x", false) }()
		synctest.Wait()
		g.lose(errLost) // the link takes the sequence out of live; its books come after the abort
		synctest.Wait()
		if len(l.live) != 0 {
			t.Fatal("the loss was not noticed")
		}
		close(block)
		if n := <-aborted; n != 1 {
			t.Errorf("%d aborted", n)
		}
		synctest.Wait()
		if ev, err := hd.Next(t.Context()); err != nil || ev.Finish == nil || !errors.Is(ev.Finish.Err, ErrAborted) {
			t.Errorf("%+v, %v", ev, err)
		}
		h.empty()
		h.end()
	})
}

// TestFlows: the memory of flows is bounded, whoever comes.
func TestFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{}, g)
		synctest.Wait()
		h.do(func() { // served once, long ago
			for i := range 5000 {
				h.queue.charge(flowKey{tenant: fmt.Sprint(i)}, 1)
			}
		})
		for i := range 10 {
			hd := h.submit(request("p", func(q *Request) { q.Tenant = fmt.Sprint("new", i) }))
			synctest.Wait()
			hd.Close()
		}
		synctest.Wait()
		if n := len(h.queue.flows); n > 100 {
			t.Errorf("%d flows are remembered", n)
		}
		h.end()
	})
}
