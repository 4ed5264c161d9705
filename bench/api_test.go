package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chorale/bench/client"
)

// script is a server whose answers are given by "METHOD path".
type script struct {
	answers map[string]string
	mu      sync.Mutex
	bodies  map[string]string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	key := r.Method + " " + r.URL.Path
	s.mu.Lock()
	s.bodies[key] = string(b)
	s.mu.Unlock()
	answer, ok := s.answers[key]
	if !ok {
		http.Error(w, `{"error":{"message":"no route"}}`, http.StatusNotFound)
		return
	}
	io.WriteString(w, answer)
}

// open starts the server and an API of it, and probes it.
func open(t *testing.T, name string, s *script) (api, Info) {
	t.Helper()
	s.bodies = map[string]string{}
	srv := httptest.NewServer(s)
	c, err := client.New(client.Options{Server: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.CloseIdleConnections()
		srv.Close()
	})
	a, err := newAPI(name, c)
	if err != nil {
		t.Fatal(err)
	}
	info, err := a.probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a, info
}

func events(lines ...string) string { return "data: " + strings.Join(lines, "\n\ndata: ") + "\n\n" }

const twoModels = `{"data":[{"id":"base-model","meta":{"n_vocab":49152}},{"id":"ad","parent":"base-model"}]}`

