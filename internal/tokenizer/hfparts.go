package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// component is any normalizer, pre-tokenizer, post-processor or decoder of
// tokenizer.json: the union of their fields.
type component struct {
	Type          string            `json:"type"`
	Normalizers   []json.RawMessage `json:"normalizers"`
	PreTokenizers []json.RawMessage `json:"pretokenizers"`
	Processors    []json.RawMessage `json:"processors"`
	Decoders      []json.RawMessage `json:"decoders"`

	Prepend  string  `json:"prepend"`
	Pattern  pattern `json:"pattern"`
	Behavior string  `json:"behavior"`
	Invert   bool    `json:"invert"`

	UseRegex         *bool  `json:"use_regex"`
	AddPrefixSpace   *bool  `json:"add_prefix_space"`
	IndividualDigits bool   `json:"individual_digits"`
	Delimiter        string `json:"delimiter"`
	Replacement      string `json:"replacement"`
	PrependScheme    string `json:"prepend_scheme"`
	Split            *bool  `json:"split"`

	Left  bool `json:"strip_left"`
	Right bool `json:"strip_right"`

	// Content is a string in Replace and Strip; start and stop count it.
	Content string `json:"content"`
	Start   int    `json:"start"`
	Stop    int    `json:"stop"`

	Single        []templatePiece          `json:"single"`
	SpecialTokens map[string]templateToken `json:"special_tokens"`
	Sep           *namedID                 `json:"sep"`
	Cls           *namedID                 `json:"cls"`
}

// pattern is {"String": …} or {"Regex": …}.
type pattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

// maxNesting bounds Sequences within Sequences.
const maxNesting = 16

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func readComponent(part string, raw json.RawMessage, depth int) (*component, error) {
	if depth > maxNesting {
		return nil, malformed("%s: nested deeper than %d", part, maxNesting)
	}
	c := &component{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, malformed("%s: %w", part, err)
	}
	return c, nil
}

func orTrue(b *bool) bool { return b == nil || *b }

func readNormalizer(raw json.RawMessage) (normalizer, error) {
	ns, err := appendNormalizers(nil, raw, 0)
	return chain(ns), err
}

func appendNormalizers(dst []normalizer, raw json.RawMessage, depth int) ([]normalizer, error) {
	if isNull(raw) {
		return dst, nil
	}
	c, err := readComponent("normalizer", raw, depth)
	if err != nil {
		return nil, err
	}
	if c.Type == "Sequence" {
		for _, r := range c.Normalizers {
			if dst, err = appendNormalizers(dst, r, depth+1); err != nil {
				return nil, err
			}
		}
		return dst, nil
	}
	n, err := c.normalizer()
	return append(dst, n), err
}

func (c *component) normalizer() (normalizer, error) {
	switch c.Type {
	case "NFC":
		return unicodeForm(norm.NFC), nil
	case "NFD":
		return unicodeForm(norm.NFD), nil
	case "NFKC":
		return unicodeForm(norm.NFKC), nil
	case "NFKD":
		return unicodeForm(norm.NFKD), nil
	case "Lowercase":
		return lowercase, nil
	case "StripAccents":
		return stripAccents, nil
	case "Strip":
		return stripSpace(c.Left, c.Right), nil
	case "Prepend":
		return prepend(c.Prepend), nil
	case "Replace":
		return c.replacement()
	}
	return nil, unsupported("normalizer", c.Type)
}

// replacement is Replace, as a normalizer and, for patterns, as a decoder.
func (c *component) replacement() (normalizer, error) {
	switch {
	case c.Pattern.Regex != nil:
		return replaceRegex(*c.Pattern.Regex, c.Content)
	case c.Pattern.String != nil && *c.Pattern.String != "":
		return replaceLiteral(*c.Pattern.String, c.Content), nil
	}
	return nil, malformed("Replace: no pattern")
}

// preTokenizer is the steps that cut text, and whether the model gets raw
// bytes to spell (ByteLevel as the last step).
type preTokenizer struct {
	splitters []splitter
	byteLevel bool
}

