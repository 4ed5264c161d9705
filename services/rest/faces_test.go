package rest

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"chorale/services/auth"
)

// TestFieldsOfOtherServers: what users of other servers send is served, or
// refused by name.
func TestFieldsOfOtherServers(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct {
		path, body string
		code       int
		want       string
	}{
		{"/v1/completions", `{"prompt":"x","logprobs":false}`, 200, `"logprobs":null`},
		{"/v1/completions", `{"prompt":"x","response_format":{"type":"text"}}`, 200, `"text"`},
		{"/v1/completions", `{"prompt":"x","response_format":{"type":"json_object"}}`, 400, `response_format: is not supported`},
		{"/v1/completions", `{"prompt":"x","custom_params":{"a":1}}`, 400, `custom_params: is not supported`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}],"add_special_tokens":false}`, 200, `"content"`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}],"add_special_tokens":true}`, 400, `add_special_tokens: is not supported`},
		{"/v1/completions", `{"prompt":"x","cache_salt":"x"}`, 400, `cache_salt: is not supported`},
		{"/v1/completions", `{"prompt":"x","extra_key":"x"}`, 400, `extra_key: is not supported`},
		{"/v1/completions", `{"prompt":"a \ud83d b"}`, 400, `prompt: holds \\ud83d, half of a surrogate pair`},
		{"/v1/completions", `{"prompt":"a \ude00 b"}`, 400, `prompt: holds \\ude00, half`},
		{"/v1/completions", `{"prompt":"a \ud83d\ude00 \\ud83d \\\\"}`, 200, `"text"`},
		{"/v1/completions", `{"prompt":"x","rid":"r1"}`, 200, `"id":"r1"`},
		{"/v1/completions", `{"prompt":"x","request_id":""}`, 400, `request_id: must have 1 to 256 bytes`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}],"best_of":1}`, 200, `"content"`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}],"best_of":2}`, 400, `best_of: is not supported`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, 400, `type \"image_url\" is not supported`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"refusal","text":"x"}]}]}`, 400, `messages[0].content[0].refusal: is required`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":[{"text":"x"}]}]}`, 400, `type \"\" is not supported`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":[5]}]}`, 400, `messages[0].content[0]: must be an object, got number`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"\udead"}]}`, 400, `messages[0].content: holds`},
		{"/v1/completions", `{"prompt":"x","stop_regex":"("}`, 400, `stop_regex[0]: must be a regular expression: error parsing regexp`},
		{"/generate", `{"text":"x","sampling_params":{"stop_regex":["a","("]}}`, 400, `sampling_params.stop_regex[1]: must be a regular`},
		{"/chorale/v1/generate", `{"prompts":[{"text":"x"}],"sampling":{"stopRegex":["("]}}`, 400, `"field":"sampling.stop_regex[0]"`},
		{"/chorale/v1/generate", `{"prompts":[{"text":"x"}],"sampling":{"minTokens":200}}`, 400, `"field":"sampling.min_tokens"`},
		{"/generate", `{"text":"x","cache_salt":"x"}`, 400, `cache_salt: is not supported`},
		{"/generate", `{"text":["x","\ud83d"]}`, 400, `text[1]: holds`},
		{"/abort_request", `{"rid":["a","b"]}`, 200, ``},
		{"/abort_request", `{"rid":["a",""]}`, 400, `rid: is required`},
		{"/abort_request", `{"rid":[]}`, 400, `rid: is required`},
		{"/abort_request", `{"rid":5}`, 400, `rid: must be a string or an array of strings, got number`},
		{"/tokenize", `{"model":"a","prompt":"xy"}`, 200, `"count":3`},
		{"/v1/tokenize", `{"model":"tiny:b:c","prompt":"xy"}`, 200, `"count":3`},
		{"/tokenize", `{"model":"nope","prompt":"xy"}`, 404, "The model `nope` does not exist."},
		{"/tokenize", `{"messages":[{"role":"user","content":"x"}],"tools":[{}]}`, 400, `tools: is not supported`},
		{"/detokenize", `{"tokens":[[257],[258,259]]}`, 200, `{"prompt":["Hello"," world!"],"text":["Hello"," world!"]}`},
		{"/v1/detokenize", `{"tokens":[257]}`, 200, `{"prompt":"Hello","text":"Hello"}`},
		{"/detokenize", `{"tokens":[[257],[999]]}`, 400, `tokens[1][0]: must be a token id`},
		{"/detokenize", `{"tokens":[[257],5]}`, 400, `tokens[1]: must be an array of integers, got number`},
		{"/detokenize", `{"model":"nope","tokens":[1]}`, 404, "The model `nope` does not exist."},
	} {
		if code, out := s.post(tt.path, tt.body); code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("POST %s %s = %d %s, want %d with %s", tt.path, tt.body, code, out, tt.code, tt.want)
		}
	}
}

