package sglang

import (
	"errors"
	"testing"

	"go.uber.org/zap"

	"chorale/router"
	"chorale/services/rest/face"
	"chorale/services/rest/facetest"
)

// FuzzGenerateBody: a body is refused as invalid, or its requests are valid.
func FuzzGenerateBody(f *testing.F) {
	for _, s := range []string{
		`{"text":"x"}`, `{"text":["x","y"],"lora_path":["a",null],"sampling_params":[{"temperature":0},{"n":2}],"rid":["1","2"]}`,
		`{"input_ids":[[1,2],[3]],"return_logprob":[true,false],"logprob_start_len":0,"top_logprobs_num":[1,2],"token_ids_logprob":[[1],null]}`,
		`{"text":"x","sampling_params":{"max_new_tokens":8,"stop":["a"],"stop_token_ids":[1],"logit_bias":{"1":2},"sampling_seed":-1,"top_p":NaN}}`,
		`{"input_ids":[1,2,3.0],"stream":true,"return_text_in_logprobs":true,"image_data":null}`, `{"text":[[["x"]]]}`, `[]`,
	} {
		f.Add([]byte(s))
	}
	d := &face.Deps{Router: facetest.New("a"), Tokens: facetest.Tokens{}, Log: zap.NewNop()}
	f.Fuzz(func(t *testing.T, body []byte) {
		g, err := parse(d, body)
		if err != nil {
			if !errors.Is(err, router.ErrInvalid) && err.Error() == "" {
				t.Fatalf("odd error %v", err)
			}
			var fe *router.FieldError
			if !errors.As(err, &fe) || fe.Field == "" {
				t.Fatalf("%v names no field", err)
			}
			return
		}
		if len(g.requests) == 0 || len(g.ids) != len(g.requests) || len(g.firstIndexes()) != len(g.requests) {
			t.Fatalf("%d requests, %d ids", len(g.requests), len(g.ids))
		}
		for _, r := range g.requests {
			if r.Prompt.Text == nil && len(r.Prompt.IDs) == 0 || r.Prompt.Text != nil && *r.Prompt.Text == "" {
				t.Fatal("an empty prompt came through")
			}
			if err := face.CheckSampling(&r.Sampling, face.Names{}, d.Tokens.VocabSize()); err != nil {
				t.Fatal(err)
			}
			if r.Logprobs.PromptStart < -1 || r.Logprobs.Top < 0 || r.Logprobs.Top > face.MaxTop || r.Field == "" || r.ID == "" && len(body) == 0 {
				t.Fatalf("%+v", r)
			}
		}
	})
}
