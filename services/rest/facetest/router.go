// Package facetest has a scripted router and a tiny vocabulary for the tests of
// the faces. Only tests import it.
package facetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"chorale/internal/tokenizer"
	"chorale/router"
)

// Vocab is the vocabulary: ids below 256 are bytes, then come these words.
var Vocab = []string{"<eos>", "Hello", " world", "!", "<b>", "yes"}

// EOS ends answers.
const EOS = 256

// Tokens is the tokenizer of Vocab.
type Tokens struct{}

// VocabSize counts bytes and words.
func (Tokens) VocabSize() int { return 256 + len(Vocab) }

// TokenBytes gives a token's bytes.
func (t Tokens) TokenBytes(id int32) []byte {
	switch {
	case id < 0 || int(id) >= t.VocabSize():
		return nil
	case id < 256:
		return []byte{byte(id)}
	default:
		return []byte(Vocab[id-256])
	}
}

// Token spells a byte as <0xNN>, a word as itself.
func (t Tokens) Token(id int32) (string, bool) {
	if id >= 0 && id < 256 {
		return fmt.Sprintf("<0x%02X>", id), true
	}
	b := t.TokenBytes(id)
	return string(b), b != nil
}

// Decode joins the tokens' bytes.
func (t Tokens) Decode(ids []int32, o tokenizer.DecodeOptions) string {
	var b strings.Builder
	for _, id := range ids {
		if id == EOS && o.SkipSpecial {
			continue
		}
		b.Write(t.TokenBytes(id))
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

// Encode gives one token per byte, with EOS in front as the special token.
func Encode(text string, special bool) []int32 {
	var ids []int32
	if special {
		ids = append(ids, EOS)
	}
	for _, c := range []byte(text) {
		ids = append(ids, int32(c))
	}
	return ids
}

// Router answers by script and keeps what it was asked.
type Router struct {
	// Script gives the events of one request; nil is Answer.
	Script func(r *router.Request, prompt []int32) []router.Event
	// SubmitErr refuses every request.
	SubmitErr error
	// NextErr comes after the script's events instead of io.EOF.
	NextErr error
	// Pause is called before each event.
	Pause func()
	// Hang makes every answer wait for its context after the script.
	Hang bool
	Info router.ModelInfo
	St   router.ServerState

	mu        sync.Mutex
	catalogue *router.Catalogue
	requests  []*router.Request
	open      int
	aborted   []string
	waited    []uint64
}

// Created is the time of everything that has one.
var Created = time.Unix(1700000000, 0)

// New makes a router of base model "tiny" and the given adapters.
func New(adapters ...string) *Router {
	c := &router.Catalogue{Revision: 1, Adapters: map[string]*router.AdapterEntry{}}
	for _, a := range adapters {
		c.Adapters[a] = &router.AdapterEntry{
			Name: a, Digest: "sha256:" + a, Source: "/adapters/" + a, Usable: true, Created: Created.Unix(),
		}
	}
	return &Router{
		catalogue: c,
		Info: router.ModelInfo{
			Name: "tiny", Path: "/models/tiny", HasChatTemplate: true, LoRAEnabled: true, Created: Created,
			Group: router.GroupInfo{ModelType: "llama", Architectures: []string{"LlamaForCausalLM"}, ContextLength: 512, VocabSize: Tokens{}.VocabSize(), MaxLoRARank: 64},
		},
		St: router.ServerState{Version: "test", Started: Created, Groups: []router.GroupState{{Address: "w0", Connected: true}}},
	}
}

// Answer is the answer of most tests: "[adapter]", "Hello", " world" and EOS,
// or as many of them as MaxTokens lets through, the same for every choice.
func Answer(r *router.Request, prompt []int32) []router.Event {
	ids := []int32{257, 258, EOS}
	texts := []string{"Hello", " world", ""}
	if r.Adapter != "" {
		texts[0] = "[" + r.Adapter + "]Hello"
	}
	n := min(len(ids), r.Sampling.MaxTokens)
	var out []router.Event
	for c := range r.Sampling.N {
		pl := promptLogprobs(r, prompt)
		for i := range n {
			ev := router.Event{Choice: c, Text: texts[i], IDs: ids[i : i+1], PromptLogprobs: pl}
			pl = nil
			if r.Logprobs.Enabled {
				ev.Logprobs = []router.PositionLogprobs{Position(r, ids[i], -0.5*float64(i+1), true)}
			}
			ev.Usage = router.Usage{PromptTokens: len(prompt), CompletionTokens: i + 1, CachedTokens: 1}
			if i == len(ids)-1 {
				ev.Finish = &router.Finish{Reason: router.FinishStop, TokenID: EOS}
			} else if i == n-1 {
				ev.Finish = &router.Finish{Reason: router.FinishLength, TokenID: -1}
			}
			out = append(out, ev)
		}
		if n == 0 {
			out = append(out, router.Event{
				Choice: c, PromptLogprobs: pl, Usage: router.Usage{PromptTokens: len(prompt)},
				Finish: &router.Finish{Reason: router.FinishLength, TokenID: -1},
			})
		}
	}
	return out
}

func promptLogprobs(r *router.Request, prompt []int32) []router.PositionLogprobs {
	if !r.Logprobs.Enabled || r.Logprobs.PromptStart < 0 {
		return nil
	}
	var out []router.PositionLogprobs
	for i := r.Logprobs.PromptStart; i < len(prompt); i++ {
		out = append(out, Position(r, prompt[i], -float64(i), i > 0))
	}
	return out
}

// Position gives log probabilities at one position as the request wants them.
func Position(r *router.Request, id int32, lp float64, known bool) router.PositionLogprobs {
	p := router.PositionLogprobs{TokenLogprob: router.TokenLogprob{ID: id, Logprob: lp, Known: known}}
	if !known {
		p.Logprob = 0
		return p
	}
	for i := range r.Logprobs.Top {
		p.Top = append(p.Top, router.TokenLogprob{ID: id + int32(i), Logprob: lp - float64(i), Known: true})
	}
	for _, t := range r.Logprobs.TokenIDs {
		p.Requested = append(p.Requested, router.TokenLogprob{ID: t, Logprob: lp - 9, Known: true})
	}
	return p
}

// Submit runs the script.
func (f *Router) Submit(_ context.Context, reqs []*router.Request) ([]*router.Handle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, reqs...)
	if f.SubmitErr != nil {
		return nil, f.SubmitErr
	}
	var handles []*router.Handle
	for _, r := range reqs {
		if r.Adapter != "" && !f.Info.LoRAEnabled {
			return nil, fmt.Errorf("LoRA adapter '%s' was requested, but %w", r.Adapter, router.ErrLoRADisabled)
		}
		entry := f.catalogue.Adapters[r.Adapter]
		if r.Adapter != "" && entry == nil {
			return nil, &router.UnknownAdapterError{Name: r.Adapter, Loaded: []string{"a"}}
		}
		ids, err := f.Encode(r.Prompt, true)
		if err != nil {
			return nil, err
		}
		if len(ids) > f.Info.Group.ContextLength {
			return nil, &router.FieldError{Field: r.Field, Problem: "is too long", Err: router.ErrTooLong}
		}
		script := f.Script
		if script == nil {
			script = Answer
		}
		h := &router.Handle{ID: r.ID, Adapter: r.Adapter, PromptIDs: ids, Created: Created}
		if h.ID == "" {
			h.ID = "made-" + strconv.Itoa(len(f.requests))
		}
		if entry != nil {
			h.Digest, h.Version = entry.Digest, entry.Version
		}
		h.EventSource = &source{f: f, events: script(r, ids)}
		handles = append(handles, h)
	}
	f.open += len(handles)
	return handles, nil
}

type source struct {
	f      *Router
	events []router.Event
	closed sync.Once
}

func (s *source) Next(ctx context.Context) (router.Event, error) {
	if err := ctx.Err(); err != nil {
		return router.Event{}, err
	}
	if s.f.Pause != nil {
		s.f.Pause()
	}
	if len(s.events) > 0 {
		ev := s.events[0]
		s.events = s.events[1:]
		return ev, nil
	}
	if s.f.Hang {
		<-ctx.Done()
		return router.Event{}, ctx.Err()
	}
	if s.f.NextErr != nil {
		return router.Event{}, s.f.NextErr
	}
	return router.Event{}, io.EOF
}

func (s *source) Close() {
	s.closed.Do(func() {
		s.f.mu.Lock()
		defer s.f.mu.Unlock()
		s.f.open--
	})
}

// Open counts handles that nobody closed.
func (f *Router) Open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Requests gives what was submitted and forgets it.
func (f *Router) Requests() []*router.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.requests
	f.requests = nil
	return out
}

