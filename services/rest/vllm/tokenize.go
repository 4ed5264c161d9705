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
	face.Refuse(o, "tools", "chat_template", "mm_processor_kwargs")
	h.checkModel(o)
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

// checkModel refuses a model that nobody serves; all that are served have the
// same tokens.
func (h *Handler) checkModel(o *jsonbody.Object) {
	var model string
	o.String("model", &model)
	o.Fail(h.d.CheckModel(model))
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
	var skip bool
	o.Bool("skip_special_tokens", &skip)
	h.checkModel(o)
	lists, list, err := h.readLists(o.Get("tokens"))
	o.Fail(err)
	if !inference.HasText(h.d.Tokens) {
		o.Fail(router.ErrNoTokenizer)
	}
	if o.Err() != nil {
		status.Write(w, status.VLLM, o.Err())
		return
	}
	texts := make([]string, len(lists))
	for i, ids := range lists {
		texts[i] = h.d.Tokens.Decode(ids, tokenizer.DecodeOptions{SkipSpecial: skip})
	}
	var text any = texts
	if !list {
		text = texts[0]
	}
	status.WriteJSON(w, http.StatusOK, map[string]any{"prompt": text, "text": text})
}

// readLists reads token ids, or a list of them, which SGLang's clients send.
func (h *Handler) readLists(v jsonbody.Value) (lists [][]int32, list bool, err error) {
	if !v.Given() {
		return nil, false, status.Invalid("tokens", "is required")
	}
	items := []jsonbody.Value{v}
	if list = v.First().Kind() == jsonbody.Array; list {
		if items, err = v.Items(face.MaxPrompts); err != nil {
			return nil, list, err
		}
	}
	for _, item := range items {
		ids, err := item.Int32s()
		if err == nil && len(ids) > 0 {
			err = h.d.CheckIDs(ids, item.Path)
		}
		if err != nil {
			return nil, list, err
		}
		lists = append(lists, ids)
	}
	return lists, list, nil
}
