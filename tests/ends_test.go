package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// traffic asks alto and the base until stop is called, which complains of every
// answer that is not what they say alone.
func (s *site) traffic() (stop func()) {
	s.t.Helper()
	want := map[string]string{"alto": s.say(prompt, "alto", 4), "": s.say(prompt, "", 4)}
	ctx, cancel := context.WithCancel(context.Background())
	wrong := make(chan string, 1)
	go func() {
		defer close(wrong)
		for ctx.Err() == nil {
			for adapter, text := range want {
				var out sglang
				code, raw := s.post("/generate", greedy(prompt, adapter, 4))
				if code != 200 || json.Unmarshal(raw, &out) != nil || out.Text != text {
					wrong <- fmt.Sprintf("meanwhile %q: %d %s, want %q", adapter, code, raw, text)
					return
				}
			}
		}
	}()
	return func() {
		s.t.Helper()
		cancel()
		for w := range wrong {
			s.t.Error(w)
		}
	}
}

// unloadAfterEnds: whatever way requests end, their adapter can be unloaded.
func unloadAfterEnds(s *site) {
	const long = 400
	leave := func(body object) { // comes and goes while it is computed
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = s.stream(ctx, "/generate", body, func(string) bool { return true })
		}()
		s.until("the request runs on a worker", callLimit, s.running)
		cancel()
		<-gone
	}
	with := func(n int, more object) object {
		body := greedy(prompt, "passing", n)
		for k, v := range more {
			if k == "n" || k == "json_schema" {
				body["sampling_params"].(object)[k] = v
				continue
			}
			body[k] = v
		}
		return body
	}
	for name, end := range map[string]func(){
		"several answers":                 func() { var out []sglang; s.ask("/generate", with(6, object{"n": 4}), &out) },
		"a client that left":              func() { leave(with(long, nil)) },
		"a client of several that left":   func() { leave(with(long, object{"n": 4})) },
		"a reader of several that left":   func() { leave(with(long, object{"n": 4, "stream": true})) },
		"a prompt that is too long":       func() { s.refused("/generate", with(8, object{"text": strings.Repeat("word ", 600)}), 400, "text") },
		"a grammar that nobody can parse": func() { s.refused("/generate", with(8, object{"json_schema": `{"type":`}), 400, "json_schema") },
		"an abort": func() {
			ended := make(chan int, 2)
			for _, rid := range []string{"ends-1", "ends-2"} {
				go func() { code, _ := s.post("/generate", with(long, object{"rid": rid})); ended <- code }()
			}
			s.until("a request runs on a worker", callLimit, s.running)
			for _, rid := range []string{"ends-2", "ends-1"} {
				s.until(rid+" is aborted", callLimit, func() bool {
					_, _ = s.post("/abort_request", object{"rid": rid})
					select {
					case <-ended:
						return true
					case <-time.After(20 * time.Millisecond):
						return false
					}
				})
			}
		},
	} {
		var out object
		s.ask("/load_lora_adapter", object{"lora_name": "passing", "lora_path": "alto"}, &out)
		end()
		began := time.Now()
		s.ask("/unload_lora_adapter", object{"lora_name": "passing"}, &out)
		if took := time.Since(began); took > 10*time.Second {
			s.t.Errorf("after %s: unloaded in %v", name, took)
		}
	}
}
