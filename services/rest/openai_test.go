package rest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chorale/router"
	"chorale/services/rest/facetest"
)

func TestCompletions(t *testing.T) {
	s := serve(t)
	s.expect("/v1/completions", `{"model":"tiny","prompt":"hi"}`, 200,
		`{"id":"cmpl-x","object":"text_completion","created":1,"model":"tiny","choices":[{"index":0,"text":"Hello world","logprobs":null,"finish_reason":"stop","matched_stop":256}],`+
			`"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":1}}}`)
	s.expect("/v1/completions", `{"prompt":["hi","h"],"n":2,"max_tokens":1,"echo":true,"rid":"mine"}`, 200,
		`{"id":"mine","object":"text_completion","created":1,"model":"tiny","choices":[`+
			`{"index":0,"text":"hiHello","logprobs":null,"finish_reason":"length"},{"index":1,"text":"hiHello","logprobs":null,"finish_reason":"length"},`+
			`{"index":2,"text":"hHello","logprobs":null,"finish_reason":"length"},{"index":3,"text":"hHello","logprobs":null,"finish_reason":"length"}],`+
			`"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":2}}}`)
	s.expect("/v1/completions", `{"prompt":[104,105],"max_tokens":1,"echo":true,"logprobs":2,"return_token_ids":true}`, 200,
		`{"id":"cmpl-x","object":"text_completion","created":1,"model":"tiny","choices":[{"index":0,"text":"hiHello","logprobs":{`+
			`"tokens":["h","i","Hello"],"token_logprobs":[null,-1,-0.5],"top_logprobs":[null,{"i":-1,"j":-2},{" world":-1.5,"Hello":-0.5}],"text_offset":[0,1,2]},`+
			`"finish_reason":"length","prompt_token_ids":[104,105],"token_ids":[257]}],`+
			`"usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":1}}}`)
	s.expect("/v1/completions", `{"prompt":[[104],[195]],"max_tokens":0,"echo":true,"logprobs":0}`, 200,
		`{"id":"cmpl-x","object":"text_completion","created":1,"model":"tiny","choices":[`+
			`{"index":0,"text":"h","logprobs":{"tokens":["h"],"token_logprobs":[null],"top_logprobs":[null],"text_offset":[0]},"finish_reason":"length"},`+
			`{"index":1,"text":"`+"\uFFFD"+`","logprobs":{"tokens":["bytes:\\xc3"],"token_logprobs":[null],"top_logprobs":[null],"text_offset":[0]},"finish_reason":"length"}],`+
			`"usage":{"prompt_tokens":2,"completion_tokens":0,"total_tokens":2,"prompt_tokens_details":{"cached_tokens":0}}}`)
}

func TestCompletionParams(t *testing.T) {
	s := serve(t)
	seed := uint64(7)
	body := `{"model":"a","prompt":"x","max_tokens":9,"min_tokens":2,"temperature":0,"top_p":0.5,"top_k":3,"min_p":0.2,"n":2,"stop":["a","b"],"seed":7,` +
		`"presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.5,"logit_bias":{"5":1.5},"user":"u","ignore_eos":true,"stop_token_ids":[4],` +
		`"skip_special_tokens":false,"spaces_between_special_tokens":false,"include_stop_str_in_output":true,"priority":3,"cache_salt":"","add_special_tokens":false}`
	if code, out := s.post("/v1/completions", body); code != 200 {
		t.Fatal(out)
	}
	r := s.router.Requests()[0]
	want := router.Sampling{
		MaxTokens: 9, MinTokens: 2, TopP: 0.5, TopK: 3, MinP: 0.2, N: 2, Stop: []string{"a", "b"}, Seed: &seed,
		PresencePenalty: 1, FrequencyPenalty: -1, RepetitionPenalty: 1.5, LogitBias: map[int32]float64{5: 1.5},
		IgnoreEOS: true, StopTokenIDs: []int32{4}, NoStopTrim: true,
	}
	if diff := cmp.Diff(want, r.Sampling); diff != "" {
		t.Error(diff)
	}
	if r.User != "u" || r.Adapter != "a" || r.Field != "prompt" || r.Prompt.Text != nil || len(r.Prompt.IDs) != 1 {
		t.Errorf("request = %+v", r)
	}
	def := router.DefaultSampling()
	def.MaxTokens = 16
	if code, out := s.post("/v1/completions", `{"prompt":"x","max_tokens":null,"stop":null,"temperature":null,"suffix":null,"best_of":null,"logprobs":null,"stream_options":null,"guided_json":null}`); code != 200 {
		t.Fatal(out)
	}
	if diff := cmp.Diff(def, s.router.Requests()[0].Sampling); diff != "" {
		t.Error(diff)
	}
}

