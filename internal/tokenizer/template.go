package tokenizer

import (
	"bytes"
	"encoding/json"
)

// templatePiece is a step of TemplateProcessing: the text, or a special token.
type templatePiece struct {
	SpecialToken *struct {
		ID string `json:"id"`
	} `json:"SpecialToken"`
	Sequence *struct {
		ID string `json:"id"`
	} `json:"Sequence"`
}

type templateToken struct {
	IDs []int32 `json:"ids"`
}

// namedID is ["</s>", 2].
type namedID struct{ id int32 }

// UnmarshalJSON reads the pair of token and id.
func (n *namedID) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	var token string
	return json.Unmarshal(b, &[2]any{&token, &n.id})
}

// readPost reads what is put around one text. A processor of a Sequence wraps
// what those before it made.
func (t *Tokenizer) readPost(raw json.RawMessage, depth int) error {
	if isNull(raw) {
		return nil
	}
	c, err := readComponent("post_processor", raw, depth)
	if err != nil {
		return err
	}
	switch c.Type {
	case "ByteLevel": // moves offsets only
		return nil
	case "Sequence":
		for _, r := range c.Processors {
			if err := t.readPost(r, depth+1); err != nil {
				return err
			}
		}
		return nil
	case "TemplateProcessing":
		return t.readTemplate(c)
	case "BertProcessing", "RobertaProcessing":
		if c.Cls == nil || c.Sep == nil {
			return malformed("%s: no cls or sep", c.Type)
		}
		return t.wrap([]int32{c.Cls.id}, []int32{c.Sep.id})
	}
	return unsupported("post_processor", c.Type)
}

func (t *Tokenizer) readTemplate(c *component) error {
	var before, after []int32
	texts := 0
	for _, p := range c.Single {
		switch {
		case p.Sequence != nil:
			texts++
		case p.SpecialToken != nil:
			token, ok := c.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return malformed("TemplateProcessing: no special token %q", p.SpecialToken.ID)
			}
			if texts == 0 {
				before = append(before, token.IDs...)
			} else {
				after = append(after, token.IDs...)
			}
		}
	}
	if texts != 1 {
		return malformed("TemplateProcessing: %d texts in the template for one", texts)
	}
	return t.wrap(before, after)
}

// wrap adds ids around everything so far.
func (t *Tokenizer) wrap(before, after []int32) error {
	for _, ids := range [][]int32{before, after} {
		for _, id := range ids {
			if t.kind(id)&kindKnown == 0 {
				return malformed("post_processor: no token has id %d", id)
			}
		}
	}
	t.prefix = append(append([]int32(nil), before...), t.prefix...)
	t.suffix = append(t.suffix, after...)
	return nil
}
