package tests

import (
	"encoding/json"
	"strings"
)

// testUnknownAdapter: named, 404 (400 on SGLang's face), never the base.
func testUnknownAdapter(s *site) {
	s.refused("/generate", greedy(prompt, "ghost", 1), 400, "ghost", "never been loaded")
	s.refused("/generate", object{"text": []string{"a", "b"}, "lora_path": []any{nil, "ghost"}}, 400, "ghost")
	s.refused("/chorale/v1/generate", object{"prompts": []object{{"text": "x"}}, "adapters": []string{"ghost"}}, 404, "ghost", "ADAPTER_NOT_FOUND")
	s.refused("/chorale/v1/generate:stream", object{"request": object{"prompts": []object{{"text": "x"}}, "adapters": []string{"ghost"}}}, 404, "ghost")
	for _, model := range []string{"ghost", served + ":ghost", "default:ghost", "Alto", "alto ", "smollm3"} {
		name := strings.TrimPrefix(strings.TrimPrefix(model, served+":"), "default:")
		s.refused("/v1/completions", object{"model": model, "prompt": "x"}, 404, name, "does not exist")
		s.refused("/v1/chat/completions", object{"model": model, "messages": []object{{"role": "user", "content": "x"}}, "stream": true}, 404, name)
	}
	s.refused("/v1/completions", object{"model": served, "lora_path": "ghost", "prompt": "x"}, 404, "ghost")
	if code, raw := s.get("/chorale/v1/adapters/ghost"); code != 404 || !strings.Contains(string(raw), "ghost") {
		s.t.Errorf("%d %s", code, raw)
	}
	if code, raw, _ := s.do("DELETE", "/chorale/v1/adapters/ghost", nil); code != 404 || !strings.Contains(string(raw), "ghost") {
		s.t.Errorf("%d %s", code, raw)
	}
}

// testWrongTypes: 400 with the field's path.
func testWrongTypes(s *site) {
	for _, c := range [][3]string{
		{"/generate", `{"text":5}`, "text"},
		{"/generate", `{"text":"x","sampling_params":{"temperature":"hot"}}`, "sampling_params.temperature"},
		{"/generate", `{"text":["x","y"],"sampling_params":[{},{"top_k":1.5}]}`, "sampling_params[1].top_k"},
		{"/generate", `{"text":"x","lora_path":5}`, "lora_path"},
		{"/generate", `{"text":["x"],"lora_path":[5]}`, "lora_path[0]"},
		{"/generate", `{"input_ids":[1,"x"]}`, "input_ids[1]"},
		{"/generate", `{"text":"x"`, "JSON"},
		{"/generate", ``, "JSON"},
		{"/generate", `[]`, "object"},
		{"/v1/completions", `{"prompt":5}`, "prompt"},
		{"/v1/completions", `{"prompt":"x","max_tokens":"5"}`, "max_tokens"},
		{"/v1/completions", `{"prompt":"x","model":5}`, "model"},
		{"/v1/chat/completions", `{"messages":"x"}`, "messages"},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":5}]}`, "messages[0].content"},
		{"/v1/chat/completions", `{"messages":[{"content":"x"}]}`, "messages[0].role"},
		{"/chorale/v1/generate", `{"prompts":[{"text":5}]}`, "prompts[0].text"},
		{"/chorale/v1/generate", `{"prompts":[{"text":"x"}],"sampling":{"maxTokens":"many"}}`, "sampling.max_tokens"},
		{"/chorale/v1/generate", `{"prompts":[{"text":"x"}],"sampling":{"maxTokens":1e99}}`, "sampling.max_tokens"},
		{"/chorale/v1/generate", `{"prompts":"x"}`, "prompts"},
		{"/chorale/v1/generate", `{"prompts":[{}]}`, "prompts[0]"},
		{"/chorale/v1/adapters", `{"name":5,"source":"x"}`, "name"},
		{"/load_lora_adapter", `{"lora_name":5,"lora_path":"x"}`, "lora_name"},
		{"/load_lora_adapter", `{"lora_name":"x","lora_path":"x","pinned":"yes"}`, "pinned"},
		{"/v1/load_lora_adapter", `{"lora_name":["x"],"lora_path":"x"}`, "lora_name"},
		{"/tokenize", `{"prompt":{}}`, "prompt"},
		{"/detokenize", `{"tokens":["x"]}`, "tokens[0]"},
	} {
		s.refused(c[0], c[1], 400, c[2])
	}
}

