package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/rest/facetest"
)

func TestNativeGenerate(t *testing.T) {
	s := serve(t)
	code, out := s.post("/chorale/v1/generate", `{"prompts":[{"text":"hi"},{"tokenIds":{"ids":[104]}},{"chat":{"messages":[{"role":"user","content":"x"}]}}],
		"adapters":["a","","b:c"],"sampling":{"maxTokens":1,"top_k":5},"request_id":"r","logprobs":{"enabled":true,"top":1}}`)
	if code != 200 {
		t.Fatalf("%d %s", code, out)
	}
	gens, _ := decodeJSON(t, out)["generations"].([]any)
	var got []string
	for _, g := range gens {
		g := g.(map[string]any)
		got = append(got, g["text"].(string)+"@"+g["adapter"].(string))
	}
	if diff := cmp.Diff([]string{"[a]Hello@a", "Hello@", "[b:c]Hello@b:c"}, got); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"/chorale/v1/tokenize", "/chorale/v1/detokenize"} {
		body := map[string]string{"/chorale/v1/tokenize": `{"prompt":{"text":"hi"}}`, "/chorale/v1/detokenize": `{"ids":[104]}`}[path]
		if code, out := s.post(path, body); code != 200 {
			t.Errorf("%s = %d %s", path, code, out)
		}
	}
}

func TestNativeStream(t *testing.T) {
	s := serve(t)
	code, out := s.post("/chorale/v1/generate:stream", `{"request":{"prompts":[{"text":"hi"}],"adapters":["a"]}}`)
	if code != 200 {
		t.Fatalf("%d %s", code, out)
	}
	text, lines := "", 0
	for sc := bufio.NewScanner(strings.NewReader(out)); sc.Scan(); lines++ {
		var v struct{ Result struct{ Text string } }
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		text += v.Result.Text
	}
	if text != "[a]Hello world" || lines != 3 {
		t.Errorf("%q in %d lines", text, lines)
	}
	if code, out := s.post("/chorale/v1/generate:stream", `{"request":{"prompts":[{"text":"hi"}],"adapters":["nope"]}}`); code != 404 || !strings.Contains(out, "nope") {
		t.Errorf("%d %s", code, out)
	}
}

func TestNativeBadInput(t *testing.T) {
	s := serve(t)
	for body, want := range map[string]string{
		`{"promts":[]}`:                                                   "promts: is not a field of GenerateRequest",
		`{"prompts":[{"text":"x","extra":1}]}`:                            "prompts[0].extra: is not a field of Prompt",
		`{"prompts":[{"text":"x"}],"sampling":{"temprature":1}}`:          "sampling.temprature: is not a field of SamplingParams",
		`{"prompts":[{"text":"x"}],"sampling":{"temperature":"hot"}}`:     "sampling.temperature: must be a number, got string",
		`{"prompts":[{"text":"x"}],"sampling":{"maxTokens":1.5}}`:         "sampling.max_tokens: must be an integer, got 1.5",
		`{"prompts":[{"text":"x"}],"sampling":{"maxTokens":true}}`:        "sampling.max_tokens: must be an integer, got boolean",
		`{"prompts":[{"text":"x"}],"sampling":{"temperature":NaN}}`:       "sampling.temperature: must be a finite number, got NaN",
		`{"prompts":[{"text":"x"}],"sampling":{"temperature":"NaN"}}`:     "sampling.temperature: ",
		`{"prompts":[{"text":"x"}],"sampling":{"temperature":-1}}`:        "sampling.temperature: ",
		`{"prompts":[{"text":"x"}],"sampling":{"topP":"NaN"}}`:            "sampling.top_p: ",
		`{"prompts":[{"text":"x"}],"sampling":{"logitBias":{"1":"NaN"}}}`: "sampling.logit_bias[1]: must be in [-100, 100], got NaN",
		`{"prompts":[{"text":"x"}],"sampling":{"logitBias":{"x":1}}}`:     `sampling.logit_bias: must have integers as keys, got "x"`,
		`{"prompts":[{"text":5}]}`:                                        "prompts[0].text: must be a string, got number",
		`{"prompts":{"text":"x"}}`:                                        "prompts: must be an array, got object",
		`{"prompts":[{"text":"x","tokenIds":{"ids":[1]}}]}`:               "prompts[0].token_ids: must not be given together with text",
		`{"prompts":[{"tokenIds":{"ids":[1,"x"]}}]}`:                      "prompts[0].token_ids.ids[1]: must be an integer, got string",
		`{"prompts":[{"tokenIds":{"ids":[-1]}}]}`:                         "prompts[0].token_ids.ids[0]: ",
		`{"prompts":[{"tokenIds":{"ids":[]}}]}`:                           "prompts[0].token_ids.ids: ",
		`{"prompts":[]}`:                                                  "prompts: ",
		``:                                                                "prompts: ",
		`{"prompts":[{}]}`:                                                "prompts[0].kind: ",
		`{"prompts":[{"text":""}]}`:                                       "prompts[0].text: must not be empty",
		`{"prompts":[{"text":"x"},{"text":"y"}],"adapters":["a"]}`:        "adapters: must have one name per prompt or none at all: 2 prompts, 1 adapters",
		`{"prompts":[{"text":"x"}],"adapters":["a","a"]}`:                 "adapters: must have one name",
		`{"prompts":[{"text":"x"}],"adapters":"a"}`:                       "adapters: must be an array, got string",
		`{"prompts":[{"text":"` + strings.Repeat("x", 600) + `"}]}`:       "prompts[0]: is too long",
		`[]`:       "body: must be a JSON object, got array",
		`{"prom`:   "is not JSON",
		`{"a":1}2`: "body: has more after its JSON value",
	} {
		code, out := s.post("/chorale/v1/generate", body)
		v := decodeJSON(t, out)
		if len(body) > 100 {
			body = body[:100]
		}
		if msg, _ := v["message"].(string); code != 400 || !strings.Contains(msg, want) || v["code"] != 3.0 {
			t.Errorf("%s = %d %s\nwant %s", body, code, out, want)
		}
		if field, _, ok := strings.Cut(want, ": "); ok && !strings.Contains(out, "fieldViolations") {
			t.Errorf("%s: no field violation of %s: %s", body, field, out)
		}
	}
	code, out := s.post("/chorale/v1/generate", `{"prompts":[{"text":"x"}],"adapters":["nope"]}`)
	if code != 404 || !strings.Contains(out, "never been loaded: nope") || !strings.Contains(out, "ADAPTER_NOT_FOUND") {
		t.Errorf("%d %s", code, out)
	}
	s.router.SubmitErr = router.ErrOverloaded
	if code, h, out := s.call("POST", "/chorale/v1/generate", `{"prompts":[{"text":"x"}]}`); code != 429 || h.Get("Retry-After") != "1" || !strings.Contains(out, "RetryInfo") {
		t.Errorf("%d %s", code, out)
	}
}