// TestAPIs sends one request in each API's words and reads a scripted stream.
func TestAPIs(t *testing.T) {
	for name, tt := range map[string]struct {
		api     string
		answers map[string]string
		call    call
		info    Info
		path    string
		body    string
		totals  []int
		counts  counts
	}{
		"chorale": {
			api: "chorale",
			answers: map[string]string{
				"GET /chorale/v1/server": `{"version":"v1","workerGroups":[{"device":"cpu/avx2"}]}`,
				"GET /chorale/v1/model":  `{"name":"m","vocabSize":100,"dtype":"bf16","maxLorasPerBatch":8,"parameters":"7"}`,
				"GET /v1/models":         twoModels,
				"POST /chorale/v1/generate:stream": `{"result":{"tokenIds":[1]}}` + "\n" + `{"result":{"tokenIds":[2,3]}}` + "\n" +
					`{"result":{"finish":{"reason":"FINISH_REASON_LENGTH"},"usage":{"promptTokens":2,"completionTokens":3}}}` + "\n",
			},
			call: call{ids: []int32{5, 6}, adapter: "ad", output: 3},
			info: Info{Version: "v1", Model: "m", Adapters: []string{"ad"}, Vocab: 100, Notes: map[string]any{
				"dtype": "bf16", "devices": []string{"cpu/avx2"}, "max_loras_per_batch": int32(8), "parameters": int64(7),
			}},
			path:   "POST /chorale/v1/generate:stream",
			body:   `{"request":{"prompts":[{"tokenIds":{"ids":[5,6]}}],"adapters":["ad"],"sampling":{"maxTokens":3,"temperature":0,"ignoreEos":true}}}`,
			totals: []int{1, 3, 3}, counts: counts{2, 3},
		},
		"sglang": {
			api: "sglang",
			answers: map[string]string{
				"GET /v1/models":   twoModels,
				"GET /server_info": `{"version":"0.5"}`,
				"POST /generate": events(`{"text":"a","meta_info":{"prompt_tokens":2,"completion_tokens":1,"finish_reason":null}}`,
					`{"text":"abc","meta_info":{"prompt_tokens":2,"completion_tokens":3,"finish_reason":{"type":"length"}}}`, "[DONE]"),
			},
			call: call{ids: []int32{5, 6}, adapter: "ad", output: 3},
			info: Info{Version: "0.5", Model: "base-model", Adapters: []string{"ad"}},
			path: "POST /generate", body: `{"input_ids":[5,6],"lora_path":"ad","stream":true,"sampling_params":{"max_new_tokens":3,"ignore_eos":true,"temperature":0}}`,
			totals: []int{1, 3}, counts: counts{2, 3},
		},
		"openai by ids": {
			api: "openai",
			answers: map[string]string{
				"GET /v1/models": twoModels, "GET /version": `{"version":"0.26"}`,
				"POST /v1/completions": events(`{"choices":[{"text":"a","token_ids":[1,2]}],"usage":null}`, `{"choices":[{"text":"","token_ids":[3]}]}`,
					`{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}}`, "[DONE]"),
			},
			call: call{text: "hi", output: 3, temperature: .5, stopAtEOS: true},
			info: Info{Version: "0.26", Model: "base-model", Adapters: []string{"ad"}, Vocab: 49152},
			path: "POST /v1/completions",
			body: `{"model":"base-model","prompt":"hi","max_tokens":3,"temperature":0.5,"stream":true,
				"stream_options":{"include_usage":true,"continuous_usage_stats":true},"return_token_ids":true}`,
			totals: []int{2, 3, 3}, counts: counts{2, 3},
		},
		"openai by running usage": {
			api: "openai",
			answers: map[string]string{
				"GET /v1/models": twoModels,
				"POST /v1/completions": events(`{"choices":[{"text":"a"}],"usage":{"prompt_tokens":2,"completion_tokens":2}}`,
					`{"choices":[{"text":"b"}],"usage":{"prompt_tokens":2,"completion_tokens":5}}`, "[DONE]"),
			},
			call: call{text: "hi", adapter: "ad", output: 3},
			info: Info{Model: "base-model", Adapters: []string{"ad"}, Vocab: 49152},
			path: "POST /v1/completions",
			body: `{"model":"ad","prompt":"hi","max_tokens":3,"temperature":0,"stream":true,"ignore_eos":true,
				"stream_options":{"include_usage":true,"continuous_usage_stats":true},"return_token_ids":true}`,
			totals: []int{2, 5}, counts: counts{2, 5},
		},
		"openai by chunks": {
			api: "openai",
			answers: map[string]string{
				"GET /v1/models": `{"data":[{"id":"m"}]}`,
				"POST /v1/completions": events(`{"choices":[{"text":"a"}]}`, `{"choices":[{"text":""}]}`, `{"choices":[{"text":"b"}]}`,
					`{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}}`),
			},
			call: call{text: "hi", output: 3, stopAtEOS: true},
			info: Info{Model: "m"},
			path: "POST /v1/completions",
			body: `{"model":"m","prompt":"hi","max_tokens":3,"temperature":0,"stream":true,
				"stream_options":{"include_usage":true,"continuous_usage_stats":true},"return_token_ids":true}`,
			totals: []int{1, 1, 2, 3}, counts: counts{2, 3},
		},
		"llama": {
			api: "llama",
			answers: map[string]string{
				"GET /v1/models":     `{"data":[{"id":"m","meta":{"n_vocab":49152}}]}`,
				"GET /lora-adapters": `[{"id":0,"path":"/l/r16-0.gguf","scale":1},{"id":1,"path":"/l/r16-1.gguf","scale":1},{"id":2,"path":"/k/r16-1.gguf"}]`,
				"GET /props":         `{"build_info":"b1","model_path":"/m/model.gguf","total_slots":8}`,
				"POST /completion": events(`{"content":"","tokens_predicted":0,"tokens_evaluated":2}`, `{"content":"a","tokens_predicted":1,"tokens_evaluated":2}`,
					`{"content":"é","tokens_predicted":3,"tokens_evaluated":2,"stop":true}`),
			},
			call:   call{ids: []int32{5}, adapter: "r16-1", output: 3},
			info:   Info{Version: "b1", Model: "model.gguf", Adapters: []string{"r16-0", "r16-1", "2"}, Vocab: 49152, Notes: map[string]any{"slots": 8}},
			path:   "POST /completion",
			body:   `{"prompt":[5],"n_predict":3,"ignore_eos":true,"temperature":0,"stream":true,"cache_prompt":false,"lora":[{"id":1,"scale":1}]}`,
			totals: []int{0, 1, 3}, counts: counts{2, 3},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answers: tt.answers}
			a, info := open(t, tt.api, s)
			if d := cmp.Diff(tt.info, info); d != "" {
				t.Error(d)
			}
			var totals []int
			n, err := a.stream(t.Context(), &tt.call, func(total int) { totals = append(totals, total) })
			if err != nil || n != tt.counts || !slices.Equal(totals, tt.totals) {
				t.Errorf("%v, %v, %v", n, totals, err)
			}
			if d := cmp.Diff(parsed(t, tt.body), parsed(t, s.bodies[tt.path])); d != "" {
				t.Error(d)
			}
		})
	}
}

