package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"

	"chorale/bench/client"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// fakeServer answers the native routes that clients use. Each answer is the
// adapter's name and the last message, in two pieces.
type fakeServer struct {
	mu       sync.Mutex
	requests []*choralev1.GenerateRequest
	steps    uint64
	// fail, if set, is a prompt_index whose answer is aborted.
	fail int
	// hang keeps answers open after the first piece.
	hang bool
	// answers counts first pieces; started gets one each.
	started chan struct{}
}

func newFake(t *testing.T) (*fakeServer, *client.Client) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	f := &fakeServer{fail: -1, started: make(chan struct{}, 16)}
	s := httptest.NewServer(f)
	c, err := client.New(client.Options{Server: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.CloseIdleConnections()
		s.Close()
		goleak.VerifyNone(t, ignore)
	})
	return f, c
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/chorale/v1/server":
		f.mu.Lock()
		defer f.mu.Unlock()
		fmt.Fprintf(w, `{"workerGroups":[{"address":"w","steps":"%d","lastStepRows":3,"lastStepAdapters":2,"maxStepAdapters":2}]}`, f.steps)
	case "/v1/models":
		io.WriteString(w, `{"data":[{"id":"m"},{"id":"json","parent":"m"},{"id":"sql","parent":"m"}]}`)
	case "/chorale/v1/generate:stream":
		f.generate(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (f *fakeServer) generate(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	in := &choralev1.GenerateStreamRequest{}
	if err := protojson.Unmarshal(body, in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req := in.GetRequest()
	f.mu.Lock()
	f.requests = append(f.requests, req)
	f.steps++
	f.mu.Unlock()
	for i, name := range req.GetAdapters() {
		if name == "" {
			name = "BASE"
		}
		f.send(w, &choralev1.GenerateStreamResponse{PromptIndex: int32(i), Text: name + ": ", TokenIds: []int32{1, 2}})
	}
	f.started <- struct{}{}
	if f.hang {
		<-r.Context().Done()
		return
	}
	for i, p := range req.GetPrompts() {
		text := p.GetText()
		if m := p.GetChat().GetMessages(); len(m) > 0 {
			text = m[len(m)-1].GetContent()
		}
		fin := &choralev1.Finish{Reason: choralev1.FinishReason_FINISH_REASON_STOP}
		if i == f.fail {
			fin = &choralev1.Finish{Reason: choralev1.FinishReason_FINISH_REASON_ABORT, Message: "worker lost"}
		}
		f.send(w, &choralev1.GenerateStreamResponse{
			PromptIndex: int32(i), Text: text, TokenIds: []int32{3}, Finish: fin, Usage: &choralev1.Usage{CompletionTokens: 3},
		})
	}
}

func (f *fakeServer) send(w http.ResponseWriter, m *choralev1.GenerateStreamResponse) {
	b, _ := protojson.Marshal(m)
	line, _ := json.Marshal(map[string]json.RawMessage{"result": b})
	w.Write(append(line, '\n'))
	http.NewResponseController(w).Flush()
}

func TestSideBySide(t *testing.T) {
	f, c := newFake(t)
	var out bytes.Buffer
	s := &sideBySide{client: c, view: &plainView{out: &out}, panes: []*pane{{name: "base"}, {name: "json"}, {name: "sql"}}}
	prompts := make([]*choralev1.Prompt, 3)
	for i := range prompts {
		prompts[i] = chatPrompt(messages("", "hi"))
	}
	if err := s.run(t.Context(), &choralev1.GenerateRequest{Prompts: prompts}, "hi"); err != nil {
		t.Fatal(err)
	}
	got, last, _ := strings.Cut(out.String(), "one batch: ")
	if d := cmp.Diff("base | BASE: hi\njson | json: hi\nsql  | sql: hi\n", got); d != "" {
		t.Error(d)
	}
	if !strings.HasPrefix(last, "3 rows, 2 distinct adapters + base in one step; 9 tokens in ") || !strings.HasSuffix(last, " tokens/s\n") {
		t.Errorf("last line %q", last)
	}
	if len(f.requests) != 1 || !cmp.Equal(f.requests[0].GetAdapters(), []string{"", "json", "sql"}) {
		t.Errorf("requests %v: want one, for all", f.requests)
	}
}

func TestSideBySideFailures(t *testing.T) {
	f, c := newFake(t)
	f.fail = 1
	var out bytes.Buffer
	s := &sideBySide{client: c, view: &plainView{out: &out}, panes: []*pane{{name: "base"}, {name: "json"}}}
	req := &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{chatPrompt(messages("", "hi")), chatPrompt(messages("", "hi"))}}
	err := s.run(t.Context(), req, "hi")
	if err == nil || err.Error() != "json: worker lost" || strings.Contains(out.String(), "batch") || !strings.Contains(out.String(), "base | BASE: hi") {
		t.Errorf("%v, %q", err, out.String())
	}
	s = &sideBySide{client: c, view: &plainView{out: &out}, panes: []*pane{{name: "base"}}}
	for _, i := range []int32{-1, 1} {
		if err := s.add(&choralev1.GenerateStreamResponse{PromptIndex: i}); !errors.Is(err, client.ErrAnswer) {
			t.Errorf("index %d: %v", i, err)
		}
	}
	s = &sideBySide{client: c, view: &plainView{out: full{}}, panes: []*pane{{name: "base"}}}
	if err := s.run(t.Context(), &choralev1.GenerateRequest{Prompts: req.GetPrompts()[:1]}, "hi"); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("error %v", err)
	}
}

