package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

func testSGLang(s *site) {
	want := s.say(prompt, "duo", 6)
	var one sglang
	body := greedy(prompt, "duo", 6)
	body["rid"] = "abc"
	s.ask("/generate", body, &one)
	if one.Text != want || one.Meta.ID != "abc" || len(one.OutputIDs) != 6 || one.Meta.Completion != 6 || one.Meta.Prompt == 0 ||
		one.Meta.FinishReason["type"] != "length" || one.Meta.FinishReason["length"] != 6.0 {
		s.t.Errorf("%+v", one)
	}
	// Lists: of adapters, of parameters, with null for the base.
	var list []sglang
	s.ask("/generate", object{
		"text": []string{prompt, prompt, prompt}, "lora_path": []any{"duo", nil, "bass"},
		"sampling_params": []object{{"temperature": 0, "max_new_tokens": 6, "ignore_eos": true}, {"temperature": 0, "max_new_tokens": 3, "ignore_eos": true}, {"temperature": 0, "max_new_tokens": 5, "ignore_eos": true}},
	}, &list)
	if len(list) != 3 || list[0].Text != want || list[1].Text != s.say(prompt, "", 3) || list[2].Text != s.say(prompt, "bass", 5) {
		s.t.Errorf("%+v", list)
	}
	// A list of one stays a list; one name for all; token ids; n.
	s.ask("/generate", object{"text": []string{prompt}, "lora_path": "duo", "sampling_params": object{"temperature": 0, "max_new_tokens": 6, "ignore_eos": true}}, &list)
	if len(list) != 1 || list[0].Text != want {
		s.t.Errorf("%+v", list)
	}
	var toks struct{ Tokens []int32 }
	s.ask("/tokenize", object{"prompt": prompt}, &toks)
	body = greedy("", "duo", 6)
	delete(body, "text")
	body["input_ids"] = toks.Tokens
	s.ask("/generate", body, &one)
	if one.Text != want {
		s.t.Errorf("token ids: %+v", one)
	}
	body = greedy(prompt, "duo", 6)
	body["sampling_params"].(object)["n"] = 2
	s.ask("/generate", body, &list)
	if len(list) != 2 || list[0].Text != want || list[1].Text != want {
		s.t.Errorf("n: %+v", list)
	}
	if code, raw, _ := s.do("PUT", "/generate", greedy(prompt, "duo", 6)); code != 200 || !strings.Contains(string(raw), `"text"`) {
		s.t.Errorf("PUT: %d %s", code, raw)
	}
}

func testSGLangStream(s *site) {
	want := s.say(prompt, "alto", 8)
	body := greedy(prompt, "alto", 8)
	body["stream"] = true
	last := ""
	evs := s.events("/generate", body)
	for _, e := range evs {
		text := dig(s.t, e, "text").(string)
		if !strings.HasPrefix(text, last) {
			s.t.Errorf("text is not cumulative: %q after %q", text, last)
		}
		last = text
	}
	if last != want || len(evs) < 4 {
		s.t.Errorf("%d events, %q, want %q", len(evs), last, want)
	}
	if r := dig(s.t, evs[len(evs)-1], "meta_info", "finish_reason", "type"); r != "length" {
		s.t.Errorf("finish reason %v", r)
	}
	// A batch: every event tells its answer.
	body["text"], body["lora_path"] = []string{prompt, prompt, prompt}, []any{"alto", nil, "bass"}
	texts := map[int]string{}
	for _, e := range s.events("/generate", body) {
		texts[int(dig(s.t, e, "index").(float64))] = dig(s.t, e, "text").(string)
	}
	if len(texts) != 3 || texts[0] != want || texts[1] != s.say(prompt, "", 8) || texts[2] != s.say(prompt, "bass", 8) {
		s.t.Errorf("%v", texts)
	}
	// An error before the first event is a plain answer.
	body["lora_path"] = "ghost"
	s.refused("/generate", body, 400, "ghost")
}

