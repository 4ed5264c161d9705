package rest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chorale/router"
	"chorale/services/rest/facetest"
)

func TestGenerate(t *testing.T) {
	s := serve(t)
	one := `{"text":"Hello world","output_ids":[257,258,256],"meta_info":{"id":"x","finish_reason":{"type":"stop","matched":256},"prompt_tokens":3,"completion_tokens":3,"cached_tokens":1,"e2e_latency":1}}`
	s.expect("/generate", `{"text":"hi"}`, 200, one)
	s.expect("/generate", `{"text":["hi"]}`, 200, "["+one+"]")
	s.expect("/generate", `{"input_ids":[104,105,33]}`, 200, one)
	s.expect("/generate", `{"input_ids":[[104,105,33],[1]],"rid":"r"}`, 200,
		`[{"text":"Hello world","output_ids":[257,258,256],"meta_info":{"id":"r_0","finish_reason":{"type":"stop","matched":256},"prompt_tokens":3,"completion_tokens":3,"cached_tokens":1,"e2e_latency":1}},`+
			`{"text":"Hello world","output_ids":[257,258,256],"meta_info":{"id":"r_1","finish_reason":{"type":"stop","matched":256},"prompt_tokens":1,"completion_tokens":3,"cached_tokens":1,"e2e_latency":1}}]`)
	s.expect("/generate", `{"text":"hi","rid":"r","sampling_params":{"n":2,"max_new_tokens":1}}`, 200,
		`[{"text":"Hello","output_ids":[257],"meta_info":{"id":"r","finish_reason":{"type":"length","length":1},"prompt_tokens":3,"completion_tokens":1,"cached_tokens":1,"e2e_latency":1}},`+
			`{"text":"Hello","output_ids":[257],"meta_info":{"id":"r","finish_reason":{"type":"length","length":1},"prompt_tokens":3,"completion_tokens":1,"cached_tokens":1,"e2e_latency":1}}]`)
	if code, _, body := s.call("PUT", "/generate", `{"text":"hi"}`); code != 200 {
		t.Errorf("PUT = %d %s", code, body)
	}
}

func TestGenerateAdapters(t *testing.T) {
	s := serve(t)
	texts := func(body string) (out []string) {
		t.Helper()
		code, got := s.post("/generate", body)
		if code != 200 {
			t.Fatalf("%s = %d %s", body, code, got)
		}
		for part := range strings.SplitSeq(got, `"text":"`) {
			if text, _, ok := strings.Cut(part, `"`); ok && !strings.HasPrefix(part, "{") && !strings.HasPrefix(part, "[{") {
				out = append(out, text)
			}
		}
		return out
	}
	for body, want := range map[string][]string{
		`{"text":"x","lora_path":"a"}`:                          {"[a]Hello world"},
		`{"text":"x","lora_path":["a"]}`:                        {"[a]Hello world"},
		`{"text":"x","lora_path":null}`:                         {"Hello world"},
		`{"text":"x","lora_path":""}`:                           {"Hello world"},
		`{"text":["x","y","z"],"lora_path":["a",null,"b:c"]}`:   {"[a]Hello world", "Hello world", "[b:c]Hello world"},
		`{"text":["x","y"],"lora_path":"b:c"}`:                  {"[b:c]Hello world", "[b:c]Hello world"},
		`{"input_ids":[[1],[2]],"lora_path":["/abs/path","a"]}`: {"[/abs/path]Hello world", "[a]Hello world"},
	} {
		if diff := cmp.Diff(want, texts(body)); diff != "" {
			t.Errorf("%s:\n%s", body, diff)
		}
	}
}