func readPreTokenizer(raw json.RawMessage) (*preTokenizer, error) {
	p := &preTokenizer{}
	if err := p.read(raw, 0); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *preTokenizer) read(raw json.RawMessage, depth int) error {
	if isNull(raw) {
		return nil
	}
	c, err := readComponent("pre_tokenizer", raw, depth)
	if err != nil {
		return err
	}
	if c.Type == "Sequence" {
		for _, r := range c.PreTokenizers {
			if err := p.read(r, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if p.byteLevel { // ByteLevel was not the last step after all
		p.byteLevel = false
		p.splitters = append(p.splitters, spellBytes{})
	}
	steps, err := c.splitters()
	if err != nil {
		return err
	}
	p.splitters = append(p.splitters, steps...)
	p.byteLevel = c.Type == "ByteLevel"
	return nil
}

func (c *component) splitters() ([]splitter, error) {
	one := func(m matcher, b behavior, invert bool) ([]splitter, error) {
		return []splitter{matchSplit{m, b, invert}}, nil
	}
	switch c.Type {
	case "ByteLevel":
		var steps []splitter
		if orTrue(c.AddPrefixSpace) {
			steps = append(steps, prefixSpace{})
		}
		if orTrue(c.UseRegex) {
			steps = append(steps, scanSplit{scanGPT2})
		}
		return steps, nil
	case "Split":
		return c.splitPattern()
	case "Metaspace":
		return c.metaspace()
	case "Digits":
		if c.IndividualDigits {
			return one(matchRunes(isDigitRune), isolated, false)
		}
		return one(matchRunes(isDigitRune), contiguous, false)
	case "Punctuation":
		b, err := c.behavior(isolated)
		if err != nil {
			return nil, err
		}
		return one(matchRunes(isPunctRune), b, false)
	case "Whitespace":
		return one(matchWhitespaceWords, removed, true)
	case "WhitespaceSplit":
		return one(matchRunes(isSpaceRune), removed, false)
	case "CharDelimiterSplit":
		if c.Delimiter == "" {
			return nil, malformed("CharDelimiterSplit: no delimiter")
		}
		return one(matchLiteral(c.Delimiter), removed, false)
	case "BertPreTokenizer":
		return []splitter{
			matchSplit{matchRunes(isSpaceRune), removed, false},
			matchSplit{matchRunes(isPunctRune), isolated, false},
		}, nil
	}
	return nil, unsupported("pre_tokenizer", c.Type)
}

func (c *component) behavior(missing behavior) (behavior, error) {
	if c.Behavior == "" {
		return missing, nil
	}
	b, ok := behaviors[c.Behavior]
	if !ok {
		return 0, unsupported("pre_tokenizer", c.Type+" "+c.Behavior)
	}
	return b, nil
}

func (c *component) splitPattern() ([]splitter, error) {
	b, err := c.behavior(isolated)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Pattern.Regex != nil:
		s, err := newMatchSplit(*c.Pattern.Regex, b, c.Invert)
		return []splitter{s}, err
	case c.Pattern.String != nil && *c.Pattern.String != "":
		return []splitter{matchSplit{matchLiteral(*c.Pattern.String), b, c.Invert}}, nil
	}
	return nil, malformed("Split: no pattern")
}

// scheme reads prepend_scheme, or add_prefix_space of older files.
func (c *component) scheme() (prependScheme, error) {
	if c.PrependScheme == "" {
		if orTrue(c.AddPrefixSpace) {
			return prependAlways, nil
		}
		return prependNever, nil
	}
	s, ok := prependSchemes[c.PrependScheme]
	if !ok {
		return 0, malformed("Metaspace: prepend_scheme %q", c.PrependScheme)
	}
	return s, nil
}

func (c *component) metaspace() ([]splitter, error) {
	scheme, err := c.scheme()
	if err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(c.Replacement) != 1 {
		return nil, malformed("Metaspace: replacement %q is not one character", c.Replacement)
	}
	return []splitter{metaspace{c.Replacement, scheme, orTrue(c.Split)}}, nil
}

func (t *Tokenizer) readDecoder(raw json.RawMessage) error {
	if isNull(raw) {
		t.decoders = []decoder{joinSpace{}}
		return nil
	}
	return t.appendDecoders(raw, 0)
}

func (t *Tokenizer) appendDecoders(raw json.RawMessage, depth int) error {
	c, err := readComponent("decoder", raw, depth)
	if err != nil {
		return err
	}
	if c.Type == "Sequence" {
		for _, r := range c.Decoders {
			if err := t.appendDecoders(r, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	d, err := c.decoder()
	if err != nil {
		return err
	}
	t.addDecoder(d)
	return nil
}

// addDecoder also learns from it what a token's bytes are.
func (t *Tokenizer) addDecoder(d decoder) {
	t.decoders = append(t.decoders, d)
	switch d := d.(type) {
	case decodeFallback:
		t.byteTokens = true
	case decodeMetaspace:
		t.mark = d.mark
	case decodeReplace:
		if d.new == " " {
			t.mark = d.old
		}
	case decodeBytes:
		t.spelled = true
	}
}

func (c *component) decoder() (decoder, error) {
	switch c.Type {
	case "ByteLevel":
		return decodeBytes{}, nil
	case "ByteFallback":
		return decodeFallback{}, nil
	case "Fuse":
		return decodeFuse{}, nil
	case "Metaspace":
		scheme, err := c.scheme()
		if err != nil || strings.TrimSpace(c.Replacement) == "" {
			return nil, malformed("decoder Metaspace: replacement %q: %w", c.Replacement, err)
		}
		return decodeMetaspace{c.Replacement, scheme != prependNever}, nil
	case "Strip":
		if c.Content == "" || c.Start < 0 || c.Stop < 0 {
			return nil, malformed("decoder Strip: content %q, start %d, stop %d", c.Content, c.Start, c.Stop)
		}
		return decodeStrip{c.Content, c.Start, c.Stop}, nil
	case "Replace":
		n, err := c.replacement()
		if err != nil {
			return nil, err
		}
		if c.Pattern.String != nil {
			return decodeReplace{*c.Pattern.String, c.Content}, nil
		}
		return decodeRegex{n}, nil
	}
	return nil, unsupported("decoder", c.Type)
}