// testSGLangLogprobs: tuples, and scoring without generating.
func testSGLangLogprobs(s *site) {
	var toks struct{ Tokens []int32 }
	s.ask("/tokenize", object{"prompt": prompt}, &toks)
	var out sglang
	score := object{
		"text": prompt, "lora_path": "alto", "return_logprob": true, "logprob_start_len": 0, "top_logprobs_num": 2, "return_text_in_logprobs": true,
		"sampling_params": object{"max_new_tokens": 0, "temperature": 0},
	}
	s.ask("/generate", score, &out)
	in := out.Meta.Input
	if len(in) != len(toks.Tokens) || out.Text != "" || len(out.OutputIDs) != 0 || out.Meta.Completion != 0 || len(out.Meta.Output) != 0 {
		s.t.Fatalf("%+v", out)
	}
	spelled := ""
	for i, x := range in {
		tuple := x.([]any)
		spelled += tuple[2].(string)
		if int32(tuple[1].(float64)) != toks.Tokens[i] || (tuple[0] == nil) != (i == 0) || i > 0 && tuple[0].(float64) > 0 {
			s.t.Errorf("position %d: %v", i, tuple)
		}
	}
	if spelled != prompt || out.Meta.InputTop[0] != nil || len(out.Meta.InputTop[1].([]any)) != 2 {
		s.t.Errorf("%q, %v", spelled, out.Meta.InputTop)
	}
	// The base scores otherwise.
	var base sglang
	delete(score, "lora_path")
	s.ask("/generate", score, &base)
	if fmt.Sprint(base.Meta.Input) == fmt.Sprint(in) {
		s.t.Error("the base scores like the adapter")
	}
	// Generated greedy tokens are the likeliest, and scoring them again agrees.
	gen := greedy(prompt, "alto", 5)
	gen["return_logprob"], gen["top_logprobs_num"], gen["token_ids_logprob"] = true, 1, []int32{11}
	var g sglang
	s.ask("/generate", gen, &g)
	if len(g.Meta.Output) != 5 || len(g.Meta.OutputIDs) != 5 {
		s.t.Fatalf("%+v", g)
	}
	var again sglang
	ids := append(append([]int32{}, toks.Tokens...), g.OutputIDs...)
	s.ask("/generate", object{
		"input_ids": ids, "lora_path": "alto", "return_logprob": true, "logprob_start_len": len(toks.Tokens),
		"sampling_params": object{"max_new_tokens": 0},
	}, &again)
	for i, x := range g.Meta.Output {
		lp := x.([]any)[0].(float64)
		if top := dig(s.t, g.Meta.OutputTop, i, 0, 0).(float64); top != lp {
			s.t.Errorf("token %d: %v, likeliest %v", i, lp, top)
		}
		if scored := dig(s.t, again.Meta.Input, i, 0).(float64); len(again.Meta.Input) != 5 || scored != lp {
			s.t.Errorf("token %d: generated with %v, scored with %v", i, lp, scored)
		}
	}
}

func testSGLangInfo(s *site) {
	for _, path := range []string{"/model_info", "/get_model_info"} {
		var v object
		code, raw := s.get(path)
		if code != 200 || json.Unmarshal(raw, &v) != nil || v["is_generation"] != true || v["served_model_name"] != served {
			s.t.Errorf("%s: %d %s", path, code, raw)
		}
	}
	for _, path := range []string{"/server_info", "/get_server_info"} {
		var v object
		code, raw := s.get(path)
		if code != 200 || json.Unmarshal(raw, &v) != nil || v["max_loras_per_batch"] != 4.0 || v["status"] != "ready" || v["enable_lora"] != true {
			s.t.Errorf("%s: %d %s", path, code, raw)
		}
	}
	if code, body := s.post("/flush_cache", ""); code != 200 {
		s.t.Errorf("/flush_cache: %d %s", code, body)
	}
	if code, body := s.get("/no/such/route"); code != 404 {
		s.t.Errorf("unknown route: %d %s", code, body)
	}
	if code, _, h := s.do("DELETE", "/generate", nil); code != 405 || h.Get("Allow") == "" {
		s.t.Errorf("wrong method: %d %v", code, h)
	}
}

// testAbort: an abort ends an answer, which tells so.
func testAbort(s *site) {
	body := greedy(prompt, "alto", 480)
	body["rid"] = "to-abort"
	done := make(chan object, 1)
	go func() {
		var out object
		if code, raw := s.post("/generate", body); code == 200 {
			_ = json.Unmarshal(raw, &out)
		}
		done <- out
	}()
	s.until("the request runs on a worker", callLimit, s.running)
	if code, raw := s.post("/abort_request", object{"rid": "to-abort"}); code != 200 {
		s.t.Errorf("%d %s", code, raw)
	}
	select {
	case out := <-done:
		if r := dig(s.t, out, "meta_info", "finish_reason", "type"); r != "abort" {
			s.t.Errorf("%v", out)
		}
	case <-time.After(callLimit):
		s.t.Error("the request goes on")
	}
	// Nobody of that name: no error.
	if code, _ := s.post("/abort_request", object{"rid": "nobody"}); code != 200 {
		s.t.Error(code)
	}
	_, _ = s.stream(context.Background(), "/generate", greedy("x", "", 1), func(string) bool { return true })
}