func TestGenerateSampling(t *testing.T) {
	s := serve(t)
	u := func(n uint64) *uint64 { return &n }
	d := router.DefaultSampling()
	full := router.Sampling{
		MaxTokens: 9, MinTokens: 2, Temperature: 0.5, TopP: 0.9, TopK: 40, MinP: 0.1, FrequencyPenalty: 1, PresencePenalty: -1,
		RepetitionPenalty: 1.1, LogitBias: map[int32]float64{5: -100}, Stop: []string{"x"}, StopRegex: []string{"y+"},
		StopTokenIDs: []int32{7}, IgnoreEOS: true, NoStopTrim: true, Seed: u(42), N: 2,
	}
	eight := d
	eight.MaxTokens = 8
	for body, want := range map[string][]router.Sampling{
		`{"text":"x"}`: {d},
		`{"text":"x","sampling_params":null,"return_routed_experts":true,"whatever":{"a":1}}`:                                                      {d},
		`{"text":"x","sampling_params":{"max_new_tokens":null,"temperature":null,"stop":null,"n":null,"regex":"","json_schema":null,"unknown":1}}`: {d},
		`{"text":"x","sampling_params":{"max_new_tokens":8.0}}`:                                                                                    {eight},
		`{"text":["x","y"],"sampling_params":[{"max_new_tokens":8},{}]}`:                                                                           {eight, d},
		`{"text":["x","y"],"sampling_params":[null,{"max_new_tokens":8}]}`:                                                                         {d, eight},
		`{"text":["x","y"],"sampling_params":{"max_new_tokens":8}}`:                                                                                {eight, eight},
		`{"text":"x","sampling_params":{"max_new_tokens":9,"min_new_tokens":2,"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"frequency_penalty":1,"presence_penalty":-1,"repetition_penalty":1.1,"logit_bias":{"5":-100},"stop":"x","stop_regex":["y+"],"stop_token_ids":[7],"ignore_eos":true,"no_stop_trim":true,"skip_special_tokens":false,"spaces_between_special_tokens":false,"sampling_seed":42,"n":2}}`: {full},
	} {
		if code, got := s.post("/generate", body); code != 200 {
			t.Errorf("%s = %d %s", body, code, got)
			continue
		}
		var got []router.Sampling
		for _, r := range s.router.Requests() {
			got = append(got, r.Sampling)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", body, diff)
		}
	}
}

