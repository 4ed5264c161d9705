package sglang

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"chorale/router"
	"chorale/services/rest/face"
	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// unsupported are known fields of /generate that are not served; null, false
// and empty values ask for nothing.
var unsupported = []string{
	"input_embeds", "image_data", "video_data", "audio_data", "modalities",
	"custom_logit_processor", "session_params", "return_hidden_states",
	"positional_embed_overrides", "bootstrap_host", "bootstrap_room",
	"cache_salt", "extra_key",
}

// unsupportedSampling are those of sampling_params: grammars come later.
var unsupportedSampling = []string{
	"json_schema", "regex", "ebnf", "structural_tag", "custom_params", "beam_width",
}

// names are SGLang's names for what other faces call otherwise.
const (
	maxTokensField = "max_new_tokens"
	minTokensField = "min_new_tokens"
)

// generate is a parsed /generate body.
type generate struct {
	requests []*router.Request
	// ids are the ids that answers show in meta_info, one per prompt.
	ids []string
	// batch tells that the prompts came as a list: so does the answer.
	batch  bool
	stream bool
	// text tells that logprob tuples hold the tokens' texts.
	text bool
}

// list tells that the answer is a list: for a batch, or several choices.
func (g *generate) list() bool {
	return g.batch || len(g.requests) == 1 && g.requests[0].Sampling.N > 1
}

