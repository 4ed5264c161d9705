package inference

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"chorale/internal/tokenizer"
	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/inference/answer"
	"chorale/services/status"
)

// requests makes one router request per prompt; path stands in front of the
// fields' paths.
func (s *Service) requests(req *choralev1.GenerateRequest, path string) ([]*router.Request, error) {
	n := len(req.GetPrompts())
	if got := len(req.Adapters); got != 0 && got != n {
		return nil, status.Invalid(path+"adapters", "must have one name per prompt or none at all: %d prompts, %d adapters", n, got)
	}
	vocab := s.tokens.VocabSize()
	sampling, err := sampling(req.Sampling, path+"sampling", vocab)
	if err != nil {
		return nil, err
	}
	if err := checkIDs(req.GetLogprobs().GetTokenIds(), path+"logprobs.token_ids", vocab); err != nil {
		return nil, err
	}
	reqs := make([]*router.Request, n)
	for i, p := range req.Prompts {
		field := fmt.Sprintf("%sprompts[%d]", path, i)
		rp, err := s.prompt(p, field)
		if err != nil {
			return nil, err
		}
		reqs[i] = &router.Request{
			ID: req.RequestId, Prompt: rp, Sampling: sampling, Logprobs: logprobs(req.Logprobs),
			User: req.User, Field: field,
		}
		if len(req.Adapters) > 0 {
			reqs[i].Adapter = req.Adapters[i]
		}
	}
	return reqs, nil
}

func (s *Service) prompt(p *choralev1.Prompt, field string) (router.Prompt, error) {
	switch k := p.GetKind().(type) {
	case *choralev1.Prompt_Text:
		if k.Text == "" {
			return router.Prompt{}, status.Invalid(field+".text", "must not be empty")
		}
		return router.Prompt{Text: &k.Text}, nil
	case *choralev1.Prompt_TokenIds:
		if len(k.TokenIds.GetIds()) == 0 {
			return router.Prompt{}, status.Invalid(field+".token_ids.ids", "must not be empty")
		}
		return router.Prompt{IDs: k.TokenIds.Ids}, checkIDs(k.TokenIds.Ids, field+".token_ids.ids", s.tokens.VocabSize())
	case *choralev1.Prompt_Chat:
		return chat(k.Chat, field)
	default:
		return router.Prompt{}, status.Invalid(field, "must have one of text, token_ids and chat")
	}
}

func chat(c *choralev1.Chat, field string) (router.Prompt, error) {
	if len(c.GetMessages()) == 0 {
		return router.Prompt{}, status.Invalid(field+".chat.messages", "must not be empty")
	}
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
		Name    string `json:"name,omitempty"`
	}
	ms := make([]message, len(c.Messages))
	for i, m := range c.Messages {
		ms[i] = message{m.GetRole(), m.GetContent(), m.GetName()}
	}
	raw, err := json.Marshal(ms)
	if err != nil {
		return router.Prompt{}, fmt.Errorf("%s.chat: %w", field, err)
	}
	return router.Prompt{
		Messages:           raw,
		NoGenerationPrompt: c.AddGenerationPrompt != nil && !*c.AddGenerationPrompt,
	}, nil
}

// sampling fills the defaults in. Ranges are protovalidate's and the router's.
func sampling(p *choralev1.SamplingParams, path string, vocab int) (router.Sampling, error) {
	s := router.DefaultSampling()
	if p == nil {
		return s, nil
	}
	set(&s.MaxTokens, p.MaxTokens)
	set(&s.MinTokens, p.MinTokens)
	set(&s.TopK, p.TopK)
	set(&s.N, p.N)
	setFloat(&s.Temperature, p.Temperature)
	setFloat(&s.TopP, p.TopP)
	setFloat(&s.MinP, p.MinP)
	setFloat(&s.FrequencyPenalty, p.FrequencyPenalty)
	setFloat(&s.PresencePenalty, p.PresencePenalty)
	setFloat(&s.RepetitionPenalty, p.RepetitionPenalty)
	if err := checkIDs(p.StopTokenIds, path+".stop_token_ids", vocab); err != nil {
		return s, err
	}
	for id, b := range p.LogitBias {
		field := fmt.Sprintf("%s.logit_bias[%d]", path, id)
		if err := checkID(id, field, vocab); err != nil {
			return s, err
		}
		if !(b >= -maxBias && b <= maxBias) { // NaN fails this
			return s, status.Invalid(field, "must be in [-%d, %d], got %v", maxBias, maxBias, b)
		}
	}
	s.LogitBias, s.Stop, s.StopRegex, s.StopTokenIDs = p.LogitBias, p.Stop, p.StopRegex, p.StopTokenIds
	s.IgnoreEOS, s.NoStopTrim, s.Seed = p.IgnoreEos, p.NoStopTrim, p.Seed
	if p.SkipSpecialTokens != nil {
		s.SkipSpecial = *p.SkipSpecialTokens
	}
	if p.SpacesBetweenSpecialTokens != nil {
		s.SpacesBetween = *p.SpacesBetweenSpecialTokens
	}
	if s.MinTokens > s.MaxTokens {
		return s, status.Invalid(path+".min_tokens", "must not be above max_tokens, %d, got %d", s.MaxTokens, s.MinTokens)
	}
	return s, CheckStopRegex(s.StopRegex, path+".stop_regex")
}