func TestSideBySideInterrupted(t *testing.T) {
	f, c := newFake(t)
	f.hang = true
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-f.started; cancel() }()
	s := &sideBySide{client: c, view: &plainView{out: io.Discard}, panes: []*pane{{name: "json"}}}
	err := s.run(ctx, &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{chatPrompt(messages("", "hi"))}}, "hi")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestProof(t *testing.T) {
	voices := func(names ...string) *sideBySide {
		s := &sideBySide{}
		for _, n := range names {
			s.panes = append(s.panes, &pane{name: n, tokens: 10})
		}
		return s
	}
	const rate2 = "; 20 tokens in 2.0 s = 10 tokens/s"
	for _, tt := range []struct {
		s    *sideBySide
		seen stepSeen
		want string
	}{
		{voices("base", "a"), stepSeen{adapters: 1, rows: 2, decode: true}, "one batch: 2 rows, 1 adapter + base in one step" + rate2},
		{voices("b", "a"), stepSeen{adapters: 2, rows: 2, decode: true}, "one batch: 2 rows, 2 distinct adapters in one step" + rate2},
		{voices("b", "a"), stepSeen{adapters: 2, rows: 60}, "one batch: 2 distinct adapters in one step of 60 rows (prompt tokens among them)" + rate2},
		{voices("b", "a"), stepSeen{adapters: 1, rows: 1, decode: true, atOnce: 2}, "one batch: 2 distinct adapters in one step" + rate2},
		{voices("b", "a"), stepSeen{adapters: 1, rows: 1, decode: true}, "not seen as one batch: at most 1 adapter and 1 rows in one step" + rate2},
		{voices("b", "a"), stepSeen{}, "20 tokens in 2.0 s = 10 tokens/s"},
	} {
		if got := tt.s.proof(tt.seen, 2*time.Second); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.seen, got, tt.want)
		}
	}
}

func TestStepSeenBetter(t *testing.T) {
	order := []stepSeen{{}, {adapters: 1, rows: 90}, {adapters: 1, rows: 1, decode: true}, {adapters: 1, rows: 2, decode: true}, {adapters: 2, rows: 50}, {adapters: 2, rows: 2, decode: true}}
	for i := range order {
		for j := range order {
			if got := order[i].better(order[j]); got != (j > i) {
				t.Errorf("%+v against %+v: %v", order[j], order[i], got)
			}
		}
	}
}

