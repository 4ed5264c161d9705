package openai

import (
	"math"
	"slices"
	"unicode/utf8"

	"chorale/router"
	"chorale/services/inference/answer"
	"chorale/services/rest/face"
	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// unsupportedCompletion are the known fields that completions alone refuse.
var unsupportedCompletion = []string{"suffix"}

// completion is a parsed /v1/completions body.
type completion struct {
	params
	// echo puts the prompts' texts in front; texts are those.
	echo  bool
	texts []string
	// logprobsGiven tells that logprobs was given, be it 0.
	logprobsGiven bool
}

// parseCompletion reads a /v1/completions body.
func parseCompletion(d *face.Deps, body []byte) (*completion, error) {
	o, err := jsonbody.Parse(body)
	if err != nil {
		return nil, err
	}
	c := &completion{}
	c.sampling = router.DefaultSampling()
	c.sampling.MaxTokens = 16 // OpenAI's default
	c.readCommon(o, "cmpl-")
	o.Int("max_tokens", &c.sampling.MaxTokens)
	o.Bool("echo", &c.echo)
	face.Refuse(o, unsupportedCompletion...)
	readResponseFormat(o)
	c.readLogprobs(o)
	c.readBestOf(o)
	special := true
	o.Bool("add_special_tokens", &special)
	if o.Err() != nil {
		return nil, o.Err()
	}
	if err := face.CheckSampling(&c.sampling, completionNames, d.Tokens.VocabSize()); err != nil {
		return nil, err
	}
	return c, c.readPrompts(d, o, special)
}

func (c *completion) readLogprobs(o *jsonbody.Object) {
	c.logprobs = router.Logprobs{PromptStart: -1}
	if o.Empty("logprobs") { // also false, which chats take
		return
	}
	c.logprobsGiven, c.logprobs.Enabled = true, true
	o.Int("logprobs", &c.logprobs.Top)
	if c.logprobs.Top < 0 || c.logprobs.Top > face.MaxTop {
		o.Fail(status.Invalid("logprobs", "must be in [0, %d], got %d", face.MaxTop, c.logprobs.Top))
	}
	if c.echo {
		c.logprobs.PromptStart = 0
	}
}

// readBestOf reads best_of: so many answers are made and the n likeliest are
// shown.
func (c *completion) readBestOf(o *jsonbody.Object) {
	if !o.Has("best_of") {
		return
	}
	best := c.keep
	o.Int("best_of", &best)
	switch {
	case best < c.keep:
		o.Fail(status.Invalid("best_of", "must not be below n, %d, got %d", c.keep, best))
	case best > c.keep && c.stream:
		o.Fail(status.Invalid("best_of", "must not be above n in a stream"))
	case best > face.MaxChoices:
		o.Fail(status.Invalid("best_of", "must be at most %d, got %d", face.MaxChoices, best))
	case best > c.keep:
		c.sampling.N = best
		c.logprobs.Enabled = true
	}
}

// readPrompts reads a text, texts, token ids or lists of them.
func (c *completion) readPrompts(d *face.Deps, o *jsonbody.Object, special bool) error {
	v := o.Get("prompt")
	if !v.Given() {
		return status.Invalid("prompt", "is required")
	}
	items := []jsonbody.Value{v}
	if k := v.First().Kind(); v.Kind() == jsonbody.Array && k != jsonbody.Number {
		var err error
		if items, err = v.Items(face.MaxPrompts); err != nil {
			return err
		}
	}
	if len(items) == 0 {
		return v.Errorf("must not be empty")
	}
	if err := c.resolve(d, o, len(items)); err != nil {
		return err
	}
	for _, item := range items {
		if err := c.readPrompt(d, item, special); err != nil {
			return err
		}
	}
	return nil
}

func (c *completion) readPrompt(d *face.Deps, v jsonbody.Value, special bool) error {
	switch v.Kind() {
	case jsonbody.String:
		text, err := v.Text()
		if err != nil {
			return err
		}
		if text == "" {
			return v.Errorf("must not be empty")
		}
		c.texts = append(c.texts, text)
		p := router.Prompt{Text: &text}
		if !special {
			ids, err := d.Router.Encode(p, false)
			if err != nil {
				return err
			}
			p = router.Prompt{IDs: ids}
		}
		c.add(p, v.Path)
		return nil
	case jsonbody.Array:
		ids, err := v.Int32s()
		if err != nil {
			return err
		}
		if err := d.CheckIDs(ids, v.Path); err != nil {
			return err
		}
		text := ""
		if c.echo {
			text = d.Text(ids)
		}
		c.texts = append(c.texts, text)
		c.add(router.Prompt{IDs: ids}, v.Path)
		return nil
	default:
		return v.Errorf("must be a string or an array of token ids, got %s", v.Kind())
	}
}

// completionResponse is the answer, and each chunk of a stream.
type completionResponse struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []completionChoice `json:"choices"`
	// Usage is absent when nil; a nil *usage in it shows as null, as in all
	// chunks but the last of a stream with usage.
	Usage any `json:"usage,omitempty"`
}

