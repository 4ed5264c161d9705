package protobody

import (
	"errors"
	"testing"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
)

func TestUnmarshal(t *testing.T) {
	for body, want := range map[string]string{
		``:   "",
		`{}`: "",
		`{"prompts":[{"text":"x"}],"sampling":{"maxTokens":"5","temperature":"Infinity","seed":"18446744073709551615","logitBias":{"5":1}}}`: "",
		`{"prompts":null}`:                            "",
		`{"prompts":[null]}`:                          "prompts[0]: must be an object, got null",
		`{"":{}}`:                                     `"": is not a field of GenerateRequest`,
		`{"sampling":[]}`:                             "sampling: must be an object, got array",
		`{"sampling":{"maxTokens":"x"}}`:              "sampling.max_tokens: must be an integer, got string",
		`{"sampling":{"maxTokens":9999999999}}`:       "sampling.max_tokens: must fit into 32 bits, got 9999999999",
		`{"sampling":{"ignoreEos":"true"}}`:           "sampling.ignore_eos: must be true or false, got string",
		`{"sampling":{"max_tokens":1,"maxTokens":1}}`: "sampling.max_tokens: must not be given together with maxTokens",
		`{"sampling":{"logitBias":{"1":"x"}}}`:        `sampling.logit_bias["1"]: must be a number, got string`,
		`{"sampling":{"seed":-1}}`:                    "body: ",
	} {
		err := Unmarshal([]byte(body), &choralev1.GenerateRequest{})
		switch {
		case want == "":
			if err != nil {
				t.Errorf("%s: %v", body, err)
			}
		case want == "body: ":
			if err == nil {
				t.Errorf("%s passed", body)
			}
		case err == nil || err.Error() != want:
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
}

// FuzzUnmarshal: a body is read, or refused with a field.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		`{"prompts":[{"text":"x"},{"tokenIds":{"ids":[1]}},{"chat":{"messages":[{"role":"u"}]}}],"sampling":{"logitBias":{"1":NaN}}}`,
		`{"a":1}`, `{"sampling":{"seed":"-1"}}`, `{"prompts":[{"text":"\ud800"}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := Unmarshal(body, &choralev1.GenerateRequest{}); err != nil {
			var fe *router.FieldError
			if !errors.As(err, &fe) || fe.Field == "" {
				t.Fatalf("%v names no field", err)
			}
		}
	})
}
