package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	choralev1 "chorale/proto/gen/chorale/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server and a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	c, err := New(Options{Server: s.URL, APIKey: "k", AdminKey: "a"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.CloseIdleConnections()
		s.Close()
	})
	return c
}

func TestNew(t *testing.T) {
	for server, want := range map[string]string{
		"http://127.0.0.1:30000":  "http://127.0.0.1:30000",
		"http://h/base/":          "http://h/base",
		"localhost:30000":         "http://localhost:30000",
		"https://example.org":     "https://example.org",
		"":                        "",
		"ftp://h":                 "",
		"http://":                 "",
		"http://h?q=1":            "",
		"http://h:port":           "",
		"http://[::1]:30000/a/b/": "http://[::1]:30000/a/b",
	} {
		c, err := New(Options{Server: server})
		if want == "" {
			if !errors.Is(err, ErrServer) {
				t.Errorf("%q: error %v, want ErrServer", server, err)
			}
			continue
		}
		if err != nil || c.URL() != want {
			t.Errorf("%q: %v, %v, want %s", server, c, err, want)
		}
	}
}

func TestMessage(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":{"message":"m","type":"t","code":404}}`:     "m",
		`{"code":5,"message":"no such adapter","details":[]}`: "no such adapter",
		`{"error":"plain"}`:              "plain",
		`{"detail":"Not Found"}`:         "Not Found",
		`{"detail":[{"msg":"x"}]}`:       `[{"msg":"x"}]`,
		`{"success":false,"error":null}`: `{"success":false,"error":null}`,
		"  502 Bad Gateway\n":            "502 Bad Gateway",
		"":                               "",
		"\xff\xfe":                       "�",
		strings.Repeat("é", 600):         strings.Repeat("é", 500) + "…",
	} {
		if got := message([]byte(body)); got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
}

func TestRefusal(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"code":5,"message":"adapter \"x\" has never been loaded"}`)
	})
	_, err := c.Unload(t.Context(), &choralev1.UnloadAdapterRequest{Name: "x"})
	var refused *StatusError
	if !errors.As(err, &refused) {
		t.Fatalf("error %v", err)
	}
	want := &StatusError{Method: "DELETE", Path: "/chorale/v1/adapters/x", Status: 404, Message: `adapter "x" has never been loaded`}
	if d := cmp.Diff(want, refused); d != "" {
		t.Error(d)
	}
	if got := err.Error(); got != `adapter "x" has never been loaded (HTTP 404 on DELETE /chorale/v1/adapters/x)` {
		t.Error(got)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c, err := New(Options{Server: addr})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Server(t.Context())
	var u *UnreachableError
	if !errors.As(err, &u) || u.Server != "http://"+addr || !errors.Is(err, ErrUnreachable) {
		t.Errorf("error %v", err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "data: {}\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	err := c.Events(ctx, "/x", nil, func([]byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if _, err := c.Server(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestEvents(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		want []string
		err  string
	}{
		"events":           {body: "data: {\"a\":1}\n\ndata: {\"a\":2}\n\ndata: [DONE]\n\n", want: []string{`{"a":1}`, `{"a":2}`}},
		"crlf, no blank":   {body: "data:{\"a\":1}\r\n\r\n: comment\r\nevent: x\r\n\r\ndata: 2\r\n\r\n", want: []string{`{"a":1}`, "2"}},
		"several lines":    {body: "data: a\ndata: b\n\n", want: []string{"a\nb"}},
		"no blank at end":  {body: "data: a", want: []string{"a"}},
		"empty":            {body: ""},
		"error":            {body: "data: 1\n\ndata: {\"error\":{\"message\":\"full\",\"code\":503}}\n\n", want: []string{"1"}, err: "full"},
		"error as text":    {body: "data: {\"error\":\"bad\"}\n\n", err: "bad"},
		"no error is null": {body: "data: {\"error\":null}\n\n", want: []string{`{"error":null}`}},
		"too long":         {body: "data: " + strings.Repeat("x", maxLine) + "\n\n", err: "token too long"},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, tt.body) })
			var got []string
			err := c.Events(t.Context(), "/x", map[string]int{"n": 1}, func(b []byte) error {
				got = append(got, string(b))
				return nil
			})
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestBrokenOff(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "data: 1\n\n")
	})
	err := c.Events(t.Context(), "/x", nil, func([]byte) error { return nil })
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want io.ErrUnexpectedEOF", err)
	}
}

func TestGenerate(t *testing.T) {
	var body map[string]any
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/chorale/v1/generate:stream" || r.Header.Get("Authorization") != "Bearer k" {
			t.Errorf("%s %s", r.URL, r.Header)
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		io.WriteString(w, `{"result":{"text":"a","tokenIds":[1],"from_a_newer_server":1}}`+"\n\n"+`{"result":{"text":"b","finish":{"reason":"FINISH_REASON_STOP"}}}`+"\n")
	})
	text := ""
	err := c.Generate(t.Context(), &choralev1.GenerateRequest{Adapters: []string{"x"}}, func(p *choralev1.GenerateStreamResponse) error {
		text += p.GetText()
		return nil
	})
	if err != nil || text != "ab" {
		t.Errorf("%q, %v", text, err)
	}
	if d := cmp.Diff(map[string]any{"request": map[string]any{"adapters": []any{"x"}}}, body); d != "" {
		t.Error(d)
	}
}

func TestGenerateErrors(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":{"code":14,"message":"worker lost"}}`: "worker lost",
		`{"result":{"text":1}}`:                         ErrAnswer.Error(),
		`{`:                                             ErrAnswer.Error(),
		`{}`:                                            ErrAnswer.Error(),
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body+"\n") })
		err := c.Generate(t.Context(), &choralev1.GenerateRequest{}, func(*choralev1.GenerateStreamResponse) error { return nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", body, err, want)
		}
	}
}

