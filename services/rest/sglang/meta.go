package sglang

import (
	"math"
	"time"

	"chorale/router"
	"chorale/services/inference/answer"
	"chorale/services/rest/face"
)

// output is one answer (so far) in /generate's form.
type output struct {
	Text      string  `json:"text"`
	OutputIDs []int32 `json:"output_ids"`
	Meta      *meta   `json:"meta_info"`
	// Index is the answer's position in a streamed list.
	Index *int `json:"index,omitempty"`
}

type meta struct {
	ID               string  `json:"id"`
	FinishReason     any     `json:"finish_reason"`
	PromptTokens     int     `json:"prompt_tokens"`
	WeightVersion    string  `json:"weight_version"`
	CompletionTokens int     `json:"completion_tokens"`
	CachedTokens     int     `json:"cached_tokens"`
	E2ELatency       float64 `json:"e2e_latency,omitempty"`
	// Who answered; not SGLang's.
	Adapter        string `json:"adapter,omitempty"`
	AdapterVersion uint64 `json:"adapter_version,omitempty"`
	AdapterDigest  string `json:"adapter_digest,omitempty"`
	*logprobMeta
}

// logprobMeta holds what return_logprob adds. Positions are tuples
// [logprob, token id, text or null]; the first prompt token has no logprob and
// no alternatives: null.
type logprobMeta struct {
	InputTokens   []tuple   `json:"input_token_logprobs"`
	OutputTokens  []tuple   `json:"output_token_logprobs"`
	InputTop      *[]tuples `json:"input_top_logprobs,omitempty"`
	OutputTop     *[]tuples `json:"output_top_logprobs,omitempty"`
	InputTokenID  *[]tuples `json:"input_token_ids_logprobs,omitempty"`
	OutputTokenID *[]tuples `json:"output_token_ids_logprobs,omitempty"`
}

type (
	tuple  [3]any
	tuples []tuple // null when nil
)

// finishStop and its siblings are finish_reason's forms.
type (
	finishStop struct {
		Type    string `json:"type"`
		Matched any    `json:"matched"`
	}
	finishLength struct {
		Type   string `json:"type"`
		Length int    `json:"length"`
	}
	finishAbort struct {
		Type       string  `json:"type"`
		Message    string  `json:"message"`
		StatusCode *int    `json:"status_code"`
		ErrType    *string `json:"err_type"`
	}
)

func finishReason(a *answer.Answer) any {
	f := a.Finish
	if f == nil {
		return nil
	}
	switch f.Reason {
	case router.FinishStop:
		if f.TokenID >= 0 {
			return finishStop{"stop", f.TokenID}
		}
		return finishStop{"stop", f.Matched}
	case router.FinishLength:
		return finishLength{"length", a.Usage.CompletionTokens}
	default:
		out := finishAbort{Type: "abort", Message: "Aborted by request"}
		if f.Err != nil {
			out.Message = f.Err.Error()
		}
		return out
	}
}

// shape turns an answer into output.
func (g *generate) shape(d *face.Deps, a *answer.Answer, start time.Time) output {
	out := output{
		Text: a.Text(), OutputIDs: a.IDs,
		Meta: &meta{
			ID: g.ids[a.Prompt], FinishReason: finishReason(a), WeightVersion: "default",
			PromptTokens: a.Usage.PromptTokens, CompletionTokens: a.Usage.CompletionTokens,
			CachedTokens: a.Usage.CachedTokens,
			Adapter:      a.Handle.Adapter, AdapterVersion: a.Handle.Version, AdapterDigest: a.Handle.Digest,
		},
	}
	if out.OutputIDs == nil {
		out.OutputIDs = []int32{}
	}
	if a.Finish != nil {
		out.Meta.E2ELatency = time.Since(start).Seconds()
	}
	if l := g.requests[a.Prompt].Logprobs; l.Enabled {
		out.Meta.logprobMeta = g.logprobMeta(d, a, l)
	}
	return out
}

func (g *generate) logprobMeta(d *face.Deps, a *answer.Answer, l router.Logprobs) *logprobMeta {
	m := &logprobMeta{
		InputTokens: g.chosen(d, a.PromptLogprobs), OutputTokens: g.chosen(d, a.Logprobs),
	}
	if l.Top > 0 {
		top := func(p router.PositionLogprobs) []router.TokenLogprob { return p.Top }
		m.InputTop, m.OutputTop = g.others(d, a.PromptLogprobs, top), g.others(d, a.Logprobs, top)
	}
	if len(l.TokenIDs) > 0 {
		req := func(p router.PositionLogprobs) []router.TokenLogprob { return p.Requested }
		m.InputTokenID, m.OutputTokenID = g.others(d, a.PromptLogprobs, req), g.others(d, a.Logprobs, req)
	}
	return m
}

func (g *generate) chosen(d *face.Deps, ps []router.PositionLogprobs) []tuple {
	out := make([]tuple, len(ps))
	for i, p := range ps {
		out[i] = g.tuple(d, p.TokenLogprob)
	}
	return out
}

func (g *generate) others(d *face.Deps, ps []router.PositionLogprobs, pick func(router.PositionLogprobs) []router.TokenLogprob) *[]tuples {
	out := make([]tuples, len(ps))
	for i, p := range ps {
		if !p.Known {
			continue
		}
		out[i] = tuples{}
		for _, t := range pick(p) {
			out[i] = append(out[i], g.tuple(d, t))
		}
	}
	return &out
}

func (g *generate) tuple(d *face.Deps, t router.TokenLogprob) tuple {
	out := tuple{nil, t.ID, nil}
	// JSON has no infinities: a token of probability 0 shows null.
	if t.Known && !math.IsInf(t.Logprob, 0) && !math.IsNaN(t.Logprob) {
		out[0] = t.Logprob
	}
	if g.text {
		out[2] = d.Text([]int32{t.ID})
	}
	return out
}
