package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chorale/internal/chattemplate"
)

// TestPrompts: text, ids and messages become tokens.
func TestPrompts(t *testing.T) {
	tmpl, err := chattemplate.Parse(`{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}{{ mood }}`)
	if err != nil {
		t.Fatal(err)
	}
	r := New(Config{Text: Text{Tokenizer: testTokenizer(), Template: tmpl, BOS: "<eos>"}})
	text := "a<eos>é"
	msgs := json.RawMessage(`[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]`)
	for _, tt := range []struct {
		name string
		p    Prompt
		want []int32
	}{
		{"text", Prompt{Text: &text}, []int32{'a', eos, 0xC3, 0xA9}},
		{"ids", Prompt{IDs: []int32{1, eos}}, []int32{1, eos}},
		{"messages", Prompt{Messages: msgs}, append([]int32{eos}, bytesOf("[user]hi[assistant]")...)},
		{"no generation prompt", Prompt{Messages: msgs, NoGenerationPrompt: true}, append([]int32{eos}, bytesOf("[user]hi")...)},
		{"continued", Prompt{Messages: json.RawMessage(`[{"role": "assistant", "content": "so "}]`), ContinueFinalMessage: true}, append([]int32{eos}, bytesOf("[assistant]so ")...)},
		{"variables", Prompt{Messages: msgs, NoGenerationPrompt: true, TemplateVars: map[string]json.RawMessage{"mood": json.RawMessage(`"!"`)}}, append([]int32{eos}, bytesOf("[user]hi!")...)},
	} {
		got, err := r.Encode(tt.p, true)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v; %v", tt.name, got, tt.want, err)
		}
	}
	for name, p := range map[string]Prompt{
		"no list":  {Messages: json.RawMessage(`{}`)},
		"no JSON":  {Messages: json.RawMessage(`[`)},
		"an image": {Messages: json.RawMessage(`[{"role": "user", "content": [{"type": "image_url"}]}]`)},
	} {
		var fe *FieldError
		if _, err := r.Encode(p, true); !errors.As(err, &fe) || fe.Field != "prompt.messages" || !strings.HasPrefix(err.Error(), "prompt.messages: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNoTokenizer: ids are taken, whatever needs text is refused by name.
func TestNoTokenizer(t *testing.T) {
	r := New(Config{})
	text := "x"
	for _, p := range []Prompt{{Text: &text}, {Messages: json.RawMessage(`[]`)}} {
		if _, err := r.Encode(p, true); !errors.Is(err, ErrNoTokenizer) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if ids, err := r.Encode(Prompt{IDs: []int32{1, 2}}, true); err != nil || len(ids) != 2 {
		t.Errorf("ids: %v %v", ids, err)
	}
	stop := request("", func(q *Request) { q.Prompt, q.Sampling.Stop = Prompt{IDs: []int32{1}}, []string{"x"} })
	if _, err := r.Submit(t.Context(), []*Request{stop}); !errors.Is(err, ErrNoTokenizer) || !strings.Contains(err.Error(), "prompts[0].stop") {
		t.Errorf("a stop text: %v", err)
	}
}

// watcher notes what an Observer is told.
type watcher struct {
	mu    sync.Mutex
	lines []string
}

func (w *watcher) FirstToken(adapter string, queued, ttft time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf("first %s queued=%v ttft=%v", adapter, queued, ttft))
}

func (w *watcher) Adapters(group, incarnation string, counts []AdapterCount) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf("counts %s %q %+v", group, incarnation, counts))
}

func (w *watcher) Finished(adapter string, u Usage, end Finish, ttft, total time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf("end %s %d+%d reason=%d ttft=%v total=%v", adapter, u.PromptTokens, u.CompletionTokens, end.Reason, ttft, total))
}

