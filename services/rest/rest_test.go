package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/proto/gen/openapi"
	"chorale/router"
	"chorale/services/auth"
	"chorale/services/inference"
	"chorale/services/rest/facetest"
	"chorale/services/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a whole server over a scripted router.
type server struct {
	*httptest.Server
	t        *testing.T
	router   *facetest.Router
	adapters *facetest.Adapters
}

// serve starts a server of base model "tiny" with adapters "a" and "b:c".
func serve(t *testing.T, change ...func(o *Options)) *server {
	t.Helper()
	r := facetest.New("a", "b:c", "/abs/path")
	s := &server{t: t, router: r, adapters: &facetest.Adapters{Router: r}}
	o := Options{
		Router: r, Tokens: facetest.Tokens{}, Adapters: s.adapters, Version: "1.2.3", Log: zap.NewNop(), OpenAPI: openapi.Document,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "chorale_up 1\n") }),
	}
	for _, c := range change {
		c(&o)
	}
	gs, err := rpc.NewServer(rpc.Options{Keys: o.Keys})
	if err != nil {
		t.Fatal(err)
	}
	inference.Register(gs, r, facetest.Tokens{})
	done := make(chan error, 1)
	go func() { done <- gs.ServeLoop() }()
	conn, err := gs.Loop()
	if err != nil {
		t.Fatal(err)
	}
	o.Inference = choralev1.NewInferenceServiceClient(conn)
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(h)
	t.Cleanup(func() {
		s.Close()
		s.Client().CloseIdleConnections()
		_ = conn.Close()
		gs.Stop()
		<-done
		if n := r.Open(); n != 0 {
			t.Errorf("%d handles were left open", n)
		}
	})
	return s
}

