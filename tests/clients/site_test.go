//go:build clients

package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chorale/internal/testkit"
)

const (
	served   = "smollm2"
	userKey  = "user-key"
	adminKey = "admin-key"
	// startLimit is how long a busy machine may take to be ready.
	startLimit = 90 * time.Second
	// textPrompt is continued for textTokens tokens, whatever end tokens come.
	textPrompt = "Once upon a time"
	textTokens = 8
	// shortTokens of a chat are enough to tell the voices apart.
	shortTokens = 12
)

// voices are the base model and the adapters that are loaded from the start.
var voices = []string{served, "json", "sql", "pirate", "label"}

// said is what a voice must answer.
type said struct {
	Text             string `json:"text"`
	PromptTokens     int    `json:"prompt_tokens"`
	CompletionTokens int    `json:"completion_tokens"`
}

// expectation is what the scripts read.
type expectation struct {
	Prompt     string          `json:"prompt"`
	TextPrompt string          `json:"text_prompt"`
	TextTokens int             `json:"text_tokens"`
	Voices     []string        `json:"voices"`
	Chat       map[string]said `json:"chat"`
	Short      map[string]said `json:"short"` // the beginning of Chat's, ShortTokens long
	Text       map[string]said `json:"text"`
	// Most clients need no more of an answer than tells voices apart.
	ShortTokens int    `json:"short_tokens"`
	Late        string `json:"late"` // of the adapter that clients load
}

// site is the one server.
type site struct {
	t          testing.TB
	http, grpc string
	env        []string // for the scripts
	expect     expectation
}

// start serves the base and four adapters, with keys, and learns what they say.
func start(t testing.TB) *site {
	t.Helper()
	adapters := filepath.Join(testkit.Root(), "examples", "adapters")
	args := []string{
		"serve", "--model-path", testkit.Model(t), "--served-model-name", served, "--context-length", "2048", "--max-total-tokens", "32768",
		"--log-format", "json", "--port", "0", "--data-dir", filepath.Join(t.TempDir(), "data"), "--adapter-root", adapters,
		"--max-lora-rank", "64", "--lora-target-modules", "all", "--api-key", userKey, "--admin-api-key", adminKey, "--lora-paths",
	}
	for _, v := range voices[1:] {
		args = append(args, v+"="+filepath.Join(adapters, v))
	}
	p := testkit.Start(t, testkit.Options{Name: "serve", Args: args})
	ready := p.Message(t, "serving", startLimit)
	s := &site{t: t, http: ready["http"].(string), grpc: ready["grpc"].(string)}
	for deadline := time.Now().Add(startLimit); ; time.Sleep(20 * time.Millisecond) {
		if code, _ := s.call("GET", "/health", nil); code == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server is not ready")
		}
	}
	s.learn()
	file := filepath.Join(t.TempDir(), "expect.json")
	raw, err := json.Marshal(s.expect)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = append(os.Environ(),
		"CHORALE_HTTP="+s.http, "CHORALE_GRPC="+s.grpc, "CHORALE_KEY="+userKey, "CHORALE_ADMIN_KEY="+adminKey, "CHORALE_EXPECT="+file, "CHORALE_SOURCE=date",
		"PYTHONPATH="+filepath.Join(testkit.Root(), ".cache", "clients", "python-proto"),
		// What was compiled is kept, whatever the environment says: importing is most of the time.
		"PYTHONDONTWRITEBYTECODE=", "PYTHONPYCACHEPREFIX="+filepath.Join(testkit.Root(), ".cache", "clients", "compiled"),
		// Nothing is fetched while the tests run.
		"HF_HUB_OFFLINE=1", "HF_DATASETS_OFFLINE=1", "LITELLM_LOCAL_MODEL_COST_MAP=True", "LANGSMITH_TRACING=false", "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1",
	)
	return s
}

// call makes a call with the admin key.
func (s *site) call(method, path string, body any) (int, []byte) {
	s.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(method, s.http+path, bytes.NewReader(raw))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, out
}

// learn asks each voice alone, one call after the other, and holds what was
// trained against golden.json.
func (s *site) learn() {
	s.t.Helper()
	raw, err := os.ReadFile("golden.json")
	if err != nil {
		s.t.Fatal(err)
	}
	var golden struct {
		Prompt, Late string
		Answers      map[string]string
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		s.t.Fatal(err)
	}
	s.expect = expectation{
		Prompt: golden.Prompt, TextPrompt: textPrompt, TextTokens: textTokens, Voices: voices, Late: golden.Late,
		Chat: map[string]said{}, Short: map[string]said{}, ShortTokens: shortTokens, Text: map[string]said{},
	}
	seen := map[string]string{}
	for _, v := range voices {
		chat := map[string]any{"chat": map[string]any{"messages": []map[string]string{{"role": "user", "content": golden.Prompt}}}}
		a := s.generate(v, chat, map[string]any{"temperature": 0, "max_tokens": 96})
		if want, ok := golden.Answers[v]; ok && a.Text != want {
			s.t.Fatalf("%s says %q, the golden is %q", v, a.Text, want)
		}
		s.expect.Chat[v] = a
		short := s.generate(v, chat, map[string]any{"temperature": 0, "max_tokens": shortTokens})
		s.expect.Short[v] = short
		s.expect.Text[v] = s.generate(v, map[string]any{"text": textPrompt}, map[string]any{"temperature": 0, "max_tokens": textTokens, "ignore_eos": true})
		if other, ok := seen[short.Text]; ok || !strings.HasPrefix(a.Text, short.Text) {
			s.t.Fatalf("%s says %q, in short %q, and %q says so, too", v, a.Text, short.Text, other)
		}
		seen[short.Text] = v
	}
}

// generate asks over the native face.
func (s *site) generate(voice string, prompt, sampling map[string]any) said {
	s.t.Helper()
	if voice == served {
		voice = ""
	}
	code, raw := s.call("POST", "/chorale/v1/generate", map[string]any{"prompts": []any{prompt}, "adapters": []string{voice}, "sampling": sampling})
	var out struct {
		Generations []struct {
			Text  string
			Usage struct{ PromptTokens, CompletionTokens int }
		}
	}
	if err := json.Unmarshal(raw, &out); code != 200 || err != nil || len(out.Generations) != 1 {
		s.t.Fatalf("%s: %d %s", voice, code, raw)
	}
	g := out.Generations[0]
	return said{g.Text, g.Usage.PromptTokens, g.Usage.CompletionTokens}
}

// aborted is how many answers were aborted so far.
func (s *site) aborted() (n int) {
	s.t.Helper()
	_, raw := s.call("GET", "/metrics", nil)
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "chorale_answers_total{") && strings.Contains(line, `reason="abort"`) {
			var k int
			if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &k); err != nil {
				s.t.Fatalf("%q: %v", line, err)
			}
			n += k
		}
	}
	return n
}

// idle waits until nothing runs: what a client gave up must not go on.
func (s *site) idle(limit time.Duration) {
	s.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		_, raw := s.call("GET", "/chorale/v1/server", nil)
		var info struct {
			Running, Queued int
			WorkerGroups    []struct{ Running, Waiting int }
		}
		if err := json.Unmarshal(raw, &info); err != nil {
			s.t.Fatalf("%v: %s", err, raw)
		}
		n := info.Running + info.Queued
		for _, g := range info.WorkerGroups {
			n += g.Running + g.Waiting
		}
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%v after the last client something still runs: %s", limit, raw)
		}
	}
}
