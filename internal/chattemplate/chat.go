package chattemplate

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Chat is what a chat request gives to its model's template.
type Chat struct {
	// Messages is a JSON list of objects, passed through as given: content may
	// be a string, null or a list of parts (see [Template.WantsParts]).
	Messages json.RawMessage
	// Tools is a JSON list of tool schemas; nil or null means none.
	Tools json.RawMessage
	// Documents is a JSON list of objects for retrieval; nil or null means none.
	Documents json.RawMessage
	// AddGenerationPrompt asks for the opening of an assistant message at the end.
	AddGenerationPrompt bool
	// ContinueFinalMessage ends the prompt right after the final message's
	// text, so that the model goes on with it. It excludes AddGenerationPrompt.
	ContinueFinalMessage bool
	// BOSToken and EOSToken are the model's special tokens; an empty one is
	// left undefined, as transformers does for a tokenizer without it.
	BOSToken, EOSToken string
	// Extra are further variables (chat_template_kwargs), other special tokens
	// among them. They come after, and win over, the tokens above, but cannot
	// replace the messages or the other fields.
	Extra map[string]json.RawMessage
}

// continueTag marks the end of the final message's text in the rendered chat.
const continueTag = "CONTINUE_FINAL_MESSAGE_TAG "

// reasoningFields are the names a message's reasoning goes by; the first is
// what templates read, the second what those of gpt-oss read.
var reasoningFields = []string{"reasoning_content", "thinking", "reasoning"}

// RenderChat renders a chat as transformers' apply_chat_template does: the
// template sees messages, tools (None without any), documents,
// add_generation_prompt, bos_token, eos_token and the extra variables.
// A message's reasoning is offered under each name that templates use for it.
// Errors are those of [Template.Render]; a request that is not of the right
// form wraps [ErrInput] and names the field.
func (t *Template) RenderChat(c Chat, o Options) (string, error) {
	vars, messages, err := c.variables()
	if err != nil {
		return "", err
	}
	if !c.ContinueFinalMessage {
		return t.Render(vars, o)
	}
	final, err := t.tagFinal(c, messages)
	if err != nil {
		return "", err
	}
	text, err := t.Render(vars, o)
	if err != nil {
		return "", err
	}
	return cutAtTag(text, final)
}

