package tests

import (
	"encoding/json"
	"strings"
)

func testCompletions(s *site) {
	want := s.say(prompt, "alto", 8)
	req := func(more object) object {
		b := object{"model": "alto", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": true}
		for k, v := range more {
			b[k] = v
		}
		return b
	}
	var out object
	// The adapter as model, behind the base's name, and as lora_path.
	for _, b := range []object{req(nil), req(object{"model": served + ":alto"}), req(object{"model": served, "lora_path": "alto"}), req(object{"model": "default:alto"})} {
		s.ask("/v1/completions", b, &out)
		if got := dig(s.t, out, "choices", 0, "text"); got != want {
			s.t.Errorf("%s: %q, want %q", text(b), got, want)
		}
	}
	if dig(s.t, out, "object") != "text_completion" || dig(s.t, out, "choices", 0, "finish_reason") != "length" ||
		dig(s.t, out, "usage", "completion_tokens") != 8.0 || dig(s.t, out, "usage", "total_tokens").(float64) <= 8 {
		s.t.Errorf("%v", out)
	}
	for _, model := range []string{"", served, "default"} {
		s.ask("/v1/completions", req(object{"model": model}), &out)
		if got, base := dig(s.t, out, "choices", 0, "text"), s.say(prompt, "", 8); got != base {
			s.t.Errorf("model %q: %q, want the base's %q", model, got, base)
		}
	}
	// Several prompts and answers; echo; log probabilities.
	s.ask("/v1/completions", req(object{"prompt": []string{prompt, "One two"}, "n": 2, "seed": 1, "temperature": 0.8}), &out)
	if l := dig(s.t, out, "choices").([]any); len(l) != 4 || dig(s.t, l, 3, "index") != 3.0 {
		s.t.Errorf("%v", out)
	}
	s.ask("/v1/completions", req(object{"echo": true, "logprobs": 2}), &out)
	if got := dig(s.t, out, "choices", 0, "text"); got != prompt+want {
		s.t.Errorf("echo: %q", got)
	}
	lp := dig(s.t, out, "choices", 0, "logprobs").(object)
	tokens := dig(s.t, lp, "tokens").([]any)
	spelled := ""
	for _, x := range tokens {
		spelled += x.(string)
	}
	if spelled != prompt+want || dig(s.t, lp, "token_logprobs", 0) != nil || len(dig(s.t, lp, "text_offset").([]any)) != len(tokens) || dig(s.t, lp, "top_logprobs", len(tokens)-1) == nil {
		s.t.Errorf("logprobs: %v", lp)
	}
	// The stream's deltas make up the text; the usage comes last.
	got := ""
	evs := s.events("/v1/completions", req(object{"stream": true, "stream_options": object{"include_usage": true}}))
	for _, e := range evs[:len(evs)-1] {
		got += dig(s.t, e, "choices", 0, "text").(string)
	}
	end := evs[len(evs)-1]
	if got != want || len(dig(s.t, end, "choices").([]any)) != 0 || dig(s.t, end, "usage", "completion_tokens") != 8.0 {
		s.t.Errorf("stream: %q, want %q, end %v", got, want, end)
	}
}

func testChat(s *site) {
	req := func(more object) object {
		b := object{
			"model": "bass", "max_tokens": 8, "temperature": 0, "ignore_eos": true,
			"messages": []object{{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where does the sun rise?"}},
		}
		for k, v := range more {
			b[k] = v
		}
		return b
	}
	var out object
	s.ask("/v1/chat/completions", req(nil), &out)
	want := dig(s.t, out, "choices", 0, "message", "content").(string)
	if want == "" || dig(s.t, out, "object") != "chat.completion" || dig(s.t, out, "choices", 0, "message", "role") != "assistant" || dig(s.t, out, "choices", 0, "finish_reason") != "length" {
		s.t.Errorf("%v", out)
	}
	s.same("chat", want)
	var base object
	s.ask("/v1/chat/completions", req(object{"model": served}), &base)
	if dig(s.t, base, "choices", 0, "message", "content") == want {
		s.t.Error("the base says what bass says")
	}
	s.ask("/v1/chat/completions", req(object{"n": 2, "logprobs": true, "top_logprobs": 3, "max_completion_tokens": 8}), &out)
	if l := dig(s.t, out, "choices").([]any); len(l) != 2 || len(dig(s.t, l, 1, "logprobs", "content").([]any)) != 8 || len(dig(s.t, l, 1, "logprobs", "content", 0, "top_logprobs").([]any)) != 3 {
		s.t.Errorf("%v", out)
	}
	got, role, reason := "", any(nil), any(nil)
	evs := s.events("/v1/chat/completions", req(object{"stream": true, "stream_options": object{"include_usage": true}}))
	for _, e := range evs[:len(evs)-1] {
		d := dig(s.t, e, "choices", 0, "delta").(object)
		if r, ok := d["role"]; ok && role == nil {
			role = r
		}
		if c, ok := d["content"].(string); ok {
			got += c
		}
		reason = dig(s.t, e, "choices", 0, "finish_reason")
	}
	if got != want || role != "assistant" || reason != "length" || dig(s.t, evs[len(evs)-1], "usage", "completion_tokens") != 8.0 {
		s.t.Errorf("stream: %q by %v ending with %v, want %q", got, role, reason, want)
	}
	// Parts of text, as newer clients send them.
	s.ask("/v1/chat/completions", req(object{"messages": []object{{"role": "system", "content": "Be brief."}, {"role": "user", "content": []object{{"type": "text", "text": "Where does the sun rise?"}}}}}), &out)
	if dig(s.t, out, "choices", 0, "message", "content") != want {
		s.t.Errorf("parts: %v", out)
	}
}

// testStops: a stop text that crosses tokens ends the answer and never shows,
// in streams neither.
func testStops(s *site) {
	whole := s.say(prompt, "alto", 16)
	var full sglang
	s.ask("/generate", greedy(prompt, "alto", 16), &full)
	var pieces []string
	for _, id := range full.OutputIDs {
		var d struct{ Text string }
		s.ask("/detokenize", object{"tokens": []int32{id}}, &d)
		pieces = append(pieces, d.Text)
	}
	// The end of one token and the beginning of the next, somewhere behind.
	stop, at := "", -1
	for i := 3; i+1 < len(pieces); i++ {
		a, b := []rune(pieces[i]), []rune(pieces[i+1])
		if len(a) == 0 || len(b) == 0 || strings.ContainsRune(pieces[i]+pieces[i+1], '�') {
			continue
		}
		c := string(a[len(a)-1]) + string(b[0])
		if p := strings.Index(whole, c); p > 0 {
			stop, at = c, p
			break
		}
	}
	if at < 0 {
		s.t.Fatalf("no stop text in %q", pieces)
	}
	want := whole[:at]
	body := greedy(prompt, "alto", 16)
	body["sampling_params"].(object)["stop"] = []string{"never there", stop}
	var out sglang
	s.ask("/generate", body, &out)
	if out.Text != want || out.Meta.FinishReason["type"] != "stop" || out.Meta.FinishReason["matched"] != stop {
		s.t.Errorf("stop %q: %+v, want %q", stop, out, want)
	}
	body["stream"] = true
	for _, e := range s.events("/generate", body) {
		if got := dig(s.t, e, "text").(string); !strings.HasPrefix(want, got) {
			s.t.Errorf("the stream leaks: %q, want %q", got, want)
		}
	}
	oa := object{"model": "alto", "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": true, "stop": stop, "stream": true}
	got, reason := "", any(nil)
	for _, e := range s.events("/v1/completions", oa) {
		got += dig(s.t, e, "choices", 0, "text").(string)
		reason = dig(s.t, e, "choices", 0, "finish_reason")
	}
	if got != want || reason != "stop" {
		s.t.Errorf("OpenAI's stream: %q ending with %v, want %q", got, reason, want)
	}
	body = greedy(prompt, "alto", 16)
	body["sampling_params"].(object)["stop_token_ids"] = []int32{full.OutputIDs[5]}
	body["sampling_params"].(object)["ignore_eos"] = false
	s.ask("/generate", body, &out)
	if len(out.OutputIDs) > 6 || out.Meta.FinishReason["type"] != "stop" {
		s.t.Errorf("stop token: %+v", out)
	}
}

func testModels(s *site) {
	var out struct {
		Data []struct {
			ID, Object, Root string
			Parent           *string
		}
	}
	code, raw := s.get("/v1/models")
	if code != 200 || json.Unmarshal(raw, &out) != nil || len(out.Data) != 1+len(names) {
		s.t.Fatalf("%d %s", code, raw)
	}
	if m := out.Data[0]; m.ID != served || m.Parent != nil {
		s.t.Errorf("%+v", m)
	}
	for i, m := range out.Data[1:] {
		if m.ID != names[i] || m.Parent == nil || *m.Parent != served || !strings.HasSuffix(m.Root, m.ID) || m.Object != "model" {
			s.t.Errorf("%+v", m)
		}
	}
	if code, raw := s.get("/v1/models/alto"); code != 200 || !strings.Contains(string(raw), `"root":"alto"`) {
		s.t.Errorf("%d %s", code, raw)
	}
	if code, raw := s.get("/v1/models/ghost"); code != 404 || !strings.Contains(string(raw), "ghost") {
		s.t.Errorf("%d %s", code, raw)
	}
}

func testMetrics(s *site) {
	_, raw := s.get("/metrics")
	for _, want := range []string{
		"chorale_answers_total{adapter=\"alto\",reason=\"length\"}", "chorale_time_to_first_token_seconds_bucket{adapter=\"base\"",
		"chorale_worker_up{worker=", "chorale_step_adapters_max{", "chorale_worker_resident_adapters{", "vllm:lora_requests_info{",
		"vllm:num_requests_waiting 0", "vllm:num_requests_running 0", "vllm:kv_cache_usage_perc", "chorale_adapters{usable=\"true\"} 5",
	} {
		if !strings.Contains(string(raw), want) {
			s.t.Errorf("/metrics has no %s", want)
		}
	}
}