func parsed(t *testing.T, s string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return v
}

// TestLlamaBase: an empty list would mean every adapter at scale 1.
func TestLlamaBase(t *testing.T) {
	s := &script{answers: map[string]string{"GET /lora-adapters": `[{"id":0,"path":"a.gguf"}]`, "POST /completion": events(`{"tokens_predicted":1}`)}}
	a, _ := open(t, "llama", s)
	if _, err := a.stream(t.Context(), &call{output: 1}, func(int) {}); err != nil {
		t.Fatal(err)
	}
	if got := parsed(t, s.bodies["POST /completion"]).(map[string]any)["lora"]; !cmp.Equal(got, []any{map[string]any{"id": 0., "scale": 0.}}) {
		t.Errorf("lora %v", got)
	}
	if _, err := a.stream(t.Context(), &call{adapter: "0", output: 1}, func(int) {}); err != nil {
		t.Error(err)
	}
	if _, err := a.stream(t.Context(), &call{adapter: "nope", output: 1}, func(int) {}); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "a") {
		t.Errorf("error %v", err)
	}
}

func TestAborted(t *testing.T) {
	s := &script{answers: map[string]string{
		"GET /v1/models": twoModels, "GET /chorale/v1/server": "{}", "GET /chorale/v1/model": "{}",
		"POST /generate":                   events(`{"meta_info":{"completion_tokens":1,"finish_reason":{"type":"abort","message":"why"}}}`),
		"POST /chorale/v1/generate:stream": `{"result":{"finish":{"reason":"FINISH_REASON_ABORT","message":"why"}}}`,
	}}
	for _, name := range []string{"sglang", "chorale"} {
		a, _ := open(t, name, s)
		if _, err := a.stream(t.Context(), &call{text: "x", output: 1}, func(int) {}); err == nil || !strings.Contains(err.Error(), "why") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// sglangServer answers each request with the tokens that it asks for.
func sglangServer(t *testing.T, log func(lora string)) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/models":
			io.WriteString(w, `{"data":[{"id":"m"},{"id":"a","parent":"m"},{"id":"b","parent":"m"}]}`)
		case "/generate":
			var in struct {
				IDs  []int32 `json:"input_ids"`
				Lora string  `json:"lora_path"`
				P    struct {
					N int `json:"max_new_tokens"`
				} `json:"sampling_params"`
			}
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
				t.Error(err)
			}
			log(in.Lora)
			if in.Lora == "broken" {
				http.Error(w, `{"error":{"message":"it is broken"}}`, http.StatusBadRequest)
				return
			}
			for i := range in.P.N {
				fmt.Fprintf(w, "data: {\"meta_info\":{\"prompt_tokens\":%d,\"completion_tokens\":%d}}\n\n", len(in.IDs), i+1)
				http.NewResponseController(w).Flush()
			}
			io.WriteString(w, "data: [DONE]\n\n")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestMeasureAlternates runs two targets in two modes and looks at the order.
func TestMeasureAlternates(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(target string) func(string) {
		return func(lora string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, target+":"+lora)
		}
	}
	c := sample()
	c.Targets = []TargetSpec{{Name: "p", URL: sglangServer(t, note("p")), API: "sglang"}, {Name: "q", URL: sglangServer(t, note("q")), API: "sglang"}}
	c.Modes, c.Clients, c.Requests, c.Repeat, c.Warmup = []Mode{ModeNone, ModeSame}, 1, 1, 3, 1
	c.Raw, c.MaxDuration = true, time.Minute
	res, err := Measure(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	forth := []string{"p:", "p:a", "q:", "q:a"}
	back := []string{"q:a", "q:", "p:a", "p:"}
	if d := cmp.Diff(slices.Concat(forth, forth, back, forth), order); d != "" {
		t.Error(d)
	}
	if len(res.Cells) != 4 || len(res.Ratios) != 4 || res.Stopped != "" || res.Config.Vocab != defaultVocab {
		t.Errorf("%d cells, %d ratios, stopped %q, vocab %d", len(res.Cells), len(res.Ratios), res.Stopped, res.Config.Vocab)
	}
	for i := range res.Cells {
		cell := &res.Cells[i]
		if len(cell.Rounds) != 3 || cell.Pooled.E2E.N != 3 || cell.Pooled.Short != 0 || len(cell.Rounds[0].Samples) != 1 {
			t.Errorf("%s %s: %+v", cell.Target, cell.Mode, cell.Pooled)
		}
	}
	if _, err := json.Marshal(res); err != nil {
		t.Error(err)
	}
}

func TestMeasureFailures(t *testing.T) {
	url := sglangServer(t, func(string) {})
	c := sample()
	c.Targets = []TargetSpec{{Name: "p", URL: url, API: "sglang", Adapters: []string{"broken"}}}
	c.Modes = []Mode{ModeSame}
	res, err := Measure(t.Context(), c)
	if !errors.Is(err, ErrAllFailed) || !strings.Contains(err.Error(), "it is broken") || res == nil {
		t.Errorf("error %v", err)
	}
	c.Warmup = 1
	if _, err = Measure(t.Context(), c); err == nil || !strings.Contains(err.Error(), "warm-up") {
		t.Errorf("error %v", err)
	}
	c.Targets[0].Adapters = []string{"broken", "a"}
	c.Modes, c.Warmup = []Mode{ModeEach}, 0
	if res, err = Measure(t.Context(), c); err != nil || len(res.Cells[0].Errors) != 1 || res.Cells[0].Pooled.Errors != 6 {
		t.Errorf("error %v", err)
	}
	c.Targets = []TargetSpec{{Name: "p", URL: "http://127.0.0.1:1", API: "sglang"}}
	if _, err = Measure(t.Context(), c); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("error %v", err)
	}
	if _, err = Measure(t.Context(), Config{}); !errors.Is(err, ErrConfig) {
		t.Errorf("error %v", err)
	}
	none := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"data":[{"id":"m"}]}`) }))
	defer none.Close()
	c.Targets = []TargetSpec{{Name: "p", URL: none.URL, API: "openai"}}
	if _, err = Measure(t.Context(), c); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "no adapter") {
		t.Errorf("error %v", err)
	}
}

// TestMeasureIsCut: a server that never answers, until the measurement is
// interrupted or its time is over; the result says so.
func TestMeasureIsCut(t *testing.T) {
	for _, limit := range []time.Duration{0, 100 * time.Millisecond} {
		ctx, cancel := context.WithCancel(t.Context())
		var begun atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/v1/models":
				io.WriteString(w, `{"data":[{"id":"m"}]}`)
			case "/v1/completions":
				io.Copy(io.Discard, r.Body)
				if begun.Add(1) == 4 && limit == 0 {
					cancel()
				}
				<-r.Context().Done()
			default:
				http.NotFound(w, r)
			}
		}))
		c := sample()
		c.Targets, c.MaxDuration = []TargetSpec{{Name: "p", URL: srv.URL, API: "openai"}}, limit
		res, err := Measure(ctx, c)
		if limit > 0 {
			// On a busy machine the time may be over before the first request.
			if err == nil {
				t.Error("no error")
			}
		} else if !errors.Is(err, ErrAllFailed) || res == nil || res.Stopped != "an interrupt" || res.Cells[0].Pooled.Cut != 4 || !res.Cells[0].Rounds[0].Cut {
			t.Errorf("%+v, %v", res, err)
		}
		srv.Close()
		cancel()
	}
}