// Abort remembers the id.
func (f *Router) Abort(id string, all bool) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if all {
		id = "*"
	}
	f.aborted = append(f.aborted, id)
	return 1
}

// Aborted gives the ids that were aborted, "*" for all.
func (f *Router) Aborted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.aborted
}

// Encode spells a prompt in bytes; a chat becomes "role:content|" of each
// message.
func (f *Router) Encode(p router.Prompt, special bool) ([]int32, error) {
	switch {
	case p.Text != nil:
		return Encode(*p.Text, special), nil
	case p.Messages != nil:
		var ms []struct {
			Role    string
			Content any
		}
		if err := json.Unmarshal(p.Messages, &ms); err != nil {
			return nil, &router.FieldError{Field: "messages", Problem: err.Error()}
		}
		var b strings.Builder
		for _, m := range ms {
			fmt.Fprintf(&b, "%s:%v|", m.Role, m.Content)
		}
		return Encode(b.String(), special), nil
	default:
		return p.IDs, nil
	}
}

// Model gives Info.
func (f *Router) Model() router.ModelInfo { return f.Info }

// State gives St.
func (f *Router) State() router.ServerState { return f.St }

// Catalogue gives the adapters.
func (f *Router) Catalogue() *router.Catalogue {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.catalogue
}

// Change swaps a changed copy of the catalogue in.
func (f *Router) Change(change func(c *router.Catalogue)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &router.Catalogue{Revision: f.catalogue.Revision + 1, Adapters: map[string]*router.AdapterEntry{}}
	for k, v := range f.catalogue.Adapters {
		c.Adapters[k] = v
	}
	change(c)
	f.catalogue = c
}

// FlushCache does nothing.
func (r *Router) FlushCache(context.Context) error { return nil }

// WaitRevision remembers the revision and does not wait.
func (f *Router) WaitRevision(ctx context.Context, rev uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waited = append(f.waited, rev)
	return ctx.Err()
}

// Waited gives the revisions that were waited for.
func (f *Router) Waited() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waited
}

// Endless begins an answer that the script does not finish.
func Endless(r *router.Request, prompt []int32) []router.Event {
	return []router.Event{{Text: "Hello", IDs: []int32{257}}}
}

// fataler is what of testing.T the waits need.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// WaitClosed waits until no handle is open.
func (f *Router) WaitClosed(t fataler) {
	t.Helper()
	f.wait(t, "handles stay open", func() bool { return f.Open() == 0 })
}

// WaitOpen waits until a handle is open.
func (f *Router) WaitOpen(t fataler) {
	t.Helper()
	f.wait(t, "no handle was opened", func() bool { return f.Open() > 0 })
}

func (f *Router) wait(t fataler, problem string, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal(problem)
}