// TestMessagesAsTemplatesKnowThem: parts of OpenAI's other kinds of text, bare
// strings and the developer reach the template as what it knows.
func TestMessagesAsTemplatesKnowThem(t *testing.T) {
	s := serve(t)
	body := `{"messages":[{"role":"developer","content":"be brief"},` +
		`{"role":"user","content":["a",{"type":"input_text","text":"b"},{"type":"text","text":"c","cache_control":{}}]},` +
		`{"role":"assistant","content":[{"type":"output_text","text":"d"},{"type":"refusal","refusal":"e"}]}]}`
	if code, out := s.post("/v1/chat/completions", body); code != 200 {
		t.Fatal(out)
	}
	part := func(text string) string { return `{"type":"text","text":"` + text + `"}` }
	want := `[{"content":"be brief","role":"system"},{"content":[` + part("a") + "," + part("b") + "," + part("c") + `],"role":"user"},` +
		`{"content":[` + part("d") + "," + part("e") + `],"role":"assistant"}]`
	if got := string(s.router.Requests()[0].Prompt.Messages); got != want {
		t.Errorf("messages\n%s, want\n%s", got, want)
	}
}

// TestRequestIDNamesAnswers: an id that the client gives comes back, names the answer and
// is what aborts go by; an unfit one is replaced.
func TestRequestIDNamesAnswers(t *testing.T) {
	s := serve(t)
	_, h, out := s.call("POST", "/v1/completions", `{"prompt":"x"}`, "X-Request-Id", "abc-1")
	if h.Get("X-Request-Id") != "abc-1" || !strings.Contains(out, `"id":"cmpl-abc-1"`) || s.router.Requests()[0].ID != "cmpl-abc-1" {
		t.Errorf("header %q, %s, request %q", h.Get("X-Request-Id"), out, s.router.Requests()[0].ID)
	}
	_, h, out = s.call("POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}]}`, "X-Request-Id", "not fit")
	if id := h.Get("X-Request-Id"); id == "not fit" || !strings.Contains(out, `"id":"chatcmpl-`+id+`"`) {
		t.Errorf("header %q, %s", id, out)
	}
}

// TestUnencryptedHTTP2: the server speaks HTTP/2 to clients that begin with it.
func TestUnencryptedHTTP2(t *testing.T) {
	s := serve(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := Server(s.Config.Handler, nil)
	done := make(chan error, 1)
	go func() { done <- hs.Serve(l) }()
	for _, two := range []bool{false, true} {
		tr := &http.Transport{Protocols: &http.Protocols{}}
		tr.Protocols.SetHTTP1(!two)
		tr.Protocols.SetUnencryptedHTTP2(two)
		resp, err := (&http.Client{Transport: tr}).Post("http://"+l.Addr().String()+"/generate", "", strings.NewReader(`{"text":"x","stream":true}`))
		if err != nil {
			t.Fatal(err)
		}
		if (resp.ProtoMajor == 2) != two || resp.StatusCode != 200 {
			t.Errorf("HTTP/2 %v: %s, %d", two, resp.Proto, resp.StatusCode)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
	}
	hs.Close()
	<-done
}

// TestOrigins: pages of named origins may ask for answers, none may administer,
// others are refused; programs without an origin do not notice.
func TestOrigins(t *testing.T) {
	const page, body = "https://chat.example", `{"prompt":"x"}`
	s := serve(t, func(o *Options) { o.Origins = []string{page} })
	load := `{"lora_name":"n","lora_path":"/p"}`
	for _, tt := range []struct {
		name, method, path, body string
		header                   []string
		code                     int
		allowed                  string
	}{
		{"preflight", "OPTIONS", "/v1/completions", "", []string{"Origin", page, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type"}, 204, page},
		{"named", "POST", "/v1/completions", body, []string{"Origin", page, "Sec-Fetch-Site", "cross-site"}, 200, page},
		{"own", "POST", "/v1/completions", body, []string{"Origin", s.URL}, 200, ""},
		{"other", "POST", "/v1/completions", body, []string{"Origin", "https://evil.example", "Content-Type", "text/plain"}, 403, ""},
		{"other's preflight", "OPTIONS", "/v1/completions", "", []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "POST"}, 405, ""},
		{"other, by the browser's word", "POST", "/v1/completions", body, []string{"Sec-Fetch-Site", "cross-site"}, 403, ""},
		{"named, administers", "POST", "/load_lora_adapter", load, []string{"Origin", page}, 403, ""},
		{"named, administers natively", "POST", nativeAdapters, `{}`, []string{"Origin", page}, 403, ""},
		{"named, asks to administer", "OPTIONS", "/load_lora_adapter", "", []string{"Origin", page, "Access-Control-Request-Method", "POST"}, 405, ""},
		{"a program", "POST", "/v1/completions", body, nil, 200, ""},
		{"no route", "POST", "/nope", body, []string{"Origin", page}, 403, ""},
	} {
		code, h, out := s.call(tt.method, tt.path, tt.body, tt.header...)
		if code != tt.code || h.Get("Access-Control-Allow-Origin") != tt.allowed {
			t.Errorf("%s: %d, allowed %q, want %d, %q: %s", tt.name, code, h.Get("Access-Control-Allow-Origin"), tt.code, tt.allowed, out)
		}
		if code == 403 && !strings.Contains(out, "--allowed-origins") {
			t.Errorf("%s: %s", tt.name, out)
		}
	}
	all := serve(t, func(o *Options) { o.Origins, o.Keys = []string{"*"}, auth.NewKeys("k", "") })
	if code, h, _ := all.call("POST", "/v1/completions", body, "Origin", "https://any.example"); code != 401 || h.Get("Access-Control-Allow-Origin") != "https://any.example" {
		t.Errorf("any origin, no key: %d, %v", code, h)
	}
}
