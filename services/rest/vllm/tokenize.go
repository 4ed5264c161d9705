package vllm

import (
	"net/http"

	"chorale/internal/tokenizer"
	"chorale/router"
	"chorale/services/inference"
	"chorale/services/rest/face"
	"chorale/services/rest/jsonbody"
	"chorale/services/rest/openai"
	"chorale/services/status"
)

// tokens answers /tokenize. For a list of prompts, which SGLang's clients
// send, each field holds a list.
type tokens struct {
	Count       any `json:"count"`
	MaxModelLen int `json:"max_model_len"`
	Tokens      any `json:"tokens"`
	TokenStrs   any `json:"token_strs"`
}

// Tokenize is POST /tokenize: of a prompt, of prompts, or of a chat.
func (h *Handler) Tokenize(w http.ResponseWriter, r *http.Request) {
	resp, err := h.tokenize(r)
	if err != nil {
		status.Write(w, status.VLLM, err)
		return
	}
	status.WriteJSON(w, http.StatusOK, resp)
}

func (h *Handler) tokenize(r *http.Request) (*tokens, error) {
	o, err := object(r)
	if err != nil {
		return nil, err
	}
	prompts, list, err := readPrompts(o)
	if err != nil {
		return nil, err
	}
	special := prompts[0].Messages == nil // templates write their own
	o.Bool("add_special_tokens", &special)
	var strs bool
	o.Bool("return_token_strs", &strs)
	if o.Err() != nil {
		return nil, o.Err()
	}
	var all [][]int32
	var counts []int
	var spelled [][]string
	for _, p := range prompts {
		ids, err := h.d.Router.Encode(p, special)
		if err != nil {
			return nil, err
		}
		all, counts = append(all, append([]int32{}, ids...)), append(counts, len(ids))
		spelled = append(spelled, h.spell(ids))
	}
	out := &tokens{MaxModelLen: h.d.Router.Model().Group.ContextLength, Count: counts, Tokens: all}
	if strs {
		out.TokenStrs = spelled
	}
	if !list {
		out.Count, out.Tokens = counts[0], all[0]
		if strs {
			out.TokenStrs = spelled[0]
		}
	}
	return out, nil
}

func (h *Handler) spell(ids []int32) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i], _ = h.d.Tokens.Token(id)
	}
	return out
}

// readPrompts reads "prompt" (a text or texts) or "messages".
func readPrompts(o *jsonbody.Object) (prompts []router.Prompt, list bool, err error) {
	v := o.Get("prompt")
	if !v.Given() {
		if !o.Has("messages") {
			return nil, false, status.Invalid("prompt", "or messages must be given")
		}
		p, err := openai.ReadChatPrompt(o)
		return []router.Prompt{p}, false, err
	}
	texts, err := v.StringOrList(face.MaxPrompts)
	if err != nil {
		return nil, false, err
	}
	if len(texts) == 0 {
		return nil, false, v.Errorf("must not be empty")
	}
	for i := range texts {
		prompts = append(prompts, router.Prompt{Text: &texts[i]})
	}
	return prompts, v.Kind() == jsonbody.Array, nil
}

// Detokenize is POST /detokenize. The text is called "prompt" by vLLM and
// "text" by SGLang; the answer has both.
func (h *Handler) Detokenize(w http.ResponseWriter, r *http.Request) {
	o, err := object(r)
	if err != nil {
		status.Write(w, status.VLLM, err)
		return
	}
	var ids []int32
	var skip bool
	if !o.Has("tokens") {
		o.Fail(status.Invalid("tokens", "is required"))
	}
	o.Int32s("tokens", &ids)
	o.Bool("skip_special_tokens", &skip)
	if o.Err() == nil && len(ids) > 0 {
		o.Fail(h.d.CheckIDs(ids, "tokens"))
	}
	if !inference.HasText(h.d.Tokens) {
		o.Fail(router.ErrNoTokenizer)
	}
	if o.Err() != nil {
		status.Write(w, status.VLLM, o.Err())
		return
	}
	text := h.d.Tokens.Decode(ids, tokenizer.DecodeOptions{SkipSpecial: skip})
	status.WriteJSON(w, http.StatusOK, map[string]string{"prompt": text, "text": text})
}
