package openai

import (
	"encoding/json"
	"errors"
	"testing"

	"go.uber.org/zap"

	"chorale/router"
	"chorale/services/rest/face"
	"chorale/services/rest/facetest"
	"chorale/services/status"
)

func deps() *face.Deps {
	return &face.Deps{Router: facetest.New("a", "b:c"), Tokens: facetest.Tokens{}, Log: zap.NewNop()}
}

// checkError: what is refused names a field.
func checkError(t *testing.T, err error) {
	t.Helper()
	if status.Of(err).HTTP >= 500 {
		t.Fatalf("%v is not the client's fault", err)
	}
	var fe *router.FieldError
	if !errors.As(err, &fe) || fe.Field == "" {
		t.Fatalf("%v names no field", err)
	}
}

func checkRequests(t *testing.T, d *face.Deps, p *params) {
	t.Helper()
	if len(p.requests) == 0 || len(p.requests) != len(p.choices) {
		t.Fatalf("%d requests, %d choices", len(p.requests), len(p.choices))
	}
	for _, r := range p.requests {
		if err := face.CheckSampling(&r.Sampling, face.Names{}, d.Tokens.VocabSize()); err != nil {
			t.Fatal(err)
		}
		if r.Logprobs.Top < 0 || r.Logprobs.Top > face.MaxTop || r.Field == "" {
			t.Fatalf("%+v", r)
		}
	}
}

// FuzzCompletionBody: a body is refused with a field, or gives valid requests.
func FuzzCompletionBody(f *testing.F) {
	for _, s := range []string{
		`{"prompt":"x"}`, `{"model":"a","prompt":["x","y"],"lora_path":["a",null],"n":2,"best_of":3,"logprobs":2,"echo":true}`,
		`{"prompt":[1,2],"stream":true,"stream_options":{"include_usage":true}}`, `{"prompt":[[1],[2]],"stop":"a","seed":1,"logit_bias":{"1":NaN}}`,
		`{"model":"tiny: b:c ","prompt":"x","guided_json":{},"suffix":null,"add_special_tokens":false}`, `{"prompt":{}}`,
	} {
		f.Add([]byte(s))
	}
	d := deps()
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parseCompletion(d, body)
		if err != nil {
			checkError(t, err)
			return
		}
		checkRequests(t, d, &c.params)
		if len(c.texts) != len(c.requests) || c.keep > c.sampling.N {
			t.Fatalf("%d texts, keep %d of %d", len(c.texts), c.keep, c.sampling.N)
		}
	})
}

// FuzzChatBody: a body is refused with a field, or gives a valid request whose
// messages are objects with a text.
func FuzzChatBody(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"role":"user","content":"x"}]}`, `{"model":"a","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"tools":[],"tool_choice":"none"}`,
		`{"messages":[{"role":"assistant","content":null,"tool_calls":[{}]}],"continue_final_message":true,"chat_template_kwargs":{"a":[1]}}`,
		`{"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":3,"max_completion_tokens":3,"response_format":{"type":"text"}}`,
		`{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, `{"messages":{}}`,
	} {
		f.Add([]byte(s))
	}
	d := deps()
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parseChat(d, body)
		if err != nil {
			checkError(t, err)
			return
		}
		checkRequests(t, d, &c.params)
		var ms []struct {
			Role    string `json:"role"`
			Content any    `json:"content"`
		}
		if err := json.Unmarshal(c.requests[0].Prompt.Messages, &ms); err != nil || len(ms) == 0 {
			t.Fatalf("messages %s: %v", c.requests[0].Prompt.Messages, err)
		}
	})
}
