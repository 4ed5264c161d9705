package openai

import (
	"errors"

	"chorale/router"
	"chorale/services/rest/face"
	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// unsupported are known fields, of OpenAI or of its servers' extensions, that
// are not served on either route. Null, false and empty ask for nothing.
var unsupported = []string{
	"json_schema", "regex", "ebnf", "structural_tag", "structured_outputs",
	"guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend",
	"custom_logit_processor", "custom_params", "logits_processors", "use_beam_search", "prompt_logprobs",
	"allowed_token_ids", "bad_words", "truncate_prompt_tokens", "prompt_embeds", "input_embeds",
	"return_hidden_states", "return_tokens_as_token_ids", "session_params", "kv_transfer_params",
	"cache_salt", "extra_key",
}

// params are what both routes have in common.
type params struct {
	// id is the answer's: the client's rid, or else prefix and the request's id.
	id, prefix, model, user string
	created                 int64
	stream                  bool
	// usage sends a last chunk with the token counts, everyUsage sends them
	// with each chunk.
	usage, everyUsage bool
	tokenIDs          bool
	sampling          router.Sampling
	logprobs          router.Logprobs
	choices           []face.Choice
	requests          []*router.Request
	// keep is how many answers per prompt are shown; more are made with
	// best_of.
	keep int
}

// completionNames are the names that errors show.
var completionNames = face.Names{MaxTokens: "max_tokens", MinTokens: "min_tokens"}

// readCommon reads everything but prompts, logprobs and the limits' defaults.
func (p *params) readCommon(o *jsonbody.Object, prefix string) {
	p.prefix = prefix
	for _, field := range []string{"rid", "request_id"} {
		o.String(field, &p.id)
		if o.Has(field) && (p.id == "" || len(p.id) > maxID) {
			o.Fail(status.Invalid(field, "must have 1 to %d bytes", maxID))
		}
	}
	o.String("user", &p.user)
	o.Bool("stream", &p.stream)
	o.Bool("return_token_ids", &p.tokenIDs)
	s := &p.sampling
	o.Int("min_tokens", &s.MinTokens)
	o.Seed("sampling_seed", &s.Seed)
	o.Seed("seed", &s.Seed)
	face.ReadSampling(o, s)
	o.Bool("include_stop_str_in_output", &s.NoStopTrim)
	p.readStreamOptions(o)
	face.Refuse(o, unsupported...)
	p.keep = s.N
}

// maxID bounds request ids, which go into logs.
const maxID = 256

func (p *params) readStreamOptions(o *jsonbody.Object) {
	so := o.Struct("stream_options")
	if so == nil {
		return
	}
	so.Bool("include_usage", &p.usage)
	so.Bool("continuous_usage_stats", &p.everyUsage)
	o.Fail(so.Err())
	if !p.stream {
		o.Fail(status.Invalid("stream_options", "must not be given unless stream is true"))
	}
	p.everyUsage = p.everyUsage && p.usage
}

// resolve finds the adapter of each prompt: "model" first, then "lora_path",
// which may be a list with one name per prompt.
func (p *params) resolve(d *face.Deps, o *jsonbody.Object, prompts int) error {
	m := d.Router.Model()
	o.String("model", &p.model)
	lora := o.Get("lora_path")
	if o.Err() != nil {
		return o.Err()
	}
	choice, ok, err := face.ResolveModel(m, d.Router.Catalogue(), p.model)
	if err != nil {
		return err
	}
	if p.model == "" {
		p.model = m.Name
	}
	p.choices = make([]face.Choice, prompts)
	switch {
	case ok:
		for i := range p.choices {
			p.choices[i] = choice
		}
		return nil
	case !lora.Given():
		return nil
	case lora.Kind() == jsonbody.Array:
		return p.loraList(lora)
	default:
		name, err := lora.Text()
		for i := range p.choices {
			p.choices[i] = face.Choice{Adapter: name, Given: name, Field: "lora_path"}
		}
		return err
	}
}

func (p *params) loraList(lora jsonbody.Value) error {
	items, err := lora.Items(face.MaxPrompts)
	if err != nil {
		return err
	}
	if len(items) != len(p.choices) {
		return lora.Errorf("must have one item per prompt: %d prompts, %d items", len(p.choices), len(items))
	}
	for i, item := range items {
		if !item.Given() {
			continue
		}
		name, err := item.Text()
		if err != nil {
			return err
		}
		p.choices[i] = face.Choice{Adapter: name, Given: name, Field: item.Path}
	}
	return nil
}

// add makes the request of one prompt.
func (p *params) add(prompt router.Prompt, field string) {
	i := len(p.requests)
	p.requests = append(p.requests, &router.Request{
		Prompt: prompt, Adapter: p.choices[i].Adapter, Sampling: p.sampling,
		Logprobs: p.logprobs, User: p.user, Field: field,
	})
}

// usage is OpenAI's usage object.
type usage struct {
	PromptTokens     int          `json:"prompt_tokens"`
	CompletionTokens int          `json:"completion_tokens"`
	TotalTokens      int          `json:"total_tokens"`
	Details          usageDetails `json:"prompt_tokens_details"`
}

type usageDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

// explain turns an adapter that was never loaded into a model that does not
// exist, and the router's path of a chat's messages into the client's.
func (p *params) explain(err error) error {
	var fe *router.FieldError
	if errors.As(err, &fe) && fe.Field == "messages.messages" {
		return &router.FieldError{Field: "messages", Problem: fe.Problem, Err: fe.Err}
	}
	return face.Explain(err, p.choices)
}
