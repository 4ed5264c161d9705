package router

import (
	"context"
	"encoding/json"
	"time"
)

// Prompt is what a generation starts from; exactly one of Text, IDs and
// Messages is set.
type Prompt struct {
	// Text is tokenized with the model's special tokens added.
	Text *string
	// IDs are token ids, used as they are.
	IDs []int32
	// Messages is a JSON array of chat messages in OpenAI's form, rendered by
	// the model's chat template.
	Messages json.RawMessage
	// NoGenerationPrompt leaves out the header of the assistant's answer.
	NoGenerationPrompt bool
	// ContinueFinalMessage lets the answer go on inside the last message.
	ContinueFinalMessage bool
	// TemplateVars are further variables of the chat template
	// (chat_template_kwargs).
	TemplateVars map[string]json.RawMessage
}

// Sampling says how tokens are chosen and when to stop. Its zero value is not
// the default: start from DefaultSampling.
type Sampling struct {
	MaxTokens         int
	MinTokens         int
	Temperature       float64
	TopP              float64
	TopK              int // <= 0: all
	MinP              float64
	FrequencyPenalty  float64
	PresencePenalty   float64
	RepetitionPenalty float64
	LogitBias         map[int32]float64
	Stop              []string
	StopRegex         []string
	StopTokenIDs      []int32
	IgnoreEOS         bool
	NoStopTrim        bool
	SkipSpecial       bool
	SpacesBetween     bool
	Seed              *uint64
	N                 int
}

// DefaultSampling gives SGLang's defaults: 128 tokens, temperature 1.
func DefaultSampling() Sampling {
	return Sampling{
		MaxTokens: 128, Temperature: 1, TopP: 1, TopK: -1, RepetitionPenalty: 1,
		SkipSpecial: true, SpacesBetween: true, N: 1,
	}
}

// Logprobs asks for log probabilities.
type Logprobs struct {
	Enabled bool
	// PromptStart is the first prompt position to report; -1 for none.
	PromptStart int
	Top         int
	TokenIDs    []int32
}

// Request is one prompt for one adapter.
type Request struct {
	// ID is the caller's name for it in logs and aborts.
	ID     string
	Prompt Prompt
	// Adapter is a registered adapter's name, or a name with a version ("a@3",
	// "a@sha256:…"); "" is the base model.
	Adapter  string
	Sampling Sampling
	Logprobs Logprobs
	// User and Tenant tell whose request it is, for fairness and logs. Where an
	// adapter's versions share its requests, those of one user get one version.
	User, Tenant string
	// Field is the request's path in the caller's message, such as
	// "prompts[3]"; errors that concern this request begin with it.
	Field string
}

// FinishReason says why an answer ended.
type FinishReason uint8

// The reasons.
const (
	FinishNone   FinishReason = iota
	FinishStop                // end token, stop token or stop text
	FinishLength              // MaxTokens or the end of the context
	FinishAbort               // aborted, or failed: Finish.Err says why
)

// Finish tells how an answer ended.
type Finish struct {
	Reason FinishReason
	// TokenID is the end or stop token, -1 when text matched.
	TokenID int32
	// Matched is the stop text or regex match.
	Matched string
	// Err is why, for FinishAbort.
	Err error
}

// TokenLogprob is one token's log probability at a position.
type TokenLogprob struct {
	ID      int32
	Logprob float64
	// Known is false for the first prompt token, which has none.
	Known bool
}

// PositionLogprobs are the log probabilities at one position.
type PositionLogprobs struct {
	TokenLogprob
	Top       []TokenLogprob
	Requested []TokenLogprob
}

// Usage counts tokens.
type Usage struct {
	PromptTokens, CompletionTokens, CachedTokens int
}

// Event is a piece of one answer.
type Event struct {
	// Choice is which of the N answers.
	Choice int
	// Text since the last event of this choice. It is valid UTF-8 and never
	// holds a part of a stop text.
	Text string
	// IDs are the new tokens, the final stop token included.
	IDs            []int32
	Logprobs       []PositionLogprobs
	PromptLogprobs []PositionLogprobs
	Usage          Usage
	// Finish is set in the choice's last event.
	Finish *Finish
}

// EventSource delivers one request's events.
type EventSource interface {
	// Next waits for the next event; io.EOF follows the last choice's Finish.
	Next(ctx context.Context) (Event, error)
	// Close aborts whatever still runs; it may be called repeatedly.
	Close()
}

// Handle is a running request. Its caller reads events until io.EOF or calls
// Close; either gives everything back.
type Handle struct {
	EventSource
	// ID is the request's id, made up when it had none.
	ID string
	// Adapter, Version and Digest say who answers; all empty for the base model.
	Adapter, Digest string
	Version         uint64
	// PromptIDs are the prompt's tokens.
	PromptIDs []int32
	Created   time.Time
}