// call sends a request and gives status, headers and body.
func (s *server) call(method, path, body string, header ...string) (int, http.Header, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func (s *server) post(path, body string) (int, string) {
	s.t.Helper()
	code, _, out := s.call(http.MethodPost, path, body)
	return code, out
}

// volatile are the parts of answers that vary.
var volatile = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"e2e_latency":[0-9.e-]+`), `"e2e_latency":1`},
	{regexp.MustCompile(`"created":[0-9]+`), `"created":1`},
	{regexp.MustCompile(`"id":"(cmpl|chatcmpl)-[a-z0-9]+"`), `"id":"$1-x"`},
	{regexp.MustCompile(`"id":"[a-z0-9]{32}"`), `"id":"x"`},
	{regexp.MustCompile(`,"weight_version":"default"`), ``},
}

func stable(s string) string {
	for _, v := range volatile {
		s = v.re.ReplaceAllString(s, v.with)
	}
	return strings.TrimSpace(s)
}

// expect posts body and compares the answer.
func (s *server) expect(path, body string, wantCode int, want string) {
	s.t.Helper()
	code, got := s.post(path, body)
	if code != wantCode {
		s.t.Errorf("POST %s %s: status %d, want %d: %s", path, body, code, wantCode, got)
		return
	}
	if diff := cmp.Diff(want, stable(got)); diff != "" {
		s.t.Errorf("POST %s %s:\n%s", path, body, diff)
	}
}

// events gives the data of an SSE answer's events.
func (s *server) events(path, body string) []string {
	s.t.Helper()
	code, h, out := s.call(http.MethodPost, path, body)
	if code != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/event-stream") {
		s.t.Fatalf("POST %s: %d %s: %s", path, code, h.Get("Content-Type"), out)
	}
	var data []string
	for ev := range strings.SplitSeq(strings.TrimSuffix(out, "\n\n"), "\n\n") {
		d, ok := strings.CutPrefix(ev, "data: ")
		if !ok || strings.Contains(d, "\n") {
			s.t.Fatalf("not an event: %q", ev)
		}
		data = append(data, stable(d))
	}
	return data
}

func decodeJSON(t *testing.T, s string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %q", err, s)
	}
	return v
}

func TestRoutesAndMethods(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/nope", 404},
		{"GET", "/", 200}, // sent on to /docs
		{"GET", "/docs", 200},
		{"HEAD", "/docs/page.js", 200},
		{"GET", "/docs/page.css", 200},
		{"GET", "/docs/", 404},
		{"GET", "/docs/docspage.go", 404},
		{"POST", "/docs", 405},
		{"GET", "/v1/models/", 404},
		{"POST", "/chorale/v1/nope", 404},
		{"GET", "/generate", 405},
		{"DELETE", "/v1/completions", 405},
		{"PUT", "/v1/chat/completions", 405},
		{"OPTIONS", "/v1/chat/completions", 405},
		{"GET", "/chorale/v1/generate", 405},
		{"PUT", "/chorale/v1/generate", 405},
		{"GET", "/health", 200},
		{"HEAD", "/health", 200},
		{"GET", "/health_generate", 200},
		{"GET", "/metrics", 200},
		{"GET", "/openapi.json", 200},
		{"GET", "/ping", 200},
		{"POST", "/ping", 200},
		{"GET", "/version", 200},
		{"GET", "/flush_cache", 200},
		{"POST", "/flush_cache", 200},
		{"GET", "/model_info", 200},
		{"GET", "/get_model_info", 200},
		{"GET", "/server_info", 200},
		{"GET", "/get_server_info", 200},
		{"GET", "/v1/models", 200},
		{"GET", "/chorale/v1/model", 200},
		{"GET", "/chorale/v1/server", 200},
	} {
		code, h, body := s.call(tt.method, tt.path, "")
		if code != tt.code {
			t.Errorf("%s %s = %d, want %d: %s", tt.method, tt.path, code, tt.code, body)
		}
		if h.Get("X-Request-Id") == "" {
			t.Errorf("%s %s: no request id", tt.method, tt.path)
		}
		if code >= 400 && tt.method != "HEAD" {
			decodeJSON(t, body)
		}
		if h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: CORS must be off", tt.method, tt.path)
		}
	}
}

func TestRequestID(t *testing.T) {
	s := serve(t)
	_, h, _ := s.call("GET", "/health", "", "X-Request-Id", "mine-1")
	if got := h.Get("X-Request-Id"); got != "mine-1" {
		t.Errorf("id = %q", got)
	}
	_, h, _ = s.call("GET", "/health", "", "X-Request-Id", "has blanks")
	if got := h.Get("X-Request-Id"); got == "has blanks" || got == "" {
		t.Errorf("id = %q", got)
	}
}

// TestEncodedBody: a compressed body is refused by name, on every face.
func TestEncodedBody(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/generate", "/v1/completions", "/v1/load_lora_adapter", "/chorale/v1/generate"} {
		for enc, refused := range map[string]bool{"gzip": true, "br": true, "identity": false} {
			code, _, body := s.call("POST", path, "{}", "Content-Encoding", enc)
			if named := strings.Contains(body, "Content-Encoding"); named != refused || refused && code != 400 {
				t.Errorf("%s %s = %d %s", path, enc, code, body)
			}
		}
	}
}

func TestBodyTooLarge(t *testing.T) {
	s := serve(t, func(o *Options) { o.MaxBody = 100 })
	big := `{"text":"` + strings.Repeat("x", 200) + `"}`
	for _, path := range []string{"/generate", "/v1/completions", "/v1/chat/completions", "/v1/load_lora_adapter", "/load_lora_adapter", "/tokenize", "/chorale/v1/generate"} {
		if code, body := s.post(path, big); code != 413 || !strings.Contains(body, "100 bytes") {
			t.Errorf("%s = %d %s", path, code, body)
		}
	}
}

func TestNotJSON(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/generate", "/v1/completions", "/v1/chat/completions", "/v1/load_lora_adapter", "/load_lora_adapter", "/unload_lora_adapter", "/v1/unload_lora_adapter", "/tokenize", "/detokenize", "/abort_request", "/chorale/v1/generate"} {
		for _, body := range []string{"hello", `{"text":`, `[]`, `{"a":1}}`, "\xff\xfe"} {
			if code, out := s.post(path, body); code != 400 || len(out) == 0 {
				t.Errorf("%s with %q = %d %s", path, body, code, out)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	s := serve(t, func(o *Options) { o.Keys = auth.NewKeys("api", "adm") })
	load := `{"lora_name":"n","lora_path":"/p"}`
	gen := `{"text":"x"}`
	for _, tt := range []struct {
		method, path, body, key string
		code                    int
	}{
		{"GET", "/health", "", "", 200},
		{"GET", "/metrics", "", "", 200},
		{"GET", "/health_generate", "", "", 200},
		{"GET", "/openapi.json", "", "", 200},
		{"POST", "/generate", gen, "", 401},
		{"POST", "/generate", gen, "wrong", 401},
		{"POST", "/generate", gen, "api", 200},
		{"POST", "/generate", gen, "adm", 200},
		{"GET", "/v1/models", "", "", 401},
		{"GET", "/v1/models/a", "", "api", 200},
		{"POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}]}`, "", 401},
		{"POST", "/load_lora_adapter", load, "", 401},
		{"POST", "/load_lora_adapter", load, "api", 403},
		{"POST", "/load_lora_adapter", load, "adm", 200},
		{"POST", "/unload_lora_adapter", load, "api", 403},
		{"POST", "/v1/load_lora_adapter", load, "api", 403},
		{"POST", "/v1/unload_lora_adapter", load, "api", 403},
		{"POST", "/abort_request", `{"rid":"x"}`, "api", 403},
		{"POST", "/flush_cache", "", "api", 403},
		{"GET", "/chorale/v1/model", "", "", 401},
		{"GET", "/chorale/v1/model", "", "api", 200},
		{"GET", "/chorale/v1/adapters", "", "api", 403},
		{"POST", "/chorale/v1/adapters:validate", "{}", "api", 403},
		{"POST", "/chorale/v1/generate", `{"prompts":[{"text":"x"}]}`, "api", 200},
	} {
		header := []string{}
		if tt.key != "" {
			header = []string{"Authorization", "Bearer " + tt.key}
		}
		code, h, body := s.call(tt.method, tt.path, tt.body, header...)
		if code != tt.code {
			t.Errorf("%s %s with key %q = %d, want %d: %s", tt.method, tt.path, tt.key, code, tt.code, body)
		}
		if code == 401 && h.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s: WWW-Authenticate = %q", tt.path, h.Get("WWW-Authenticate"))
		}
	}
}