func TestBestOf(t *testing.T) {
	s := serve(t)
	s.router.Script = func(r *router.Request, _ []int32) []router.Event {
		var out []router.Event
		for c, lp := range []float64{-3, -1, -2} {
			out = append(out, router.Event{
				Choice: c, Text: fmt.Sprint(c), IDs: []int32{1},
				Logprobs: []router.PositionLogprobs{facetest.Position(r, 1, lp, true)},
				Finish:   &router.Finish{Reason: router.FinishLength, TokenID: -1},
			})
		}
		return out
	}
	code, out := s.post("/v1/completions", `{"prompt":"x","n":2,"best_of":3}`)
	if code != 200 || !strings.Contains(out, `{"index":0,"text":"1","logprobs":null`) || !strings.Contains(out, `{"index":1,"text":"2","logprobs":null`) || strings.Contains(out, `"index":2`) {
		t.Errorf("%d %s", code, out)
	}
}

func TestCompletionStream(t *testing.T) {
	s := serve(t)
	pre := `{"id":"cmpl-x","object":"text_completion","created":1,"model":"a","choices":[`
	want := []string{
		pre + `{"index":0,"text":"[a]Hello","logprobs":null,"finish_reason":null}]}`,
		pre + `{"index":0,"text":" world","logprobs":null,"finish_reason":null}]}`,
		pre + `{"index":0,"text":"","logprobs":null,"finish_reason":"stop","matched_stop":256}]}`,
		`[DONE]`,
	}
	if diff := cmp.Diff(want, s.events("/v1/completions", `{"model":"a","prompt":"x","stream":true}`)); diff != "" {
		t.Error(diff)
	}
	pre = `{"id":"r","object":"text_completion","created":1,"model":"tiny","choices":[`
	want = []string{
		pre + `{"index":0,"text":"hHello","logprobs":{"tokens":["h","Hello"],"token_logprobs":[null,-0.5],"top_logprobs":[null,{"Hello":-0.5}],"text_offset":[0,1]},"finish_reason":null}],"usage":null}`,
		pre + `{"index":0,"text":" world","logprobs":{"tokens":[" world"],"token_logprobs":[-1],"top_logprobs":[{" world":-1}],"text_offset":[6]},"finish_reason":"length"}],"usage":null}`,
		`{"id":"r","object":"text_completion","created":1,"model":"tiny","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":1}}}`,
		`[DONE]`,
	}
	got := s.events("/v1/completions", `{"prompt":[104],"rid":"r","echo":true,"logprobs":1,"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = s.events("/v1/completions", `{"prompt":"x","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`)
	if !strings.Contains(got[0], `"usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3`) {
		t.Error(got[0])
	}
}

func TestChat(t *testing.T) {
	s := serve(t)
	s.expect("/v1/chat/completions", `{"model":"tiny:b:c","messages":[{"role":"user","content":"hi"}]}`, 200,
		`{"id":"chatcmpl-x","object":"chat.completion","created":1,"model":"tiny:b:c","choices":[{"index":0,"message":{"role":"assistant","content":"[b:c]Hello world","refusal":null},"logprobs":null,"finish_reason":"stop","matched_stop":256}],`+
			`"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":1}}}`)
	r := s.router.Requests()[0]
	if r.Sampling.MaxTokens != 512 || r.Field != "messages" {
		t.Errorf("%+v", r)
	}
	s.expect("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"logprobs":true,"top_logprobs":1,"max_completion_tokens":1,"max_tokens":7,"n":2}`, 200,
		`{"id":"chatcmpl-x","object":"chat.completion","created":1,"model":"tiny","choices":[`+
			`{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},"logprobs":{"content":[{"token":"Hello","logprob":-0.5,"bytes":[72,101,108,108,111],"top_logprobs":[{"token":"Hello","logprob":-0.5,"bytes":[72,101,108,108,111]}]}],"refusal":null},"finish_reason":"length"},`+
			`{"index":1,"message":{"role":"assistant","content":"Hello","refusal":null},"logprobs":{"content":[{"token":"Hello","logprob":-0.5,"bytes":[72,101,108,108,111],"top_logprobs":[{"token":"Hello","logprob":-0.5,"bytes":[72,101,108,108,111]}]}],"refusal":null},"finish_reason":"length"}],`+
			`"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":1}}}`)
}

func TestChatPrompt(t *testing.T) {
	s := serve(t)
	for body, want := range map[string]router.Prompt{
		`{"messages":[{"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"user","content":"c","name":"n"}],"response_format":{"type":"text"},"tools":[],"tool_choice":"none","functions":null}`: {
			Messages: []byte(`[{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"role":"system"},{"content":"c","name":"n","role":"user"}]`),
		},
		`{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"x"}]}],"add_generation_prompt":false,"continue_final_message":true,"chat_template_kwargs":{"enable_thinking":false}}`: {
			Messages:           []byte(`[{"content":"","role":"assistant","tool_calls":[{"id":"x"}]}]`),
			NoGenerationPrompt: true, ContinueFinalMessage: true,
			TemplateVars: map[string]json.RawMessage{"enable_thinking": []byte("false")},
		},
		`{"messages":[{"role":"user","content":"c"}],"add_generation_prompt":false}`: {
			Messages: []byte(`[{"content":"c","role":"user"}]`), NoGenerationPrompt: true,
		},
	} {
		if code, out := s.post("/v1/chat/completions", body); code != 200 {
			t.Errorf("%s = %d %s", body, code, out)
			continue
		}
		if diff := cmp.Diff(want, s.router.Requests()[0].Prompt); diff != "" {
			t.Errorf("%s:\n%s", body, diff)
		}
	}
}

func TestChatStream(t *testing.T) {
	s := serve(t)
	pre := `{"id":"chatcmpl-x","object":"chat.completion.chunk","created":1,"model":"a","choices":[`
	want := []string{
		pre + `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}`,
		pre + `{"index":0,"delta":{"content":"[a]Hello"},"logprobs":null,"finish_reason":null}],"usage":null}`,
		pre + `{"index":0,"delta":{"content":" world"},"logprobs":null,"finish_reason":null}],"usage":null}`,
		pre + `{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","matched_stop":256}],"usage":null}`,
		pre + `],"usage":{"prompt_tokens":8,"completion_tokens":3,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":1}}}`,
		`[DONE]`,
	}
	got := s.events("/v1/chat/completions", `{"model":"a","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = s.events("/v1/chat/completions", `{"model":"a","messages":[{"role":"user","content":"x"}],"stream":true,"n":2,"logprobs":true,"max_tokens":1,"return_token_ids":true}`)
	want = []string{
		pre + `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}`,
		pre + `{"index":0,"delta":{"content":"[a]Hello"},"logprobs":{"content":[{"token":"Hello","logprob":-0.5,"bytes":[72,101,108,108,111],"top_logprobs":[]}],"refusal":null},"finish_reason":null,"token_ids":[257]}]}`,
		pre + `{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}`,
	}
	if diff := cmp.Diff(want, got[:3]); diff != "" {
		t.Error(diff)
	}
	if len(got) != 7 || !strings.Contains(got[3], `"index":1,"delta":{"role":"assistant"`) {
		t.Error(got)
	}
}

func TestOpenAIStreamErrors(t *testing.T) {
	s := serve(t)
	s.router.Script = facetest.Endless
	s.router.NextErr = router.ErrWorkerLost
	for path, body := range map[string]string{
		"/v1/completions":      `{"prompt":"x","stream":true}`,
		"/v1/chat/completions": `{"messages":[{"role":"user","content":"x"}],"stream":true}`,
	} {
		got := s.events(path, body)
		if n := len(got); got[n-1] != "[DONE]" || got[n-2] != `{"error":{"message":"worker group was lost","type":"server_error","param":null,"code":"worker_lost"}}` {
			t.Error(got)
		}
	}
}

// TestModelNames goes through all ways to name an adapter.
func TestModelNames(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct{ body, want string }{
		{``, ""},
		{`"model":null,`, ""},
		{`"model":"",`, ""},
		{`"model":"default",`, ""},
		{`"model":"tiny",`, ""},
		{`"model":"/models/tiny",`, ""},
		{`"model":"tiny:",`, ""},
		{`"model":"a",`, "a"},
		{`"model":"b:c",`, "b:c"},
		{`"model":"/abs/path",`, "/abs/path"},
		{`"model":"tiny:a",`, "a"},
		{`"model":"tiny:b:c",`, "b:c"},
		{`"model":"tiny : a ",`, "a"},
		{`"model":"default:a",`, "a"},
		{`"model":"/models/tiny:a",`, "a"},
		{`"model":"tiny:/abs/path",`, "/abs/path"},
		{`"lora_path":"a",`, "a"},
		{`"model":"tiny","lora_path":"a",`, "a"},
		{`"model":"tiny:","lora_path":"a",`, "a"},
		{`"model":"b:c","lora_path":"a",`, "b:c"},
		{`"model":"tiny:a","lora_path":"b:c",`, "a"},
		{`"model":"a","lora_path":["b:c"],`, "a"},
		{`"lora_path":["a"],`, "a"},
		{`"lora_path":[null],`, ""},
		{`"lora_path":null,`, ""},
	} {
		for path, rest := range map[string]string{
			"/v1/completions":      `"prompt":"x"}`,
			"/v1/chat/completions": `"messages":[{"role":"user","content":"x"}]}`,
		} {
			code, out := s.post(path, "{"+tt.body+rest)
			reqs := s.router.Requests()
			if code != 200 || len(reqs) != 1 || reqs[0].Adapter != tt.want {
				t.Errorf("%s {%s: %d %s %v, want adapter %q", path, tt.body, code, out, reqs, tt.want)
			}
		}
	}
	for _, tt := range []struct{ body, message, param string }{
		{`"model":"nope",`, "The model `nope` does not exist. Got LoRA adapter that has never been loaded: nope. All loaded adapters: [a].", "model"},
		{`"model":"tiny:nope",`, "The model `tiny:nope` does not exist. Got LoRA adapter that has never been loaded: nope. All loaded adapters: [a].", "model"},
		{`"model":"other:a",`, "The model `other:a` does not exist. Got LoRA adapter that has never been loaded: other:a. All loaded adapters: [a].", "model"},
		{`"model":"A",`, "The model `A` does not exist. Got LoRA adapter that has never been loaded: A. All loaded adapters: [a].", "model"},
		{`"lora_path":"nope",`, "The model `nope` does not exist. Got LoRA adapter that has never been loaded: nope. All loaded adapters: [a].", "lora_path"},
		{`"lora_path":["nope"],`, "The model `nope` does not exist. Got LoRA adapter that has never been loaded: nope. All loaded adapters: [a].", "lora_path[0]"},
	} {
		for path, rest := range map[string]string{
			"/v1/completions":      `"prompt":"x"}`,
			"/v1/chat/completions": `"messages":[{"role":"user","content":"x"}],"stream":true}`,
		} {
			code, out := s.post(path, "{"+tt.body+rest)
			want := map[string]any{"message": tt.message, "type": "invalid_request_error", "param": tt.param, "code": "model_not_found"}
			if diff := cmp.Diff(want, decodeJSON(t, out)["error"]); code != 404 || diff != "" {
				t.Errorf("%s {%s: %d\n%s", path, tt.body, code, diff)
			}
		}
	}
	s.router.Info.LoRAEnabled = false
	if code, out := s.post("/v1/completions", `{"model":"tiny:nope","prompt":"x"}`); code != 400 || !strings.Contains(out, "LoRA is not enabled") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := s.post("/v1/completions", `{"model":"gpt-4","prompt":"x"}`); code != 404 || !strings.Contains(out, "model_not_found") {
		t.Errorf("%d %s", code, out)
	}
}

func TestCompletionLoraList(t *testing.T) {
	s := serve(t)
	if code, out := s.post("/v1/completions", `{"prompt":["x","y","z"],"lora_path":["a",null,"b:c"]}`); code != 200 {
		t.Fatal(out)
	}
	var got []string
	for _, r := range s.router.Requests() {
		got = append(got, r.Adapter+"@"+r.Field)
	}
	if diff := cmp.Diff([]string{"a@prompt[0]", "@prompt[1]", "b:c@prompt[2]"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestModels(t *testing.T) {
	s := serve(t)
	base := `{"id":"tiny","object":"model","created":1,"owned_by":"chorale","root":"/models/tiny","parent":null,"max_model_len":512}`
	a := `{"id":"a","object":"model","created":1,"owned_by":"chorale","root":"/adapters/a","parent":"tiny","max_model_len":null}`
	abs := `{"id":"/abs/path","object":"model","created":1,"owned_by":"chorale","root":"/adapters//abs/path","parent":"tiny","max_model_len":null}`
	bc := `{"id":"b:c","object":"model","created":1,"owned_by":"chorale","root":"/adapters/b:c","parent":"tiny","max_model_len":null}`
	s.router.Change(func(c *router.Catalogue) {
		c.Adapters["gone"] = &router.AdapterEntry{Name: "gone", Evicted: true}
	})
	_, _, out := s.call("GET", "/v1/models", "")
	if diff := cmp.Diff(`{"data":[`+base+","+abs+","+a+","+bc+`],"object":"list"}`, stable(out)); diff != "" {
		t.Error(diff)
	}
	for id, want := range map[string]string{
		"tiny": base, "default": base, "a": a, "tiny:a": a, "b:c": bc, "b%3Ac": bc, "/abs/path": abs, url.PathEscape("/abs/path"): abs,
	} {
		if code, _, out := s.call("GET", "/v1/models/"+id, ""); code != 200 || stable(out) != want {
			t.Errorf("%s = %d %s", id, code, out)
		}
	}
	for _, id := range []string{"nope", "gone", "tiny:nope"} {
		if code, _, out := s.call("GET", "/v1/models/"+id, ""); code != 404 || !strings.Contains(out, "model_not_found") {
			t.Errorf("%s = %d %s", id, code, out)
		}
	}
}

func TestOpenAIBadInput(t *testing.T) {
	s := serve(t)

	msg := func(field, problem string) (string, string, string) {
		return field + ": " + problem, field, "invalid_value"
	}
	unsupported := func(field string) (string, string, string) {
		return field + ": is not supported", field, "unsupported_parameter"
	}
	check := func(path string, rest string, fields map[string][3]string) {
		t.Helper()
		for body, want := range fields {
			code, out := s.post(path, "{"+body+rest)
			e, _ := decodeJSON(t, out)["error"].(map[string]any)
			got := [3]string{fmt.Sprint(e["message"]), fmt.Sprint(e["param"]), fmt.Sprint(e["code"])}
			if code != 400 || got != want || e["type"] != "invalid_request_error" {
				t.Errorf("%s {%s: %d\n got %v\nwant %v", path, body, code, got, want)
			}
		}
	}
	three := func(a, b, c string) [3]string { return [3]string{a, b, c} }
	both := map[string][3]string{
		`"temperature":"x",`:   three(msg("temperature", "must be a number, got string")),
		`"temperature":-1,`:    three(msg("temperature", "must not be negative, got -1")),
		`"temperature":NaN,`:   three(msg("temperature", "must be a finite number, got NaN")),
		`"top_p":1.5,`:         three(msg("top_p", "must be in (0, 1], got 1.5")),
		`"n":0,`:               three(msg("n", "must be in [1, 128], got 0")),
		`"n":"2",`:             three(msg("n", "must be an integer, got string")),
		`"max_tokens":-1,`:     three(msg("max_tokens", "must not be negative, got -1")),
		`"stop":5,`:            three(msg("stop", "must be a string or an array of strings, got number")),
		`"logit_bias":[],`:     three(msg("logit_bias", "must be an object, got array")),
		`"model":5,`:           three(msg("model", "must be a string, got number")),
		`"stream":1,`:          three(msg("stream", "must be true or false, got number")),
		`"stream_options":{},`: three(msg("stream_options", "must not be given unless stream is true")),
		`"stream":true,"stream_options":{"include_usage":1},`: three(msg("stream_options.include_usage", "must be true or false, got number")),
		`"lora_path":["a","a"],`:                              three(msg("lora_path", "must have one item per prompt: 1 prompts, 2 items")),
		`"lora_path":5,`:                                      three(msg("lora_path", "must be a string, got number")),
		`"rid":"",`:                                           three(msg("rid", "must have 1 to 256 bytes")),
		`"guided_json":{"type":"object"},`:                    three(unsupported("guided_json")),
		`"regex":"a",`:                                        three(unsupported("regex")),
		`"use_beam_search":true,`:                             three(unsupported("use_beam_search")),
		`"prompt_logprobs":1,`:                                three(unsupported("prompt_logprobs")),
	}
	check("/v1/completions", `"prompt":"x"}`, both)
	check("/v1/chat/completions", `"messages":[{"role":"user","content":"x"}]}`, both)
	check("/v1/completions", `"x":0}`, map[string][3]string{
		``:                                        three(msg("prompt", "is required")),
		`"prompt":"",`:                            three(msg("prompt", "must not be empty")),
		`"prompt":[],`:                            three(msg("prompt", "must not be empty")),
		`"prompt":["x",""],`:                      three(msg("prompt[1]", "must not be empty")),
		`"prompt":[[1],[]],`:                      three(msg("prompt[1]", "must not be empty")),
		`"prompt":[1,"x"],`:                       three(msg("prompt[1]", "must be an integer, got string")),
		`"prompt":["x",1],`:                       three(msg("prompt[1]", "must be a string or an array of token ids, got number")),
		`"prompt":{},`:                            three(msg("prompt", "must be a string or an array of token ids, got object")),
		`"prompt":[999],`:                         three(msg("prompt[0]", "must be a token id in [0, 262), got 999")),
		`"prompt":["x","y"],"lora_path":["a"],`:   three(msg("lora_path", "must have one item per prompt: 2 prompts, 1 items")),
		`"prompt":"x","suffix":"y",`:              three(unsupported("suffix")),
		`"prompt":"x","logprobs":-1,`:             three(msg("logprobs", "must be in [0, 128], got -1")),
		`"prompt":"x","logprobs":true,`:           three(msg("logprobs", "must be an integer, got boolean")),
		`"prompt":"x","best_of":1,"n":2,`:         three(msg("best_of", "must not be below n, 2, got 1")),
		`"prompt":"x","best_of":2,"stream":true,`: three(msg("best_of", "must not be above n in a stream")),
		`"prompt":"x","response_format":{"type":"json_object"},`: three(unsupported("response_format")),
	})
	check("/v1/chat/completions", `"x":0}`, map[string][3]string{
		``:                                       three(msg("messages", "is required")),
		`"messages":[],`:                         three(msg("messages", "must not be empty")),
		`"messages":"x",`:                        three(msg("messages", "must be an array, got string")),
		`"messages":["x"],`:                      three(msg("messages[0]", "must be an object, got string")),
		`"messages":[{"content":"x"}],`:          three(msg("messages[0].role", "is required")),
		`"messages":[{"role":5,"content":"x"}],`: three(msg("messages[0].role", "must be a string, got number")),
		`"messages":[{"role":"user","content":5}],`:                                                 three(msg("messages[0].content", "must be a string or an array of parts, got number")),
		`"messages":[{"role":"user","content":[{"type":"text","text":"x"},{"type":"image_url"}]}],`: three(msg("messages[0].content[1]", `must be a text part: type "image_url" is not supported`)),
		`"messages":[{"role":"user","content":[{"type":"text"}]}],`:                                 three(msg("messages[0].content[0].text", "is required")),
	})
	check("/v1/chat/completions", `"messages":[{"role":"user","content":"x"}]}`, map[string][3]string{
		`"tools":[{"type":"function"}],`:                              three(unsupported("tools")),
		`"functions":[{}],`:                                           three(unsupported("functions")),
		`"tool_choice":"required",`:                                   three(unsupported("tool_choice")),
		`"tool_choice":{"type":"function"},`:                          three(unsupported("tool_choice")),
		`"response_format":{"type":"json_object"},`:                   three(unsupported("response_format")),
		`"response_format":{"type":"json_schema","json_schema":{}},`:  three(unsupported("response_format")),
		`"modalities":["text","audio"],`:                              three(unsupported("modalities")),
		`"top_logprobs":2,`:                                           three(msg("top_logprobs", "must not be given unless logprobs is true")),
		`"logprobs":3,`:                                               three(msg("logprobs", "must be true or false, got number")),
		`"max_completion_tokens":-1,`:                                 three(msg("max_completion_tokens", "must not be negative, got -1")),
		`"continue_final_message":true,"add_generation_prompt":true,`: three(msg("continue_final_message", "must not be true together with add_generation_prompt")),
		`"chat_template_kwargs":5,`:                                   three(msg("chat_template_kwargs", "must be an object, got number")),
	})
	code, out := s.post("/v1/completions", `{"prompt":"`+strings.Repeat("x", 600)+`"}`)
	if code != 400 || !strings.Contains(out, "context_length_exceeded") {
		t.Errorf("%d %s", code, out)
	}
	s.router.SubmitErr = router.ErrOverloaded
	code, h, out := s.call("POST", "/v1/completions", `{"prompt":"x"}`)
	if code != 429 || h.Get("Retry-After") != "1" || !strings.Contains(out, "rate_limit_exceeded") {
		t.Errorf("%d %s", code, out)
	}
	s.router.SubmitErr = io.ErrClosedPipe
	if code, out := s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}]}`); code != 500 || strings.Contains(out, "pipe") {
		t.Errorf("%d %s", code, out)
	}
}