// CheckStopRegex refuses expressions that cannot be read, by the name that the
// client gave their field.
func CheckStopRegex(exprs []string, field string) error {
	for i, re := range exprs {
		if _, err := tokenizer.NewStopMatcher(tokenizer.StopOptions{Regexes: []string{re}}); err != nil {
			why := strings.TrimPrefix(err.Error(), tokenizer.ErrStop.Error()+": ")
			return status.Invalid(fmt.Sprintf("%s[%d]", field, i), "must be a regular expression: %s", why)
		}
	}
	return nil
}

func set(dst *int, v *int32) {
	if v != nil {
		*dst = int(*v)
	}
}

func setFloat(dst *float64, v *float64) {
	if v != nil {
		*dst = *v
	}
}

func logprobs(o *choralev1.LogprobOptions) router.Logprobs {
	l := router.Logprobs{PromptStart: -1}
	if o == nil {
		return l
	}
	l.Enabled, l.Top, l.TokenIDs = o.Enabled, int(o.Top), o.TokenIds
	set(&l.PromptStart, o.PromptStart)
	return l
}

// checkIDs refuses ids outside the vocabulary, which Decode would drop.
func checkIDs(ids []int32, field string, vocab int) error {
	for i, id := range ids {
		if id < 0 || int(id) >= vocab {
			return checkID(id, fmt.Sprintf("%s[%d]", field, i), vocab)
		}
	}
	return nil
}

func checkID(id int32, field string, vocab int) error {
	if id < 0 || int(id) >= vocab {
		return status.Invalid(field, "must be a token id in [0, %d), got %d", vocab, id)
	}
	return nil
}

// maxBias bounds logit biases, as OpenAI does.
const maxBias = 100

func (s *Service) generation(a *answer.Answer) *choralev1.Generation {
	return &choralev1.Generation{
		PromptIndex: int32(a.Prompt), ChoiceIndex: int32(a.Choice),
		Text: text(a.Text()), TokenIds: a.IDs, Finish: finish(a.Finish), Usage: usage(a.Usage),
		PromptLogprobs: s.positions(a.PromptLogprobs), Logprobs: s.positions(a.Logprobs),
		Adapter: a.Handle.Adapter, AdapterDigest: a.Handle.Digest, AdapterVersion: a.Handle.Version,
	}
}

func (s *Service) piece(id string, a *answer.Answer, ev router.Event) *choralev1.GenerateStreamResponse {
	r := &choralev1.GenerateStreamResponse{
		RequestId: id, PromptIndex: int32(a.Prompt), ChoiceIndex: int32(a.Choice),
		Text: text(ev.Text), TokenIds: ev.IDs,
		PromptLogprobs: s.positions(ev.PromptLogprobs), Logprobs: s.positions(ev.Logprobs),
		Adapter: a.Handle.Adapter, AdapterDigest: a.Handle.Digest, AdapterVersion: a.Handle.Version,
	}
	if ev.Finish != nil {
		r.Finish, r.Usage = finish(ev.Finish), usage(a.Usage)
	}
	return r
}

func finish(f *router.Finish) *choralev1.Finish {
	if f == nil {
		return nil
	}
	out := &choralev1.Finish{}
	switch f.Reason {
	case router.FinishStop:
		out.Reason = choralev1.FinishReason_FINISH_REASON_STOP
		switch {
		case f.TokenID >= 0:
			out.Matched = &choralev1.Finish_TokenId{TokenId: f.TokenID}
		case f.Matched != "":
			out.Matched = &choralev1.Finish_Text{Text: text(f.Matched)}
		}
	case router.FinishLength:
		out.Reason = choralev1.FinishReason_FINISH_REASON_LENGTH
	case router.FinishAbort:
		out.Reason = choralev1.FinishReason_FINISH_REASON_ABORT
		if f.Err != nil {
			out.Message = text(f.Err.Error())
		}
	}
	return out
}

func usage(u router.Usage) *choralev1.Usage {
	return &choralev1.Usage{
		PromptTokens: int32(u.PromptTokens), CompletionTokens: int32(u.CompletionTokens),
		CachedTokens: int32(u.CachedTokens),
	}
}

func (s *Service) positions(ps []router.PositionLogprobs) []*choralev1.PositionLogprobs {
	out := make([]*choralev1.PositionLogprobs, len(ps))
	for i, p := range ps {
		out[i] = &choralev1.PositionLogprobs{
			Token: s.token(p.TokenLogprob), Top: s.tokenList(p.Top), Requested: s.tokenList(p.Requested),
		}
	}
	return out
}

func (s *Service) tokenList(ts []router.TokenLogprob) []*choralev1.TokenLogprob {
	out := make([]*choralev1.TokenLogprob, len(ts))
	for i, t := range ts {
		out[i] = s.token(t)
	}
	return out
}

func (s *Service) token(t router.TokenLogprob) *choralev1.TokenLogprob {
	return &choralev1.TokenLogprob{
		TokenId: t.ID, Logprob: t.Logprob, Known: t.Known, Token: text(string(s.tokens.TokenBytes(t.ID))),
	}
}

// text makes a string fit for protobuf: a token's bytes may be part of a rune.
func text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