// adapterClient notes the names that the gateway's paths gave.
type adapterClient struct {
	*facetest.Adapters
	names []string
}

func (a *adapterClient) GetAdapter(_ context.Context, req *choralev1.GetAdapterRequest, _ ...grpc.CallOption) (*choralev1.GetAdapterResponse, error) {
	a.names = append(a.names, req.Name)
	return &choralev1.GetAdapterResponse{Adapter: &choralev1.Adapter{Name: req.Name}}, nil
}

func (a *adapterClient) ValidateAdapter(_ context.Context, req *choralev1.ValidateAdapterRequest, _ ...grpc.CallOption) (*choralev1.ValidateAdapterResponse, error) {
	a.names = append(a.names, "validate "+req.Source)
	return &choralev1.ValidateAdapterResponse{Valid: true}, nil
}

// TestNativeAdapterNames puts every kind of name into a path.
func TestNativeAdapterNames(t *testing.T) {
	c := &adapterClient{}
	s := serve(t, func(o *Options) {
		c.Adapters = o.Adapters.(*facetest.Adapters)
		o.Adapters = c
	})
	for _, path := range []string{"a", "b:c", "org/name", "/abs/path", "x%3Ay", "%2Fabs%2Fpath", "stimme-%C3%A4"} {
		if code, _, out := s.call("GET", "/chorale/v1/adapters/"+path, ""); code != 200 {
			t.Errorf("%s = %d %s", path, code, out)
		}
	}
	want := []string{"a", "b:c", "org/name", "/abs/path", "x:y", "/abs/path", "stimme-ä"}
	if diff := cmp.Diff(want, c.names); diff != "" {
		t.Error(diff)
	}
	if code, out := s.post("/chorale/v1/adapters:validate", `{"source":"/s"}`); code != 200 {
		t.Errorf("%d %s", code, out)
	}
	if code, out := s.post("/chorale/v1/adapters", `{"name":"n","source":"/s","mustBeNew":true}`); code != 200 {
		t.Errorf("%d %s", code, out)
	}
	if code, out := s.post("/chorale/v1/adapters", `{"name":"n","source":"/s"}`); code != 409 || !strings.Contains(out, "ADAPTER_ALREADY_LOADED") {
		t.Errorf("%d %s", code, out)
	}
	if code, _, out := s.call("DELETE", "/chorale/v1/adapters/n?forze=true", ""); code != 400 || !strings.Contains(out, "forze: is not a query parameter") {
		t.Errorf("%d %s", code, out)
	}
	if code, _, out := s.call("DELETE", "/chorale/v1/adapters/n?force=true", ""); code != 200 {
		t.Errorf("%d %s", code, out)
	}
	if code, _, out := s.call("DELETE", "/chorale/v1/adapters/n", ""); code != 404 {
		t.Errorf("%d %s", code, out)
	}
}
