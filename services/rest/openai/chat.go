package openai

import (
	"encoding/json"
	"unicode/utf8"

	"chorale/router"
	"chorale/services/inference/answer"
	"chorale/services/rest/face"
	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// unsupportedChat are the known fields that chats alone refuse.
var unsupportedChat = []string{
	"tools", "functions", "chat_template", "documents", "audio", "prediction", "web_search_options", "echo",
	"add_special_tokens", // templates write their own
}

// maxMessages bounds the messages of one chat.
const maxMessages = 1 << 14

// chat is a parsed /v1/chat/completions body.
type chat struct{ params }

// parseChat reads a /v1/chat/completions body.
func parseChat(d *face.Deps, body []byte) (*chat, error) {
	o, err := jsonbody.Parse(body)
	if err != nil {
		return nil, err
	}
	c := &chat{}
	c.sampling = router.DefaultSampling()
	c.sampling.MaxTokens = wholeContext(d)
	c.readCommon(o, "chatcmpl-")
	o.Int("max_tokens", &c.sampling.MaxTokens)
	maxName := "max_tokens"
	if o.Has("max_completion_tokens") {
		maxName = "max_completion_tokens"
		o.Int(maxName, &c.sampling.MaxTokens)
	}
	face.Refuse(o, unsupportedChat...)
	if best := c.keep; o.Has("best_of") {
		if o.Int("best_of", &best); best != c.keep {
			o.Fail(status.Unsupported("best_of"))
		}
	}
	c.readLogprobs(o)
	readFormat(o)
	prompt := readPrompt(o)
	if o.Err() != nil {
		return nil, o.Err()
	}
	names := face.Names{MaxTokens: maxName, MinTokens: "min_tokens"}
	if err := face.CheckSampling(&c.sampling, names, d.Tokens.VocabSize()); err != nil {
		return nil, err
	}
	if err := c.resolve(d, o, 1); err != nil {
		return nil, err
	}
	c.add(prompt, "messages")
	return c, nil
}

// wholeContext is the default limit of a chat: what the context leaves, to
// which the router cuts it.
func wholeContext(d *face.Deps) int {
	if n := d.Router.Model().Group.ContextLength; n > 0 {
		return n
	}
	return 1 << 20
}

func (c *chat) readLogprobs(o *jsonbody.Object) {
	c.logprobs = router.Logprobs{PromptStart: -1}
	o.Bool("logprobs", &c.logprobs.Enabled)
	o.Int("top_logprobs", &c.logprobs.Top)
	switch {
	case c.logprobs.Top < 0 || c.logprobs.Top > face.MaxTop:
		o.Fail(status.Invalid("top_logprobs", "must be in [0, %d], got %d", face.MaxTop, c.logprobs.Top))
	case c.logprobs.Top > 0 && !c.logprobs.Enabled:
		o.Fail(status.Invalid("top_logprobs", "must not be given unless logprobs is true"))
	}
}

// readResponseFormat refuses what would constrain the answer: plain text is the
// only format.
func readResponseFormat(o *jsonbody.Object) {
	f := o.Struct("response_format")
	if f == nil {
		return
	}
	kind := "text"
	f.String("type", &kind)
	o.Fail(f.Err())
	if kind != "text" {
		o.Fail(status.Unsupported("response_format"))
	}
}

// readFormat refuses answers that are no text, and the choice of a tool, as none
// can be given.
func readFormat(o *jsonbody.Object) {
	readResponseFormat(o)
	if v := o.Get("modalities"); v.Given() {
		ms, err := v.Strings(8)
		o.Fail(err)
		for _, m := range ms {
			if m != "text" {
				o.Fail(status.Unsupported("modalities"))
			}
		}
	}
	for _, name := range []string{"tool_choice", "function_call"} {
		v := o.Get(name)
		if s, err := v.Text(); v.Given() && (err != nil || s != "none" && s != "auto") {
			o.Fail(status.Unsupported(name))
		}
	}
}

// ReadChatPrompt reads a chat's messages and template options as
// /v1/chat/completions does.
func ReadChatPrompt(o *jsonbody.Object) (router.Prompt, error) {
	p := readPrompt(o)
	return p, o.Err()
}

// readPrompt reads the messages and how the template renders them.
func readPrompt(o *jsonbody.Object) router.Prompt {
	var p router.Prompt
	o.Bool("continue_final_message", &p.ContinueFinalMessage)
	add := !p.ContinueFinalMessage
	o.Bool("add_generation_prompt", &add)
	if add && p.ContinueFinalMessage {
		o.Fail(status.Invalid("continue_final_message", "must not be true together with add_generation_prompt"))
	}
	p.NoGenerationPrompt = !add
	if kw := o.Struct("chat_template_kwargs"); kw != nil {
		p.TemplateVars = map[string]json.RawMessage{}
		for _, name := range kw.Names() {
			p.TemplateVars[name] = kw.Get(name).Raw
		}
	}
	var err error
	p.Messages, err = readMessages(o.Get("messages"))
	o.Fail(err)
	return p
}

// readMessages checks the messages. Text parts stay as they are: the router
// knows whether the template takes them. What else a message holds is the
// template's affair.
func readMessages(v jsonbody.Value) (json.RawMessage, error) {
	if !v.Given() {
		return nil, status.Invalid("messages", "is required")
	}
	var out []json.RawMessage
	err := v.Each(maxMessages, func(item jsonbody.Value) error {
		m, err := readMessage(item)
		out = append(out, m)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, v.Errorf("must not be empty")
	}
	return json.Marshal(out)
}

func readMessage(v jsonbody.Value) (json.RawMessage, error) {
	m, err := v.Object()
	if err != nil {
		return nil, err
	}
	var role string
	m.String("role", &role)
	if role == "" {
		m.Fail(status.Invalid(v.Path+".role", "is required"))
	}
	face.Refuse(m, "audio")
	content, err := readContent(m.Get("content"))
	m.Fail(err)
	if m.Err() != nil {
		return nil, m.Err()
	}
	out := map[string]json.RawMessage{}
	for _, name := range m.Names() {
		if f := m.Get(name); f.Given() {
			out[name] = f.Raw
		}
	}
	out["content"] = content
	if role == "developer" { // OpenAI's later name; templates know the earlier one
		out["role"] = json.RawMessage(`"system"`)
	}
	return json.Marshal(out)
}

// readContent takes a string, text parts, or nothing.
func readContent(v jsonbody.Value) (json.RawMessage, error) {
	switch v.Kind() {
	case jsonbody.Absent, jsonbody.Null:
		// Templates would print null: no content (beside tool calls) is empty.
		return json.RawMessage(`""`), nil
	case jsonbody.String:
		_, err := v.Text()
		return v.Raw, err
	case jsonbody.Array:
		parts := []json.RawMessage{}
		err := v.Each(maxMessages, func(item jsonbody.Value) error {
			part, err := readPart(item)
			parts = append(parts, part)
			return err
		})
		if err != nil {
			return nil, err
		}
		return json.Marshal(parts)
	default:
		return nil, v.Errorf("must be a string or an array of parts, got %s", v.Kind())
	}
}

// textOf says under which name parts that are text hold it. Conversations that
// OpenAI's clients keep hold all of these.
var textOf = map[string]string{"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

type textPart struct {
	Type string          `json:"type"`
	Text json.RawMessage `json:"text"`
}

// readPart gives a part as templates know it: {"type": "text", "text": …}. A
// bare string is one, too.
func readPart(v jsonbody.Value) (json.RawMessage, error) {
	text := v
	if v.Kind() != jsonbody.String {
		o, err := v.Object()
		if err != nil {
			return nil, err
		}
		var kind string
		o.String("type", &kind)
		field, known := textOf[kind]
		switch {
		case o.Err() != nil:
			return nil, o.Err()
		case !known:
			return nil, v.Errorf("must be a text part: type %q is not supported", kind)
		case !o.Has(field):
			return nil, status.Invalid(v.Path+"."+field, "is required")
		}
		text = o.Get(field)
	}
	if _, err := text.Text(); err != nil {
		return nil, err
	}
	return json.Marshal(textPart{"text", text.Raw})
}

// chatResponse is the whole answer.
type chatResponse struct {
	ID        string       `json:"id"`
	Object    string       `json:"object"`
	Created   int64        `json:"created"`
	Model     string       `json:"model"`
	Choices   []chatChoice `json:"choices"`
	Usage     *usage       `json:"usage"`
	PromptIDs []int32      `json:"prompt_token_ids,omitempty"`
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      chatMessage   `json:"message"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
	MatchedStop  any           `json:"matched_stop,omitempty"`
	TokenIDs     []int32       `json:"token_ids,omitempty"`
}

type chatMessage struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

// chatChunk is a piece of a stream.
type chatChunk struct {
	ID      string        `json:"id"`
	Object  string        `json:"object"`
	Created int64         `json:"created"`
	Model   string        `json:"model"`
	Choices []deltaChoice `json:"choices"`
	Usage   any           `json:"usage,omitempty"`
}

type deltaChoice struct {
	Index        int           `json:"index"`
	Delta        delta         `json:"delta"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
	MatchedStop  any           `json:"matched_stop,omitempty"`
	TokenIDs     []int32       `json:"token_ids,omitempty"`
}

type delta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type chatLogprobs struct {
	Content []chatLogprob  `json:"content"`
	Refusal *[]chatLogprob `json:"refusal"`
}

type chatLogprob struct {
	tokenLogprob
	Top []tokenLogprob `json:"top_logprobs"`
}

type tokenLogprob struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	// Bytes are the token's bytes as numbers; text alone could not say a part
	// of a rune.
	Bytes []int `json:"bytes"`
}

func (c *chat) logprobsOf(d *face.Deps, ps []router.PositionLogprobs) *chatLogprobs {
	if !c.logprobs.Enabled {
		return nil
	}
	out := &chatLogprobs{Content: []chatLogprob{}}
	for _, p := range ps {
		l := chatLogprob{tokenLogprob: oneLogprob(d, p.TokenLogprob), Top: []tokenLogprob{}}
		for _, t := range p.Top {
			l.Top = append(l.Top, oneLogprob(d, t))
		}
		out.Content = append(out.Content, l)
	}
	return out
}

func oneLogprob(d *face.Deps, t router.TokenLogprob) tokenLogprob {
	b := d.Tokens.TokenBytes(t.ID)
	out := tokenLogprob{Token: string(b), Logprob: finite(t.Logprob), Bytes: make([]int, len(b))}
	if !utf8.Valid(b) {
		out.Token = d.TokenText(t.ID)
	}
	for i, c := range b {
		out.Bytes[i] = int(c)
	}
	return out
}

func (c *chat) choice(d *face.Deps, a *answer.Answer) chatChoice {
	ch := chatChoice{
		Index: a.Choice, Message: chatMessage{Role: "assistant", Content: a.Text()},
		Logprobs: c.logprobsOf(d, a.Logprobs),
	}
	ch.FinishReason, ch.MatchedStop = finish(a.Finish)
	if c.tokenIDs {
		ch.TokenIDs = a.IDs
	}
	return ch
}

func (c *chat) chunk(choices ...deltaChoice) *chatChunk {
	if choices == nil {
		choices = []deltaChoice{}
	}
	return &chatChunk{ID: c.id, Object: "chat.completion.chunk", Created: c.created, Model: c.model, Choices: choices}
}