func TestNative(t *testing.T) {
	var seen []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen = append(seen, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization")+" "+string(b)))
		switch {
		case r.URL.Path == "/v1/models":
			io.WriteString(w, `{"data":[{"id":"base","parent":null},{"id":"a","parent":"base"}]}`)
		case r.Method == "GET" && r.URL.Path == adaptersPath && r.URL.Query().Get("page_token") == "":
			io.WriteString(w, `{"adapters":[{"name":"a"}],"nextPageToken":"t","revision":"1"}`)
		case r.Method == "GET" && r.URL.Path == adaptersPath:
			io.WriteString(w, `{"adapters":[{"name":"b"}],"revision":"2"}`)
		default:
			io.WriteString(w, `{}`)
		}
	})
	ctx := t.Context()
	names, err := c.Voices(ctx)
	if err != nil || !cmp.Equal(names, []string{"a"}) {
		t.Errorf("voices %v, %v", names, err)
	}
	list, err := c.Adapters(ctx)
	if err != nil || len(list.GetAdapters()) != 2 || list.GetRevision() != 2 {
		t.Errorf("adapters %v, %v", list, err)
	}
	if _, err := c.Load(ctx, &choralev1.LoadAdapterRequest{Name: "n", Source: "s"}); err != nil {
		t.Error(err)
	}
	if _, err := c.Unload(ctx, &choralev1.UnloadAdapterRequest{Name: "a b/c?d%e", Force: true}); err != nil {
		t.Error(err)
	}
	if _, err := c.Validate(ctx, "s"); err != nil {
		t.Error(err)
	}
	if _, err := c.Model(ctx); err != nil {
		t.Error(err)
	}
	want := []string{
		"GET /v1/models Bearer k",
		"GET /chorale/v1/adapters?page_size=1000 Bearer a",
		"GET /chorale/v1/adapters?page_size=1000&page_token=t Bearer a",
		`POST /chorale/v1/adapters Bearer a {"name":"n","source":"s"}`,
		"DELETE /chorale/v1/adapters/a%20b/c%3Fd%25e?force=true Bearer a",
		`POST /chorale/v1/adapters:validate Bearer a {"source":"s"}`,
		"GET /chorale/v1/model Bearer k",
	}
	for i := range seen {
		seen[i] = strings.ReplaceAll(seen[i], ", \"", ",\"")
		seen[i] = strings.ReplaceAll(seen[i], `": "`, `":"`)
	}
	if d := cmp.Diff(want, seen); d != "" {
		t.Error(d)
	}
}

// FuzzAnswer feeds foreign bytes to everything that reads answers.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"data: {\"error\":{\"message\":1}}\n\n", `{"error":{"error":{}}}`, `{"result":{"text":"x"}}`, "data:\n\n", "data: [DONE]", `{"detail":[]}`,
		`{"result":{"usage":{"promptTokens":1e9}}}`, "\x00", `{"error":0}`,
	} {
		f.Add([]byte(s))
	}
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
	f.Cleanup(s.Close)
	c, err := New(Options{Server: s.URL})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.CloseIdleConnections)
	f.Fuzz(func(t *testing.T, b []byte) {
		body = b
		if m := message(b); len([]rune(m)) > len(b)+maxShown {
			t.Errorf("message of %d runes from %d bytes", len([]rune(m)), len(b))
		}
		// Whatever comes, an answer or an error, no panic.
		_ = c.Events(t.Context(), "/", nil, func([]byte) error { return nil })
		_ = c.Generate(t.Context(), &choralev1.GenerateRequest{}, func(*choralev1.GenerateStreamResponse) error { return nil })
		_, _ = c.Voices(t.Context())
		_, _ = c.Server(t.Context())
	})
}