// parse reads a /generate body.
func parse(d *face.Deps, body []byte) (*generate, error) {
	o, err := jsonbody.Parse(body)
	if err != nil {
		return nil, err
	}
	g := &generate{}
	if err := g.prompts(d, o); err != nil {
		return nil, err
	}
	face.Refuse(o, unsupported...)
	o.Bool("stream", &g.stream)
	o.Bool("return_text_in_logprobs", &g.text)
	if o.Err() != nil {
		return nil, o.Err()
	}
	for _, read := range []func(*face.Deps, *jsonbody.Object) error{g.sampling, g.adapters, g.logprobs, g.rids} {
		if err := read(d, o); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// prompts reads text or input_ids and makes one request for each prompt.
func (g *generate) prompts(d *face.Deps, o *jsonbody.Object) error {
	text, ids := o.Get("text"), o.Get("input_ids")
	switch {
	case text.Given() && ids.Given():
		return status.Invalid("input_ids", "must not be given together with text")
	case text.Given():
		return g.texts(text)
	case ids.Given():
		return g.inputIDs(d, ids)
	default:
		face.Refuse(o, "input_embeds")
		if o.Err() != nil {
			return o.Err()
		}
		return status.Invalid("text", "or input_ids must be given")
	}
}

func (g *generate) texts(v jsonbody.Value) error {
	g.batch = v.Kind() == jsonbody.Array
	texts, err := v.StringOrList(face.MaxPrompts)
	if err != nil {
		return err
	}
	if len(texts) == 0 {
		return v.Errorf("must not be empty")
	}
	for i := range texts {
		field := g.path(v.Path, i)
		if texts[i] == "" {
			return status.Invalid(field, "must not be empty")
		}
		g.add(field, router.Prompt{Text: &texts[i]})
	}
	return nil
}

func (g *generate) inputIDs(d *face.Deps, v jsonbody.Value) error {
	items := []jsonbody.Value{v}
	if v.Kind() == jsonbody.Array && v.First().Kind() == jsonbody.Array {
		g.batch = true
		var err error
		if items, err = v.Items(face.MaxPrompts); err != nil {
			return err
		}
	}
	for _, item := range items {
		ids, err := item.Int32s()
		if err != nil {
			return err
		}
		if err := d.CheckIDs(ids, item.Path); err != nil {
			return err
		}
		g.add(item.Path, router.Prompt{IDs: ids})
	}
	return nil
}

func (g *generate) path(field string, i int) string {
	if !g.batch {
		return field
	}
	return fmt.Sprintf("%s[%d]", field, i)
}

func (g *generate) add(field string, p router.Prompt) {
	g.requests = append(g.requests, &router.Request{
		Field: field, Prompt: p, Sampling: router.DefaultSampling(), Logprobs: router.Logprobs{PromptStart: -1},
	})
}

// perPrompt hands fn the value for each prompt of a field that holds one value
// for all or a list with one per prompt. Null is handed on as well: it may
// mean something in a list.
func (g *generate) perPrompt(o *jsonbody.Object, field string, isList func(jsonbody.Value) bool, fn func(r *router.Request, v jsonbody.Value) error) error {
	v := o.Get(field)
	if !v.Given() {
		return nil
	}
	if !isList(v) {
		for _, r := range g.requests {
			if err := fn(r, v); err != nil {
				return err
			}
		}
		return nil
	}
	items, err := v.Items(face.MaxPrompts)
	if err != nil {
		return err
	}
	if len(items) != len(g.requests) {
		return v.Errorf("must have one item per prompt: %d prompts, %d items", len(g.requests), len(items))
	}
	for i, item := range items {
		if err := fn(g.requests[i], item); err != nil {
			return err
		}
	}
	return nil
}

func isArray(v jsonbody.Value) bool { return v.Kind() == jsonbody.Array }

func (g *generate) sampling(d *face.Deps, o *jsonbody.Object) error {
	return g.perPrompt(o, "sampling_params", isArray, func(r *router.Request, v jsonbody.Value) error {
		if !v.Given() {
			return nil
		}
		return readSampling(&r.Sampling, v, d.Tokens.VocabSize())
	})
}

func readSampling(s *router.Sampling, v jsonbody.Value, vocab int) error {
	o, err := v.Object()
	if err != nil {
		return err
	}
	o.Int(maxTokensField, &s.MaxTokens)
	o.Int(minTokensField, &s.MinTokens)
	o.Seed("sampling_seed", &s.Seed)
	face.ReadSampling(o, s)
	face.Refuse(o, unsupportedSampling...)
	if o.Err() != nil {
		return o.Err()
	}
	return face.CheckSampling(s, face.Names{Prefix: v.Path + ".", MaxTokens: maxTokensField, MinTokens: minTokensField}, vocab)
}

func (g *generate) adapters(_ *face.Deps, o *jsonbody.Object) error {
	return g.perPrompt(o, "lora_path", isArray, func(r *router.Request, v jsonbody.Value) error {
		if !v.Given() {
			return nil
		}
		name, err := v.Text()
		r.Adapter = name
		return err
	})
}

func (g *generate) logprobs(d *face.Deps, o *jsonbody.Object) error {
	err := g.perPrompt(o, "return_logprob", isArray, func(r *router.Request, v jsonbody.Value) (err error) {
		if v.Given() {
			r.Logprobs.Enabled, err = v.Bool()
		}
		return err
	})
	if err != nil {
		return err
	}
	err = g.perPrompt(o, "logprob_start_len", isArray, func(r *router.Request, v jsonbody.Value) error {
		n, err := intIn(v, -1, -1, 1<<31-1)
		r.Logprobs.PromptStart = n
		return err
	})
	if err != nil {
		return err
	}
	err = g.perPrompt(o, "top_logprobs_num", isArray, func(r *router.Request, v jsonbody.Value) error {
		n, err := intIn(v, 0, 0, face.MaxTop)
		r.Logprobs.Top = n
		return err
	})
	if err != nil {
		return err
	}
	return g.tokenIDs(d, o)
}

// tokenIDs reads token_ids_logprob: a list of ids for all prompts or a list of
// lists.
func (g *generate) tokenIDs(d *face.Deps, o *jsonbody.Object) error {
	nested := func(v jsonbody.Value) bool {
		k := v.First().Kind()
		return v.Kind() == jsonbody.Array && (k == jsonbody.Array || k == jsonbody.Null)
	}
	err := g.perPrompt(o, "token_ids_logprob", nested, func(r *router.Request, v jsonbody.Value) error {
		if !v.Given() {
			return nil
		}
		ids, err := v.Int32s()
		if err != nil || len(ids) == 0 {
			return err
		}
		r.Logprobs.TokenIDs = ids
		return d.CheckIDs(ids, v.Path)
	})
	for _, r := range g.requests {
		if !r.Logprobs.Enabled {
			r.Logprobs = router.Logprobs{PromptStart: -1}
		}
	}
	return err
}

func intIn(v jsonbody.Value, absent, lo, hi int) (int, error) {
	if !v.Given() {
		return absent, nil
	}
	n, err := v.Int()
	if err == nil && (n < lo || n > hi) {
		err = v.Errorf("must be in [%d, %d], got %d", lo, hi, n)
	}
	return n, err
}

// rids reads the request ids: one for all (numbered for a batch, as SGLang
// does), one per prompt, or made up.
func (g *generate) rids(_ *face.Deps, o *jsonbody.Object) error {
	v := o.Get("rid")
	g.ids = make([]string, len(g.requests))
	switch {
	case !v.Given():
		for i := range g.ids {
			g.ids[i] = newID()
		}
	case v.Kind() == jsonbody.String:
		rid, err := v.Text()
		if err != nil {
			return err
		}
		for i := range g.ids {
			g.ids[i] = rid
			if g.batch {
				g.ids[i] = rid + "_" + strconv.Itoa(i)
			}
		}
	default:
		ids, err := v.Strings(face.MaxPrompts)
		if err != nil {
			return err
		}
		if len(ids) != len(g.requests) {
			return v.Errorf("must have one item per prompt: %d prompts, %d items", len(g.requests), len(ids))
		}
		copy(g.ids, ids)
	}
	return g.nameRequests(v)
}

// nameRequests gives the requests the ids by which /abort_request finds them:
// a batch that has one rid is aborted by that rid, although its answers show
// numbered ones.
func (g *generate) nameRequests(rid jsonbody.Value) error {
	for i, r := range g.requests {
		if len(g.ids[i]) > maxRID {
			return rid.Errorf("must have at most %d bytes", maxRID)
		}
		r.ID = g.ids[i]
		if rid.Kind() == jsonbody.String {
			r.ID, _ = rid.Text()
		}
	}
	return nil
}

// maxRID bounds request ids, which go into logs.
const maxRID = 256

// newID makes an id in the form of SGLang's: 32 lower-case characters.
func newID() string { return strings.ToLower(rand.Text() + rand.Text())[:32] }