type completionChoice struct {
	Index        int                 `json:"index"`
	Text         string              `json:"text"`
	Logprobs     *completionLogprobs `json:"logprobs"`
	FinishReason *string             `json:"finish_reason"`
	MatchedStop  any                 `json:"matched_stop,omitempty"`
	PromptIDs    []int32             `json:"prompt_token_ids,omitempty"`
	TokenIDs     []int32             `json:"token_ids,omitempty"`
}

// completionLogprobs are parallel lists, one item per token.
type completionLogprobs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []*float64           `json:"token_logprobs"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"`
}

// logprobsOf lists positions; offset is where the first one's text begins, in
// code points, and where the next would begin is returned.
func (c *completion) logprobsOf(d *face.Deps, offset int, lists ...[]router.PositionLogprobs) (*completionLogprobs, int) {
	if !c.logprobsGiven {
		return nil, offset
	}
	out := &completionLogprobs{
		Tokens: []string{}, TokenLogprobs: []*float64{}, TopLogprobs: []map[string]float64{}, TextOffset: []int{},
	}
	for _, p := range slices.Concat(lists...) {
		text := d.TokenText(p.ID)
		out.Tokens = append(out.Tokens, text)
		out.TextOffset = append(out.TextOffset, offset)
		offset += utf8.RuneCountInString(text)
		if !p.Known {
			out.TokenLogprobs = append(out.TokenLogprobs, nil)
			out.TopLogprobs = append(out.TopLogprobs, nil)
			continue
		}
		lp := finite(p.Logprob)
		top := map[string]float64{}
		for _, t := range p.Top {
			top[d.TokenText(t.ID)] = finite(t.Logprob)
		}
		top[text] = lp
		out.TokenLogprobs = append(out.TokenLogprobs, &lp)
		out.TopLogprobs = append(out.TopLogprobs, top)
	}
	return out, offset
}

// finite stands in for what JSON cannot say; -9999 is OpenAI's own stand-in.
func finite(lp float64) float64 {
	if math.IsInf(lp, 0) || math.IsNaN(lp) || lp < -9999 {
		return -9999
	}
	return lp
}

func (c *completion) response(choices []completionChoice) *completionResponse {
	if choices == nil {
		choices = []completionChoice{}
	}
	return &completionResponse{ID: c.id, Object: "text_completion", Created: c.created, Model: c.model, Choices: choices}
}

// best picks the answers to show: all, or the likeliest per token.
func (c *completion) best(choices []*answer.Answer) []*answer.Answer {
	if c.keep >= len(choices) {
		return choices
	}
	mean := func(a *answer.Answer) float64 {
		sum := 0.0
		for _, p := range a.Logprobs {
			sum += finite(p.Logprob)
		}
		return sum / float64(max(1, len(a.Logprobs)))
	}
	sorted := slices.Clone(choices)
	slices.SortStableFunc(sorted, func(a, b *answer.Answer) int {
		switch x, y := mean(a), mean(b); {
		case x > y:
			return -1
		case x < y:
			return 1
		default:
			return 0
		}
	})
	return sorted[:c.keep]
}

// choice shows a whole answer.
func (c *completion) choice(d *face.Deps, a *answer.Answer, index int) completionChoice {
	ch := completionChoice{Index: index, Text: a.Text()}
	ch.FinishReason, ch.MatchedStop = finish(a.Finish)
	if c.echo {
		ch.Text = c.texts[a.Prompt] + ch.Text
	}
	ch.Logprobs, _ = c.logprobsOf(d, 0, a.PromptLogprobs, a.Logprobs)
	if c.tokenIDs {
		ch.PromptIDs, ch.TokenIDs = a.Handle.PromptIDs, a.IDs
	}
	return ch
}

// finish gives OpenAI's finish_reason and SGLang's matched_stop: the token id
// or the text that ended the answer.
func finish(f *router.Finish) (reason *string, matched any) {
	if f == nil {
		return nil, nil
	}
	s := "abort"
	switch f.Reason {
	case router.FinishStop:
		s = "stop"
		if f.TokenID >= 0 {
			matched = f.TokenID
		} else if f.Matched != "" {
			matched = f.Matched
		}
	case router.FinishLength:
		s = "length"
	}
	return &s, matched
}

// count adds the usage of answers up: a prompt counts once, however many
// answers it has.
func count(set answer.Set) *usage {
	u := &usage{}
	for _, choices := range set {
		prompt, cached := 0, 0
		for _, a := range choices {
			prompt, cached = max(prompt, a.Usage.PromptTokens), max(cached, a.Usage.CachedTokens)
			u.CompletionTokens += a.Usage.CompletionTokens
		}
		u.PromptTokens += prompt
		u.Details.CachedTokens += cached
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}