func TestOptions(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("New must want a router")
	}
}

func TestPanic(t *testing.T) {
	o := Options{
		Router: facetest.New(), Tokens: facetest.Tokens{}, Inference: choralev1.NewInferenceServiceClient(nil),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "" {
				_, _ = io.WriteString(w, "half")
			}
			panic("boom")
		}),
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	id := resp.Header.Get("X-Request-Id")
	if resp.StatusCode != 500 || !strings.Contains(string(b), "internal error, id "+id) || strings.Contains(string(b), "boom") {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	resp, err = srv.Client().Get(srv.URL + "/metrics?x")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("half an answer must not look whole")
	}
	srv.Client().CloseIdleConnections()
}

// TestDisconnect lets a client go away in the middle of every face's stream:
// the handles must be closed.
func TestDisconnect(t *testing.T) {
	for path, body := range map[string]string{
		"/generate":                   `{"text":["x","y"],"stream":true}`,
		"/v1/completions":             `{"prompt":"x","stream":true}`,
		"/v1/chat/completions":        `{"messages":[{"role":"user","content":"x"}],"stream":true}`,
		"/chorale/v1/generate:stream": `{"request":{"prompts":[{"text":"x"},{"text":"y"}]}}`,
	} {
		t.Run(path, func(t *testing.T) {
			s := serve(t)
			s.router.Hang = true
			s.router.Script = facetest.Endless
			resp, err := s.Client().Post(s.URL+path, "application/json", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if s.router.Open() == 0 {
				t.Error("nothing runs")
			}
			resp.Body.Close()
			s.router.WaitClosed(t)
		})
	}
}

// TestDisconnectWhole is the same for answers that come at once.
func TestDisconnectWhole(t *testing.T) {
	s := serve(t)
	s.router.Hang = true
	s.router.Script = facetest.Endless
	for _, path := range []string{"/generate", "/chorale/v1/generate"} {
		ctx, cancel := context.WithCancel(t.Context())
		body := `{"text":"x","prompts":[{"text":"x"}]}`
		if path != "/generate" {
			body = `{"prompts":[{"text":"x"}]}`
		}
		req, _ := http.NewRequestWithContext(ctx, "POST", s.URL+path, strings.NewReader(body))
		done := make(chan struct{})
		go func() {
			defer close(done)
			if resp, err := s.Client().Do(req); err == nil {
				resp.Body.Close()
			}
		}()
		s.router.WaitOpen(t)
		cancel()
		<-done
		s.router.WaitClosed(t)
	}
}

// TestClientThatDoesNotRead is cut off by the write timeout, and its answer
// aborted.
func TestClientThatDoesNotRead(t *testing.T) {
	s := serve(t, func(o *Options) { o.WriteTimeout = 50 * time.Millisecond })
	long := strings.Repeat("x", 1<<16)
	s.router.Script = func(*router.Request, []int32) []router.Event {
		out := make([]router.Event, 1000)
		for i := range out {
			out[i] = router.Event{Text: long, IDs: []int32{1}}
		}
		return out
	}
	s.router.Hang = true
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"prompt":"x","stream":true}`
	if _, err := fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		t.Fatal(err)
	}
	s.router.WaitOpen(t)
	s.router.WaitClosed(t)
}

// TestLongStream lasts several times as long as reads and writes may take.
func TestLongStream(t *testing.T) {
	s := serve(t, func(o *Options) { o.WriteTimeout, o.ReadTimeout = 50*time.Millisecond, 50*time.Millisecond })
	s.router.Pause = func() { time.Sleep(120 * time.Millisecond) }
	got := s.events("/v1/completions", `{"prompt":"x","stream":true}`)
	if len(got) != 4 || got[3] != "[DONE]" {
		t.Error(got)
	}
}

// TestAbsurdBodies must be refused without harm.
func TestAbsurdBodies(t *testing.T) {
	s := serve(t)
	deep := strings.Repeat("[", 1<<20)
	for _, path := range []string{"/generate", "/v1/completions", "/v1/chat/completions", "/chorale/v1/generate", "/tokenize"} {
		for name, body := range map[string]string{
			"deep":     `{"text":` + deep + `}`,
			"balanced": `{"text":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `,"prompt":1,"messages":1,"prompts":1}`,
			"many":     `{"text":["x"` + strings.Repeat(`,"x"`, 5000) + `],"prompt":["x"` + strings.Repeat(`,"x"`, 5000) + `],"messages":1,"prompts":1}`,
		} {
			if code, out := s.post(path, body); code != 400 {
				t.Errorf("%s %s = %d %.200s", path, name, code, out)
			}
		}
	}
}