// testUnknownFields: refused natively, ignored by the faces of others; known
// fields that are not served are refused there too.
func testUnknownFields(s *site) {
	s.refused("/chorale/v1/generate", `{"prompts":[{"text":"x"}],"tempreature":0}`, 400, "tempreature")
	s.refused("/chorale/v1/generate", `{"prompts":[{"text":"x"}],"sampling":{"heat":0}}`, 400, "heat")
	s.refused("/chorale/v1/adapters", `{"name":"x","source":"alto","force":true}`, 400, "force")
	if code, raw := s.get("/chorale/v1/adapters?page=2"); code != 400 || !strings.Contains(string(raw), "page") {
		s.t.Errorf("query: %d %s", code, raw)
	}
	var out object
	s.ask("/generate", `{"text":"x","sampling_params":{"max_new_tokens":1,"heat":3},"return_routed_experts":true}`, &out)
	s.ask("/v1/completions", `{"prompt":"x","max_tokens":1,"whatever":{"a":[1]}}`, &out)
	s.ask("/v1/chat/completions", `{"messages":[{"role":"user","content":"x","extra":1}],"max_tokens":1,"store":true}`, &out)
	s.refused("/generate", `{"text":"x","sampling_params":{"json_schema":"{}"}}`, 400, "json_schema")
	s.refused("/v1/completions", `{"prompt":"x","guided_json":{"type":"object"}}`, 400, "guided_json")
	s.refused("/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f"}}]}`, 400, "tools")
}

func testSamplingValues(s *site) {
	for field, bad := range map[string][]string{
		"temperature": {"-0.1", "NaN", "1e999", "-Infinity"}, "top_p": {"0", "1.5", "NaN"}, "top_k": {"-2"}, "min_p": {"-0.1", "2", "NaN"},
		"frequency_penalty": {"-3", "2.5", "NaN"}, "presence_penalty": {"3"}, "repetition_penalty": {"0", "-1", "9"}, "n": {"0", "-1", "1000"},
	} {
		for _, v := range bad {
			s.refused("/generate", `{"text":"x","sampling_params":{"`+field+`":`+v+`}}`, 400, "sampling_params."+field)
			s.refused("/v1/completions", `{"prompt":"x","`+field+`":`+v+`}`, 400, field)
			s.refused("/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}],"`+field+`":`+v+`}`, 400, field)
			if v == "NaN" || v == "-Infinity" {
				v = `"` + v + `"` // as protobuf writes them
			}
			s.refused("/chorale/v1/generate", `{"prompts":[{"text":"x"}],"sampling":{"`+field+`":`+v+`}}`, 400, "sampling."+field)
		}
	}
	for _, c := range [][2]string{{"max_new_tokens", "-1"}, {"min_new_tokens", "-1"}, {"min_new_tokens", "9999"}, {"stop", `[""]`}, {"logit_bias", `{"99999999":1}`}} {
		s.refused("/generate", `{"text":"x","sampling_params":{"`+c[0]+`":`+c[1]+`}}`, 400, "sampling_params."+c[0])
	}
	s.refused("/v1/completions", `{"prompt":"x","max_tokens":-1}`, 400, "max_tokens")
}

// testPrompts: empty, too long, more prompts than adapters.
func testPrompts(s *site) {
	long := strings.Repeat("word ", 600)
	s.refused("/generate", object{"text": ""}, 400, "text")
	s.refused("/generate", object{"text": []string{"x", ""}}, 400, "text[1]")
	s.refused("/generate", object{"text": []string{}}, 400, "text")
	s.refused("/generate", object{}, 400, "text")
	s.refused("/generate", object{"input_ids": []int32{}}, 400, "input_ids")
	s.refused("/generate", object{"text": long}, 400, "text", "512", "tokens")
	s.refused("/generate", object{"text": []string{"a", long}, "stream": true}, 400, "text[1]", "512")
	s.refused("/generate", object{"text": []string{"a", "b", "c"}, "lora_path": []string{"alto", "bass"}}, 400, "lora_path", "3 prompts", "2")
	s.refused("/v1/completions", object{"prompt": ""}, 400, "prompt")
	s.refused("/v1/completions", object{"prompt": long}, 400, "prompt", "512")
	s.refused("/v1/completions", object{"prompt": []string{"a", "b"}, "lora_path": []string{"alto"}}, 400, "lora_path")
	s.refused("/v1/chat/completions", object{"messages": []object{}}, 400, "messages")
	s.refused("/v1/chat/completions", object{"messages": []object{{"role": "user", "content": long}}}, 400, "512")
	s.refused("/chorale/v1/generate", object{"prompts": []object{}}, 400, "prompts")
	s.refused("/chorale/v1/generate", object{"prompts": []object{{"text": ""}}}, 400, "prompts[0]")
	s.refused("/chorale/v1/generate", object{"prompts": []object{{"text": "x"}, {"text": long}}}, 400, "prompts[1]", "512", "PROMPT_TOO_LONG")
	s.refused("/chorale/v1/generate", object{"prompts": []object{{"text": "x"}, {"text": "y"}, {"text": "z"}}, "adapters": []string{"alto", ""}}, 400, "adapters")
	s.refused("/generate", strings.Repeat("x", 70<<20), 413)
	// A prompt that leaves less room than asked for: the answer is cut.
	var out sglang
	s.ask("/generate", greedy(strings.Repeat("word ", 500), "", 100), &out)
	if out.Meta.FinishReason["type"] != "length" || out.Meta.Prompt+out.Meta.Completion != 512 {
		raw, _ := json.Marshal(out.Meta)
		s.t.Errorf("cut answer: %s", raw)
	}
}