func jsonField(name string, raw json.RawMessage) (Value, error) {
	if len(raw) == 0 {
		return none, nil
	}
	v, err := FromJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

func (c *Chat) variables() (Value, []*dictVal, error) {
	vars := newDict(8 + len(c.Extra))
	if c.BOSToken != "" {
		vars.setStr("bos_token", String(c.BOSToken))
	}
	if c.EOSToken != "" {
		vars.setStr("eos_token", String(c.EOSToken))
	}
	for name, raw := range c.Extra {
		v, err := jsonField("chat_template_kwargs."+name, raw)
		if err != nil {
			return nil, nil, err
		}
		vars.setStr(name, v)
	}
	for _, f := range []struct {
		name string
		raw  json.RawMessage
	}{{"tools", c.Tools}, {"documents", c.Documents}} {
		// An extra variable of that name counts where the request gives none.
		if _, extra := c.Extra[f.name]; extra && len(f.raw) == 0 {
			continue
		}
		v, err := jsonField(f.name, f.raw)
		if err != nil {
			return nil, nil, err
		}
		vars.setStr(f.name, v)
	}
	vars.setStr("add_generation_prompt", boolVal(c.AddGenerationPrompt))
	messages, err := parseMessages(c.Messages)
	if err != nil {
		return nil, nil, err
	}
	list := &listVal{}
	for _, m := range messages {
		list.items = append(list.items, m)
	}
	vars.setStr("messages", list)
	return vars, messages, nil
}

func parseMessages(raw json.RawMessage) ([]*dictVal, error) {
	v, err := jsonField("messages", raw)
	if err != nil {
		return nil, err
	}
	list, ok := v.(*listVal)
	if !ok {
		return nil, fmt.Errorf("%w: messages: want a list, got %s", ErrInput, v.typeName())
	}
	out := make([]*dictVal, len(list.items))
	for i, m := range list.items {
		d, ok := m.(*dictVal)
		if !ok {
			return nil, fmt.Errorf("%w: messages[%d]: want an object, got %s", ErrInput, i, m.typeName())
		}
		out[i] = aliasReasoning(d)
	}
	return out, nil
}

// aliasReasoning offers a message's reasoning under the names templates use.
func aliasReasoning(d *dictVal) *dictVal {
	for _, name := range reasoningFields {
		v, ok := d.getStr(name)
		if !ok || v == none {
			continue
		}
		out := newDict(len(d.keys) + 2)
		out.setStr("thinking", v)
		for i, k := range d.keys {
			key, _ := strOf(k)
			out.setStr(key, d.vals[i])
		}
		out.setStr("reasoning_content", v)
		return out
	}
	return d
}

// tagFinal appends the tag to the final message's text and returns that text.
func (t *Template) tagFinal(c Chat, messages []*dictVal) (string, error) {
	fail := func(msg string) (string, error) {
		return "", fmt.Errorf("%w: continue_final_message: %s", ErrInput, msg)
	}
	switch {
	case c.AddGenerationPrompt:
		return fail("excludes add_generation_prompt")
	case len(messages) == 0:
		return fail("the conversation is empty")
	case !strings.Contains(t.src, "content"):
		return fail("the template does not use content")
	}
	last := messages[len(messages)-1]
	content, _ := last.getStr("content")
	switch v := content.(type) {
	case strVal:
		last.setStr("content", v+continueTag)
		return string(v), nil
	case *listVal:
		for i := len(v.items) - 1; i >= 0; i-- {
			part, ok := v.items[i].(*dictVal)
			if !ok {
				continue
			}
			if text, ok := part.getStr("text"); ok {
				if s, ok := text.(strVal); ok {
					part.setStr("text", s+continueTag)
					return string(s), nil
				}
			}
		}
	}
	return fail("the final message has no text to continue")
}

// cutAtTag ends the text where the tag begins. Where the template has trimmed
// the space that ends the tag, it would have trimmed the message's end too.
func cutAtTag(text, final string) (string, error) {
	tag := strings.TrimSpace(continueTag)
	i := strings.LastIndex(text, tag)
	if i < 0 || !strings.Contains(text, strings.TrimFunc(final, isSpace)) {
		return "", fmt.Errorf("%w: continue_final_message: the template does not print the final message's text as it is", ErrInput)
	}
	if strings.HasPrefix(text[i:], continueTag) {
		return text[:i], nil
	}
	return strings.TrimRightFunc(text[:i], isSpace), nil
}

// PartError tells which part of a message's content is no text. It wraps
// [ErrInput].
type PartError struct {
	Path string // like messages[0].content[1]
	Type string // the part's type, such as image_url; empty if it has none
}

// Error implements error.
func (e *PartError) Error() string {
	if e.Type == "" {
		return e.Path + ": content part without text"
	}
	return fmt.Sprintf("%s: content part of type %q is not text", e.Path, e.Type)
}

// Unwrap returns [ErrInput].
func (e *PartError) Unwrap() error { return ErrInput }

// FlattenTextParts replaces every message content that is a list of text parts
// by one string, the texts joined with newlines, for templates that take
// strings only. Everything else stays as it is. A part of another type is a
// [*PartError].
func FlattenTextParts(messages json.RawMessage) (json.RawMessage, error) {
	v, err := jsonField("messages", messages)
	if err != nil {
		return nil, err
	}
	list, ok := v.(*listVal)
	if !ok {
		return nil, fmt.Errorf("%w: messages: want a list, got %s", ErrInput, v.typeName())
	}
	changed := false
	for i, m := range list.items {
		d, ok := m.(*dictVal)
		if !ok {
			return nil, fmt.Errorf("%w: messages[%d]: want an object, got %s", ErrInput, i, m.typeName())
		}
		content, _ := d.getStr("content")
		parts, ok := content.(*listVal)
		if !ok {
			continue
		}
		text, err := joinParts(fmt.Sprintf("messages[%d].content", i), parts.items)
		if err != nil {
			return nil, err
		}
		d.setStr("content", strVal(text))
		changed = true
	}
	if !changed {
		return messages, nil
	}
	// The values come from JSON, so they go back; the size is the request's.
	w := &jsonWriter{s: newState(newDict(0), Options{MaxOutput: 8*len(messages) + 64, MaxSteps: 8*len(messages) + 64}), itemSep: ",", keySep: ":"}
	if err := w.value(list, 0); err != nil {
		return nil, err
	}
	return w.b, nil
}

func joinParts(path string, parts []Value) (string, error) {
	texts := make([]string, len(parts))
	for i, p := range parts {
		at := fmt.Sprintf("%s[%d]", path, i)
		if t, ok := p.(strVal); ok {
			texts[i] = string(t)
			continue
		}
		d, ok := p.(*dictVal)
		if !ok {
			return "", &PartError{Path: at}
		}
		var kind string
		if v, ok := d.getStr("type"); ok {
			kind, _ = strOf(v)
		}
		v, _ := d.getStr("text")
		t, ok := v.(strVal)
		if !ok || kind != "" && kind != "text" && kind != "input_text" && kind != "output_text" {
			return "", &PartError{Path: at, Type: kind}
		}
		texts[i] = string(t)
	}
	return strings.Join(texts, "\n"), nil
}

// WantsParts reports whether the template takes message content as a list of
// parts: it loops over the content of a message. Others want strings, see
// [FlattenTextParts].
func (t *Template) WantsParts() bool { return t.wantsParts }