func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		g := newGroup("g", GroupInfo{MaxRunning: 1})
		h := start(t, Config{Observer: w}, g)
		h.SetCatalogue(&Catalogue{Adapters: map[string]*AdapterEntry{"a": {Name: "a", Digest: "d", Usable: true}}})
		synctest.Wait()
		first := h.submit(request("one", func(q *Request) { q.Adapter = "a" }))
		second := h.submit(request("two", func(q *Request) { q.Sampling.MaxTokens = 0 }))
		synctest.Wait()
		time.Sleep(time.Second)
		say := func(ids []int32, f FinishReason) {
			g.say(SequenceOutput{ID: g.sequences()[0].ID, IDs: ids, Finish: f, StopToken: -1})
			synctest.Wait()
		}
		say(bytesOf("x"), FinishNone)
		time.Sleep(time.Second)
		say(bytesOf("y"), FinishLength)
		time.Sleep(time.Second)
		say(nil, FinishLength)
		want := []string{
			"first a queued=0s ttft=1s", "end a 3+2 reason=2 ttft=1s total=2s",
			"end  3+0 reason=2 ttft=0s total=3s",
		}
		if !slices.Equal(w.lines, want) {
			t.Errorf("told %q, want %q", w.lines, want)
		}
		if st := h.State(); st.PromptTokens != 6 || st.CompletionTokens != 2 || st.Requests != 2 || len(st.Groups) != 1 {
			t.Errorf("%+v", st)
		}
		first.Close()
		second.Close()
		h.end()
	})
}

// TestReload: with ReloadUnloaded a name that was unloaded comes back on use;
// one that never was does not.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := &residency{rev: 3}
		h := start(t, Config{Residency: res, ReloadUnloaded: true}, newGroup("g", GroupInfo{}))
		with := &Catalogue{Revision: 1, Adapters: map[string]*AdapterEntry{"a": {Name: "a", Digest: "d", Usable: true, Source: "/a"}}}
		h.SetCatalogue(with)
		h.SetCatalogue(&Catalogue{Revision: 2})
		synctest.Wait()
		named := func(n string) *Request { return request("p", func(q *Request) { q.Adapter = n }) }
		if _, err := h.Submit(t.Context(), []*Request{named("b")}); !errors.Is(err, ErrUnknownAdapter) {
			t.Errorf("never loaded: %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			h.SetCatalogue(&Catalogue{Revision: 3, Adapters: with.Adapters})
		}()
		hd := h.submit(named("a"))
		if fmt.Sprint(res.reloaded) != "[a]" || hd.Digest != "d" {
			t.Errorf("reloaded %v, digest %q", res.reloaded, hd.Digest)
		}
		hd.Close()
		h.SetCatalogue(&Catalogue{Revision: 4})
		res.err = errors.New("source is gone")
		if _, err := h.Submit(t.Context(), []*Request{named("a")}); !errors.Is(err, ErrAdapterNotReady) {
			t.Errorf("source gone: %v", err)
		}
		synctest.Wait()
		h.end()
	})
}

// TestFlush asks all groups and tells which failed.
func TestFlush(t *testing.T) {
	g, other := newGroup("g", GroupInfo{}), newGroup("other", GroupInfo{})
	r := New(Config{Text: Text{Tokenizer: testTokenizer()}, Groups: []Dialer{g, other}})
	if err := r.FlushCache(context.Background()); err != nil {
		t.Error(err)
	}
	g.lose(errLost)
	if err := r.FlushCache(context.Background()); !errors.Is(err, errLost) || !strings.Contains(err.Error(), "worker group g:") {
		t.Error(err)
	}
	if l := other.tell(); len(l) != 2 {
		t.Errorf("the other group was told %v", l)
	}
}

// TestBatchAbort: the requests of a batch carry its id and a suffix.
func TestBatchAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, Config{}, newGroup("g", GroupInfo{}))
		synctest.Wait()
		for _, id := range []string{"x_0", "x_1", "xy", "_", "z"} {
			h.submit(request("p", func(q *Request) { q.ID = id }))
		}
		for id, want := range map[string]int{"x": 2, "xy": 1, "": 0, "nobody": 0} {
			if n := h.Abort(id, false); n != want {
				t.Errorf("abort %q found %d, want %d", id, n, want)
			}
		}
		synctest.Wait()
		if n := h.active.Load(); n != 2 {
			t.Errorf("%d answers are left, want 2", n)
		}
		h.end()
	})
}