func TestTalk(t *testing.T) {
	f, c := newFake(t)
	tk := newTalk(c, "json", &chatCmd{System: "be brief"})
	var out strings.Builder
	in := "hello\n\n/voice sql\nagain\n/voice\n/voice nope\n/nope\n/clear\nfresh\n/help\n/exit\nnever\n"
	if err := tk.lines(t.Context(), strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	want := "json: hello\nsql answers now\nsql: again\nvoices: base, json, sql\n" +
		"error: no voice \"nope\"; there are: base, json, sql\nerror: unknown command /nope; /help lists them\n" +
		"the conversation is forgotten\nsql: fresh\n" + talkHelp
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
	var got []string
	for _, r := range f.requests {
		var turns []string
		for _, m := range r.GetPrompts()[0].GetChat().GetMessages() {
			turns = append(turns, m.GetRole()+" "+m.GetContent())
		}
		got = append(got, strings.Join(turns, "; "))
	}
	if d := cmp.Diff([]string{
		"system be brief; user hello",
		"system be brief; user hello; assistant json: hello; user again",
		"system be brief; user fresh",
	}, got); d != "" {
		t.Error(d)
	}
}

// TestTalkKeepsGoing: a failed answer takes its question back.
func TestTalkKeepsGoing(t *testing.T) {
	f, c := newFake(t)
	f.fail = 0
	tk := newTalk(c, "base", &chatCmd{})
	var out strings.Builder
	if leave := tk.turn(t.Context(), "hello", &out); leave || len(tk.history) != 0 || !strings.Contains(out.String(), "error: worker lost") {
		t.Errorf("%v, %d messages, %q", leave, len(tk.history), out.String())
	}
}

// firstWrite does something after the first write.
type firstWrite struct {
	b    strings.Builder
	then func()
}

func (f *firstWrite) String() string { return f.b.String() }

func (f *firstWrite) Write(p []byte) (int, error) {
	if f.b.Len() == 0 {
		defer f.then()
	}
	return f.b.Write(p)
}

// TestInterruptEndsAnswerOnly: ctrl-C while an answer runs ends it; otherwise
// it clears the line.
func TestInterruptEndsAnswerOnly(t *testing.T) {
	f, c := newFake(t)
	f.hang = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	k := newKeys(ctx, r)
	tk := newTalk(c, "json", &chatCmd{})
	out := &firstWrite{then: func() { w.Write([]byte{ctrlC}) }}
	answering, end := k.answering()
	if leave := tk.turn(answering, "hello", out); leave || ctx.Err() != nil || !strings.HasSuffix(out.String(), "(ended)\n") {
		t.Errorf("%v, %q", leave, out.String())
	}
	end()
	if n := len(tk.history); n != 2 || tk.history[1].GetContent() != "json: " {
		t.Errorf("history %v after %q", tk.history, out.String())
	}
	go func() {
		w.Write([]byte{'a', ctrlC, 'b'})
		w.Close()
	}()
	got, err := io.ReadAll(k)
	if err != nil || string(got) != "a\x15b" {
		t.Errorf("%q, %v", got, err)
	}
	cancel()
	if _, err := newKeys(ctx, strings.NewReader("")).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("error %v after the end", err)
	}
}

func TestChatArguments(t *testing.T) {
	for _, c := range []*chatCmd{{All: true, Voice: []string{"a"}, Prompt: "x"}, {All: true}, {Voice: []string{"a", "b"}}} {
		if err := c.Run(t.Context()); err == nil || errors.Is(err, client.ErrUnreachable) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
	_, c := newFake(t)
	got, err := (&chatCmd{All: true}).voices(t.Context(), c)
	if err != nil || !cmp.Equal(got, []string{"base", "json", "sql"}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err = (&chatCmd{}).voices(t.Context(), c); err != nil || !cmp.Equal(got, []string{"base"}) {
		t.Errorf("%v, %v", got, err)
	}
}