func TestGenerateLogprobs(t *testing.T) {
	s := serve(t)
	s.expect("/generate", `{"input_ids":[104,105],"rid":"r","return_logprob":true,"sampling_params":{"max_new_tokens":1}}`, 200,
		`{"text":"Hello","output_ids":[257],"meta_info":{"id":"r","finish_reason":{"type":"length","length":1},"prompt_tokens":2,"completion_tokens":1,"cached_tokens":1,"e2e_latency":1,`+
			`"input_token_logprobs":[],"output_token_logprobs":[[-0.5,257,null]]}}`)
	s.expect("/generate", `{"input_ids":[104,105],"rid":"r","return_logprob":true,"logprob_start_len":0,"top_logprobs_num":2,"token_ids_logprob":[33],"return_text_in_logprobs":true,"sampling_params":{"max_new_tokens":0}}`, 200,
		`{"text":"","output_ids":[],"meta_info":{"id":"r","finish_reason":{"type":"length","length":0},"prompt_tokens":2,"completion_tokens":0,"cached_tokens":0,"e2e_latency":1,`+
			`"input_token_logprobs":[[null,104,"h"],[-1,105,"i"]],"output_token_logprobs":[],`+
			`"input_top_logprobs":[null,[[-1,105,"i"],[-2,106,"j"]]],"output_top_logprobs":[],`+
			`"input_token_ids_logprobs":[null,[[-10,33,"!"]]],"output_token_ids_logprobs":[]}}`)
	// Lists: one value per prompt.
	s.router.Requests()
	code, _ := s.post("/generate", `{"input_ids":[[104],[105]],"return_logprob":[true,false],"logprob_start_len":[0,0],"top_logprobs_num":[2,3],"token_ids_logprob":[[1],null]}`)
	reqs := s.router.Requests()
	if code != 200 || len(reqs) != 2 {
		t.Fatal(code, reqs)
	}
	if diff := cmp.Diff(router.Logprobs{Enabled: true, Top: 2, TokenIDs: []int32{1}}, reqs[0].Logprobs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(router.Logprobs{PromptStart: -1}, reqs[1].Logprobs); diff != "" {
		t.Error(diff)
	}
}

func TestGenerateStream(t *testing.T) {
	s := serve(t)
	want := []string{
		`{"text":"Hello","output_ids":[257],"meta_info":{"id":"r","finish_reason":null,"prompt_tokens":3,"completion_tokens":1,"cached_tokens":1}}`,
		`{"text":"Hello world","output_ids":[257,258],"meta_info":{"id":"r","finish_reason":null,"prompt_tokens":3,"completion_tokens":2,"cached_tokens":1}}`,
		`{"text":"Hello world","output_ids":[257,258,256],"meta_info":{"id":"r","finish_reason":{"type":"stop","matched":256},"prompt_tokens":3,"completion_tokens":3,"cached_tokens":1,"e2e_latency":1}}`,
		`[DONE]`,
	}
	if diff := cmp.Diff(want, s.events("/generate", `{"text":"hi","rid":"r","stream":true}`)); diff != "" {
		t.Error(diff)
	}
	// A batch, and several choices: every event has its answer's index.
	seen := map[string]int{}
	evs := s.events("/generate", `{"text":["a","b"],"stream":true,"sampling_params":{"n":2},"lora_path":["a",null]}`)
	for _, e := range evs[:len(evs)-1] {
		v := decodeJSON(t, e)
		index := int(v["index"].(float64))
		text := v["text"].(string)
		if strings.HasPrefix(text, "[a]") != (index < 2) {
			t.Errorf("index %d has %q", index, text)
		}
		seen[fmt.Sprint(index)]++
	}
	if diff := cmp.Diff(map[string]int{"0": 3, "1": 3, "2": 3, "3": 3}, seen); diff != "" {
		t.Error(diff)
	}
	if got := s.events("/generate", `{"text":"a","stream":true,"sampling_params":{"n":2}}`); !strings.Contains(got[0], `"index":0`) {
		t.Error(got[0])
	}
}

func TestGenerateStreamErrors(t *testing.T) {
	s := serve(t)
	s.router.Script = facetest.Endless
	s.router.NextErr = fmt.Errorf("group w0: %w", router.ErrWorkerLost)
	got := s.events("/generate", `{"text":"hi","stream":true}`)
	if len(got) != 3 || got[1] != `{"error":{"code":503,"message":"group w0: worker group was lost","retryable":true,"type":"server_error"}}` || got[2] != "[DONE]" {
		t.Error(got)
	}
	// Before the first event the status can still tell.
	s.router.Script = func(*router.Request, []int32) []router.Event { return nil }
	s.expect("/generate", `{"text":"hi","stream":true}`, 503, `{"error":{"message":"group w0: worker group was lost"}}`)
	// A failure inside an answer.
	s.router.NextErr = nil
	s.router.Script = func(*router.Request, []int32) []router.Event {
		return []router.Event{{Text: "x", IDs: []int32{1}}, {Finish: &router.Finish{Reason: router.FinishAbort, Err: fmt.Errorf("%w: out of memory", router.ErrWorker)}}}
	}
	got = s.events("/generate", `{"text":"hi","stream":true}`)
	if len(got) != 3 || !strings.Contains(got[1], "worker failed: out of memory") || got[2] != "[DONE]" {
		t.Error(got)
	}
	s.expect("/generate", `{"text":"hi"}`, 500, `{"error":{"message":"worker failed: out of memory"}}`)
	// An abort by request is an answer.
	s.router.Script = func(*router.Request, []int32) []router.Event {
		return []router.Event{{Text: "x", IDs: []int32{1}, Finish: &router.Finish{Reason: router.FinishAbort, TokenID: -1, Err: router.ErrAborted}}}
	}
	s.expect("/generate", `{"text":"hi","rid":"r"}`, 200,
		`{"text":"x","output_ids":[1],"meta_info":{"id":"r","finish_reason":{"type":"abort","message":"request was aborted","status_code":null,"err_type":null},"prompt_tokens":3,"completion_tokens":1,"cached_tokens":0,"e2e_latency":1}}`)
	// Text that matched.
	s.router.Script = func(*router.Request, []int32) []router.Event {
		return []router.Event{{Text: "x", IDs: []int32{1}, Finish: &router.Finish{Reason: router.FinishStop, TokenID: -1, Matched: "END"}}}
	}
	if _, body := s.post("/generate", `{"text":"hi"}`); !strings.Contains(body, `{"type":"stop","matched":"END"}`) {
		t.Error(body)
	}
	s.router.NextErr = io.ErrUnexpectedEOF
	s.expect("/generate", `{"text":"hi"}`, 500, `{"error":{"message":"internal error"}}`)
}

func TestGenerateBadInput(t *testing.T) {
	s := serve(t)
	for body, want := range map[string]string{
		`{}`:                                     "text: or input_ids must be given",
		`{"text":null}`:                          "text: or input_ids must be given",
		`{"text":""}`:                            "text: must not be empty",
		`{"text":[]}`:                            "text: must not be empty",
		`{"text":["x",""]}`:                      "text[1]: must not be empty",
		`{"text":5}`:                             "text: must be a string or an array of strings, got number",
		`{"text":["x",5]}`:                       "text[1]: must be a string, got number",
		`{"text":"x","input_ids":[1]}`:           "input_ids: must not be given together with text",
		`{"input_ids":[]}`:                       "input_ids: must not be empty",
		`{"input_ids":[[1],[]]}`:                 "input_ids[1]: must not be empty",
		`{"input_ids":"x"}`:                      "input_ids: must be an array of integers, got string",
		`{"input_ids":[1,"x"]}`:                  "input_ids[1]: must be an integer, got string",
		`{"input_ids":[[1],[1,2.5]]}`:            "input_ids[1][1]: must be an integer, got 2.5",
		`{"input_ids":[-1]}`:                     "input_ids[0]: must be a token id in [0, 262), got -1",
		`{"input_ids":[[262]]}`:                  "input_ids[0][0]: must be a token id in [0, 262), got 262",
		`{"text":"x","stream":"yes"}`:            "stream: must be true or false, got string",
		`{"text":"x","sampling_params":5}`:       "sampling_params: must be an object, got number",
		`{"text":"x","sampling_params":[{},{}]}`: "sampling_params: must have one item per prompt: 1 prompts, 2 items",
		`{"text":"x","sampling_params":{"temperature":"hot"}}`:     "sampling_params.temperature: must be a number, got string",
		`{"text":"x","sampling_params":{"temperature":NaN}}`:       "sampling_params.temperature: must be a finite number, got NaN",
		`{"text":"x","sampling_params":{"temperature":1e999}}`:     "sampling_params.temperature: must be a finite number, got 1e999",
		`{"text":"x","sampling_params":{"temperature":-0.1}}`:      "sampling_params.temperature: must not be negative, got -0.1",
		`{"text":["x","y"],"sampling_params":[{},{"top_p":3}]}`:    "sampling_params[1].top_p: must be in (0, 1], got 3",
		`{"text":"x","sampling_params":{"top_p":0}}`:               "sampling_params.top_p: must be in (0, 1], got 0",
		`{"text":"x","sampling_params":{"top_k":-2}}`:              "sampling_params.top_k: must be -1 (all) or more, got -2",
		`{"text":"x","sampling_params":{"top_k":1.5}}`:             "sampling_params.top_k: must be an integer, got 1.5",
		`{"text":"x","sampling_params":{"min_p":-1}}`:              "sampling_params.min_p: must be in [0, 1], got -1",
		`{"text":"x","sampling_params":{"frequency_penalty":2.1}}`: "sampling_params.frequency_penalty: must be in [-2, 2], got 2.1",
		`{"text":"x","sampling_params":{"presence_penalty":-3}}`:   "sampling_params.presence_penalty: must be in [-2, 2], got -3",
		`{"text":"x","sampling_params":{"repetition_penalty":0}}`:  "sampling_params.repetition_penalty: must be in (0, 2], got 0",
		`{"text":"x","sampling_params":{"max_new_tokens":-1}}`:     "sampling_params.max_new_tokens: must not be negative, got -1",
		`{"text":"x","sampling_params":{"min_new_tokens":-1}}`:     "sampling_params.min_new_tokens: must not be negative, got -1",
		`{"text":"x","sampling_params":{"min_new_tokens":200}}`:    "sampling_params.min_new_tokens: must not be above max_new_tokens, 128, got 200",
		`{"text":"x","sampling_params":{"n":0}}`:                   "sampling_params.n: must be in [1, 128], got 0",
		`{"text":"x","sampling_params":{"stop":[""]}}`:             "sampling_params.stop[0]: must not be empty",
		`{"text":"x","sampling_params":{"stop":[1]}}`:              "sampling_params.stop[0]: must be a string, got number",
		`{"text":"x","sampling_params":{"logit_bias":{"x":1}}}`:    `sampling_params.logit_bias: must have token ids as keys, got "x"`,
		`{"text":"x","sampling_params":{"logit_bias":{"999":1}}}`:  `sampling_params.logit_bias: must have token ids in [0, 262) as keys, got 999`,
		`{"text":"x","sampling_params":{"logit_bias":{"9":"x"}}}`:  `sampling_params.logit_bias.9: must be a number, got string`,
		`{"text":"x","sampling_params":{"logit_bias":{"9":101}}}`:  `sampling_params.logit_bias.9: must be in [-100, 100], got 101`,
		`{"text":"x","sampling_params":{"stop_token_ids":[1,-1]}}`: `sampling_params.stop_token_ids[1]: must be a token id in [0, 262), got -1`,
		`{"text":"x","sampling_params":{"json_schema":"{}"}}`:      "sampling_params.json_schema: is not supported",
		`{"text":"x","sampling_params":{"regex":"a+"}}`:            "sampling_params.regex: is not supported",
		`{"text":"x","sampling_params":{"ebnf":"root"}}`:           "sampling_params.ebnf: is not supported",
		`{"text":"x","sampling_params":{"structural_tag":"x"}}`:    "sampling_params.structural_tag: is not supported",
		`{"text":"x","image_data":"http://x"}`:                     "image_data: is not supported",
		`{"input_embeds":[[0.1]]}`:                                 "input_embeds: is not supported",
		`{"text":"x","custom_logit_processor":"x"}`:                "custom_logit_processor: is not supported",
		`{"text":"x","session_params":{"id":"x"}}`:                 "session_params: is not supported",
		`{"text":"x","return_hidden_states":true}`:                 "return_hidden_states: is not supported",
		`{"text":["x","y"],"lora_path":["a"]}`:                     "lora_path: must have one item per prompt: 2 prompts, 1 items",
		`{"text":"x","lora_path":5}`:                               "lora_path: must be a string, got number",
		`{"text":["x","y"],"lora_path":["a",5]}`:                   "lora_path[1]: must be a string, got number",
		`{"text":"x","lora_path":"nope"}`:                          "Got LoRA adapter that has never been loaded: nope. All loaded adapters: [a].",
		`{"text":["x","y"],"lora_path":[null,"nope"]}`:             "Got LoRA adapter that has never been loaded: nope. All loaded adapters: [a].",
		`{"text":"x","top_logprobs_num":-1}`:                       "top_logprobs_num: must be in [0, 128], got -1",
		`{"text":"x","logprob_start_len":-2}`:                      "logprob_start_len: must be in [-1, 2147483647], got -2",
		`{"text":"x","return_logprob":1}`:                          "return_logprob: must be true or false, got number",
		`{"text":"x","token_ids_logprob":[999]}`:                   "token_ids_logprob[0]: must be a token id in [0, 262), got 999",
		`{"text":["x","y"],"rid":["a"]}`:                           "rid: must have one item per prompt: 2 prompts, 1 items",
		`{"text":"` + strings.Repeat("x", 600) + `"}`:              "text: is too long",
	} {
		code, got := s.post("/generate", body)
		if len(body) > 200 {
			body = body[:200]
		}
		if code != 400 {
			t.Errorf("%s = %d %s", body, code, got)
			continue
		}
		e, _ := decodeJSON(t, got)["error"].(map[string]any)
		if e["message"] != want {
			t.Errorf("%s:\n got %v\nwant %s", body, e["message"], want)
		}
	}
	for body := range map[string]bool{
		`{"text":"x","image_data":null,"return_hidden_states":false,"session_params":null,"custom_logit_processor":null}`: true,
		`{"text":"x","sampling_params":{"json_schema":null,"regex":null,"ebnf":"","structural_tag":null}}`:                true,
	} {
		if code, got := s.post("/generate", body); code != 200 {
			t.Errorf("%s = %d %s", body, code, got)
		}
	}
}

func TestGenerateRouterErrors(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct {
		err  error
		code int
	}{
		{router.ErrOverloaded, 503},
		{router.ErrUnavailable, 503},
		{router.ErrDraining, 503},
		{fmt.Errorf("5 names: %w", router.ErrTooManyAdapters), 400},
		{router.ErrAdapterNotReady, 400},
		{errors.New("odd"), 500},
	} {
		s.router.SubmitErr = tt.err
		if code, body := s.post("/generate", `{"text":"x"}`); code != tt.code {
			t.Errorf("%v = %d %s", tt.err, code, body)
		}
	}
	s.router.SubmitErr = nil
	s.router.Info.LoRAEnabled = false
	if code, body := s.post("/generate", `{"text":"x","lora_path":"a"}`); code != 400 || !strings.Contains(body, "LoRA is not enabled") {
		t.Errorf("%d %s", code, body)
	}
}

func TestLoadLoRA(t *testing.T) {
	s := serve(t)
	s.router.Change(func(c *router.Catalogue) { clear(c.Adapters) })
	s.expect("/load_lora_adapter", `{"lora_name":"x","lora_path":"./rel/../x","pinned":true,"extra":1}`, 200,
		`{"rid":null,"http_worker_ipc":null,"success":true,"error_message":null,"loaded_adapters":{"x":"./rel/../x"}}`)
	if r := s.adapters.Requests[0]; !r.Pinned || !r.MustBeNew || r.Replace {
		t.Errorf("request = %v", r)
	}
	if w := s.router.Waited(); len(w) != 1 || w[0] != s.router.Catalogue().Revision {
		t.Errorf("waited for %v", w)
	}
	s.expect("/load_lora_adapter", `{"lora_name":"x","lora_path":"/other"}`, 400,
		`{"rid":null,"http_worker_ipc":null,"success":false,"error_message":"Failed to load LoRA adapter x because it is already loaded","loaded_adapters":{"x":"./rel/../x"}}`)
	// Whom max_loaded_loras pushed out is absent at once.
	s.adapters.Evict = []string{"x"}
	s.expect("/load_lora_adapter", `{"lora_name":"y","lora_path":"/y"}`, 200,
		`{"rid":null,"http_worker_ipc":null,"success":true,"error_message":null,"loaded_adapters":{"y":"/y"}}`)
	for reason, want := range map[string]string{
		"ADAPTER_INCOMPATIBLE":   "incompatible",
		"ADAPTER_RANK_TOO_LARGE": "incompatible",
		"PIN_STARVATION":         "starvation",
		"LORA_DISABLED":          "LoRA is not enabled",
		"ADAPTER_INVALID":        "cannot load z",
		"ADAPTER_UNSUPPORTED":    "cannot load z",
	} {
		code, body := s.post("/load_lora_adapter", `{"lora_name":"z","lora_path":"/error/`+reason+`"}`)
		if v := decodeJSON(t, body); code != 400 || v["success"] != false || !strings.Contains(v["error_message"].(string), want) {
			t.Errorf("%s = %d %s", reason, code, body)
		}
	}
	for reason, want := range map[string]int{"DISK_FULL": 507, "STORAGE_READ_ONLY": 507, "WORKER_UNAVAILABLE": 503} {
		if code, body := s.post("/load_lora_adapter", `{"lora_name":"z","lora_path":"/error/`+reason+`"}`); code != want {
			t.Errorf("%s = %d %s", reason, code, body)
		}
	}
	if code, body := s.post("/load_lora_adapter", `{"lora_name":"z","lora_path":"/missing"}`); code != 400 {
		t.Errorf("missing = %d %s", code, body)
	}
	for body, want := range map[string]string{
		`{"lora_path":"/x"}`:                                "lora_name: is required",
		`{"lora_name":"x"}`:                                 "lora_path: is required",
		`{"lora_name":5,"lora_path":"/x"}`:                  "lora_name: must be a string, got number",
		`{"lora_name":"q","lora_path":"/x","pinned":"yes"}`: "pinned: must be true or false, got string",
	} {
		code, got := s.post("/load_lora_adapter", body)
		if v := decodeJSON(t, got); code != 400 || v["error_message"] != want {
			t.Errorf("%s = %d %s", body, code, got)
		}
	}
	s.expect("/unload_lora_adapter", `{"lora_name":"y"}`, 200,
		`{"rid":null,"http_worker_ipc":null,"success":true,"error_message":null,"loaded_adapters":{"x":"./rel/../x"}}`)
	s.expect("/unload_lora_adapter", `{"lora_name":"y"}`, 400,
		`{"rid":null,"http_worker_ipc":null,"success":false,"error_message":"LoRA with name y does not exist. Loaded LoRAs: x","loaded_adapters":{"x":"./rel/../x"}}`)
	if code, body := s.post("/generate", `{"text":"x","lora_path":"y"}`); code != 400 || !strings.Contains(body, "never been loaded") {
		t.Errorf("%d %s", code, body)
	}
	s.router.Info.LoRAEnabled = false
	if code, body := s.post("/load_lora_adapter", `{"lora_name":"n","lora_path":"/n"}`); code != 400 || !strings.Contains(body, "LoRA is not enabled. Please set `--enable-lora` to enable LoRA.") {
		t.Errorf("%d %s", code, body)
	}
}

func TestNoManager(t *testing.T) {
	s := serve(t, func(o *Options) { o.Adapters = nil })
	for _, path := range []string{"/load_lora_adapter", "/v1/load_lora_adapter"} {
		if code, body := s.post(path, `{"lora_name":"n","lora_path":"/n"}`); code != 400 || !strings.Contains(body, "no adapter manager") {
			t.Errorf("%d %s", code, body)
		}
	}
}

func TestInfo(t *testing.T) {
	s := serve(t, func(o *Options) { o.ServerArgs = map[string]any{"port": 30000} })
	_, _, body := s.call("GET", "/model_info", "")
	v := decodeJSON(t, body)
	if v["model_path"] != "/models/tiny" || v["served_model_name"] != "tiny" || v["is_generation"] != true || v["model_type"] != "llama" {
		t.Error(body)
	}
	_, _, body = s.call("GET", "/server_info", "")
	v = decodeJSON(t, body)
	if v["port"] != 30000.0 || v["status"] != "ready" || v["version"] != "1.2.3" || v["context_length"] != 512.0 {
		t.Error(body)
	}
	s.router.St.Groups[0].Connected = false
	s.router.St.Groups[0].Err = errors.New("refused")
	for _, path := range []string{"/health", "/ping"} {
		if code, _, body := s.call("GET", path, ""); code != 503 {
			t.Errorf("%s = %d %s", path, code, body)
		}
	}
	_, _, body = s.call("GET", "/server_info", "")
	if v = decodeJSON(t, body); v["status"] != "unavailable" {
		t.Error(body)
	}
	s.router.SubmitErr = router.ErrUnavailable
	if code, _, body := s.call("GET", "/health_generate", ""); code != 503 {
		t.Errorf("%d %s", code, body)
	}
	s.router.St.Draining = true
	if code, _, body := s.call("GET", "/health", ""); code != 503 || !strings.Contains(body, "shutting down") {
		t.Errorf("%d %s", code, body)
	}
}

func TestAbort(t *testing.T) {
	s := serve(t)
	for body, code := range map[string]int{`{"rid":"r1"}`: 200, `{"abort_all":true}`: 200, `{}`: 400, `{"rid":5}`: 400} {
		if got, out := s.post("/abort_request", body); got != code {
			t.Errorf("%s = %d %s", body, got, out)
		}
	}
	got := map[string]bool{}
	for _, id := range s.router.Aborted() {
		got[id] = true
	}
	if diff := cmp.Diff(map[string]bool{"r1": true, "*": true}, got); diff != "" {
		t.Error(diff)
	}
}
