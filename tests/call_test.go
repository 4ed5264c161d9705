package tests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// callLimit bounds a call on a busy machine.
const callLimit = 60 * time.Second

type object = map[string]any

// web speaks to the sites; connections are kept.
var web = &http.Client{Timeout: callLimit, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// do makes a call; body is JSON text, or a value that becomes it. Status 0 is
// a server that cannot be reached.
func (s *site) do(method, path string, body any) (int, []byte, http.Header) {
	s.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, s.http+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := web.Do(req)
	if err != nil {
		return 0, []byte(err.Error()), nil
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, []byte(err.Error()), nil
	}
	return resp.StatusCode, out, resp.Header
}

func (s *site) get(path string) (int, []byte) {
	s.t.Helper()
	code, body, _ := s.do("GET", path, nil)
	return code, body
}

func (s *site) post(path string, body any) (int, []byte) {
	s.t.Helper()
	code, out, _ := s.do("POST", path, body)
	return code, out
}

// ask posts and decodes an answer with status 200 into out.
func (s *site) ask(path string, body, out any) {
	s.t.Helper()
	code, raw := s.post(path, body)
	if code != 200 {
		s.t.Fatalf("POST %s %s = %d %s", path, text(body), code, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		s.t.Fatalf("POST %s: %v in %s", path, err, raw)
	}
}

// refused posts what must be refused with a status and words.
func (s *site) refused(path string, body any, code int, words ...string) {
	s.t.Helper()
	got, raw := s.post(path, body)
	if got != code {
		s.t.Errorf("POST %s %s = %d %s, want %d", path, text(body), got, raw, code)
		return
	}
	// What JSON escapes is compared unescaped.
	var v any
	said := string(raw)
	if json.Unmarshal(raw, &v) == nil {
		said = fmt.Sprint(v)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			s.t.Errorf("POST %s %s = %d %s, which does not say %q", path, text(body), got, raw, w)
		}
	}
}

// text shows a body, cut to a readable length.
func text(body any) string {
	const most = 300
	b, ok := body.(string)
	if !ok {
		raw, _ := json.Marshal(body)
		b = string(raw)
	}
	if len(b) > most {
		b = b[:most] + "…"
	}
	return b
}

// stream posts and gives the lines of the answer as they come, until each
// returns false or the end. The error is that of the connection.
func (s *site) stream(ctx context.Context, path string, body any, each func(line string) bool) (int, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", s.http+path, bytes.NewReader(raw))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := web.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if l := lines.Text(); l != "" && !each(l) {
			return resp.StatusCode, nil
		}
	}
	return resp.StatusCode, lines.Err()
}

// events gives the data of a whole SSE answer, which must end with [DONE].
func (s *site) events(path string, body any) []object {
	s.t.Helper()
	out, err := s.eventsOf(path, body)
	if err != nil {
		s.t.Fatalf("POST %s %s: %v", path, text(body), err)
	}
	return out
}

func (s *site) eventsOf(path string, body any) ([]object, error) {
	var out []object
	done := false
	var bad error
	code, err := s.stream(context.Background(), path, body, func(line string) bool {
		data, ok := strings.CutPrefix(line, "data: ")
		if done || !ok {
			bad = fmt.Errorf("line %q", line)
			return false
		}
		if data == "[DONE]" {
			done = true
			return true
		}
		var v object
		if bad = json.Unmarshal([]byte(data), &v); bad == nil {
			out = append(out, v)
		}
		return bad == nil
	})
	switch {
	case err != nil || bad != nil:
		return out, errors.Join(err, bad)
	case code != 200 || !done:
		return out, fmt.Errorf("status %d, %d events, ended properly: %v", code, len(out), done)
	}
	return out, nil
}

// dig walks into decoded JSON: keys and indexes.
func dig(t testing.TB, v any, path ...any) any {
	t.Helper()
	whole := v
	for _, p := range path {
		ok := true
		switch k := p.(type) {
		case string:
			var m object
			if m, ok = v.(object); ok {
				v, ok = m[k]
			}
		case int:
			var l []any
			if l, ok = v.([]any); ok && k < len(l) {
				v = l[k]
			} else {
				ok = false
			}
		}
		if !ok {
			raw, _ := json.Marshal(whole)
			t.Fatalf("no %v in %s", path, raw)
		}
	}
	return v
}

// sglang is an answer of /generate.
type sglang struct {
	Text      string
	OutputIDs []int32 `json:"output_ids"`
	Index     int
	Meta      struct {
		ID           string
		FinishReason object `json:"finish_reason"`
		Prompt       int    `json:"prompt_tokens"`
		Completion   int    `json:"completion_tokens"`
		Input        []any  `json:"input_token_logprobs"`
		Output       []any  `json:"output_token_logprobs"`
		InputTop     []any  `json:"input_top_logprobs"`
		OutputTop    []any  `json:"output_top_logprobs"`
		OutputIDs    []any  `json:"output_token_ids_logprobs"`
	} `json:"meta_info"`
}

// greedy is a /generate body with n greedy tokens, whatever end tokens come.
func greedy(prompt, adapter string, n int) object {
	b := object{"text": prompt, "sampling_params": object{"temperature": 0, "max_new_tokens": n, "ignore_eos": true}}
	if adapter != "" {
		b["lora_path"] = adapter
	}
	return b
}

// say is the greedy answer of n tokens of an adapter, "" being the base.
func (s *site) say(prompt, adapter string, n int) string {
	s.t.Helper()
	var out sglang
	s.ask("/generate", greedy(prompt, adapter, n), &out)
	return out.Text
}

// load loads an adapter of the site's root over SGLang's face.
func (s *site) load(name string) {
	s.t.Helper()
	var out object
	s.ask("/load_lora_adapter", object{"lora_name": name, "lora_path": name}, &out)
}

// unload unloads it.
func (s *site) unload(name string) {
	s.t.Helper()
	var out object
	s.ask("/unload_lora_adapter", object{"lora_name": name}, &out)
}

// together runs functions at once.
func together[T any](n int, f func(i int) T) []T {
	out := make([]T, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { out[i] = f(i) })
	}
	wg.Wait()
	return out
}

// keyed posts with a key and gives the status.
func (s *site) keyed(key, path string, body any) int {
	s.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest("POST", s.http+path, bytes.NewReader(raw))
	if err != nil {
		s.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := web.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
