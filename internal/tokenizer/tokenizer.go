package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Tokenizer turns text into ids and back. It is safe for concurrent use: all
// but its word cache is fixed after construction.
type Tokenizer struct {
	raw        addedTrie // added tokens looked for in raw text
	normal     addedTrie // … in normalized text
	normalize  normalizer
	splitters  []splitter
	model      model
	prefix     []int32 // ids before a text, as BOS
	suffix     []int32 // ids after it, as EOS
	decoders   []decoder
	tokens     []string // by id
	kinds      []tokenKind
	ids        map[string]int32
	byteTokens bool   // <0xXX> tokens stand for bytes
	spelled    bool   // tokens spell bytes (byte-level BPE)
	mark       string // the spelling of a space, "" for none
	unk        int32  // what unknown text becomes, -1 for nothing
}

// tokenKind says what is known of an id. Ids in gaps of the vocabulary have
// none of the bits.
type tokenKind uint8

const (
	kindKnown tokenKind = 1 << iota
	kindAdded
	kindSpecial
)

// Encode returns the ids of text. The spelling of added tokens, special ones
// included, is recognised as the reference does; addSpecial adds what the
// tokenizer puts around a text (BOS, EOS). Ill-formed UTF-8 counts as U+FFFD.
func (t *Tokenizer) Encode(text string, addSpecial bool) []int32 {
	text = wellFormed(text)
	e := encoding{t: t, ids: make([]int32, 0, len(text)/3+len(t.prefix)+len(t.suffix)+2)}
	if addSpecial {
		e.ids = append(e.ids, t.prefix...)
	}
	e.raw(segment{text, true})
	if addSpecial {
		e.ids = append(e.ids, t.suffix...)
	}
	return e.ids
}

// EncodePlain returns the ids of text from an untrusted source: no added token
// is recognised, special or not, and no special id comes out, whatever the
// text spells. (The unknown token is the one exception, where a vocabulary
// cannot spell everything.)
func (t *Tokenizer) EncodePlain(text string) []int32 {
	text = wellFormed(text)
	e := encoding{t: t, ids: make([]int32, 0, len(text)/3+2), plain: true}
	if text != "" {
		e.words(segment{t.normalize.apply(text), true})
	}
	return e.ids
}

func wellFormed(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string(appendLossy(nil, []byte(s)))
}

// encoding is one call of Encode on its way through the pipeline.
type encoding struct {
	t     *Tokenizer
	ids   []int32
	plain bool
	parts []segment // scratch of words
	spare []segment
}

func (e *encoding) found(id int32) { e.ids = append(e.ids, id) }

// raw is the pass over raw text, normalized the one after normalization.
func (e *encoding) raw(s segment) { e.t.raw.split(s, e.normalized, e.found) }

func (e *encoding) normalized(s segment) {
	s.text = e.t.normalize.apply(s.text)
	e.t.normal.split(s, e.words, e.found)
}

// words pre-tokenizes a stretch of text and encodes each word.
func (e *encoding) words(s segment) {
	parts, spare := e.parts[:0], e.spare
	parts = append(parts, s)
	for _, p := range e.t.splitters {
		spare = spare[:0]
		for _, part := range parts {
			spare = p.split(spare, part)
		}
		parts, spare = spare, parts
	}
	e.parts, e.spare = parts, spare
	for _, part := range parts {
		e.ids = e.t.model.encode(e.ids, part.text, e.plain)
	}
	if !e.plain {
		return
	}
	// Special tokens of a single symbol are all that could still come out. A
	// byte-level vocabulary's unknown token is often its end-of-text token.
	e.ids = slices.DeleteFunc(e.ids, func(id int32) bool {
		return e.t.IsSpecial(id) && (id != e.t.unk || e.t.spelled)
	})
}

// VocabSize is the highest id plus one: the rows of an embedding that covers
// the vocabulary. Some ids below it may be unused.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Token returns the vocabulary's own spelling of id, as "Ġthe" or "▁the", and
// whether there is such an id.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if t.kind(id)&kindKnown == 0 {
		return "", false
	}
	return t.tokens[id], true
}

// ID returns the id of a token in the vocabulary's own spelling.
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// IsSpecial reports whether id is a special token, as BOS or <|im_end|>.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.kind(id)&kindSpecial != 0 }

func (t *Tokenizer) kind(id int32) tokenKind {
	if id < 0 || int(id) >= len(t.kinds) {
		return 0
	}
	return t.kinds[id]
}

// TokenBytes returns the bytes that id stands for in the middle of a text, nil
// for an unknown id. The bytes of one token need not be whole code points.
func (t *Tokenizer) TokenBytes(id int32) []byte {
	kind := t.kind(id)
	if kind&kindKnown == 0 {
		return nil
	}
	token := t.tokens[id]
	switch {
	case kind&kindAdded != 0:
		return []byte(token)
	case t.spelled:
		return appendSpelled([]byte{}, token)
	case t.byteTokens:
		if b, ok := byteToken(token); ok {
			return []byte{b}
		}
	}
	if t.mark != "" {
		token = strings.ReplaceAll(token, t.mark, " ")
	}
	return []byte(token)
}

// maxGap is how far ids may exceed the number of tokens. Vocabularies leave
// gaps of a few hundred; the bound keeps one absurd id from costing memory.
const maxGap = 1 << 17

// setTokens fills the table of ids from the model's vocabulary.
func (t *Tokenizer) setTokens(vocab map[string]int32, added int) error {
	limit := len(vocab) + added + maxGap
	for token, id := range vocab {
		if err := t.setToken(id, token, limit); err != nil {
			return err
		}
	}
	t.ids = vocab
	return nil
}

func (t *Tokenizer) setToken(id int32, token string, limit int) error {
	if id < 0 || int(id) >= limit {
		return malformed("token %q: id %d is out of range", token, id)
	}
	if n := int(id) + 1; n > len(t.tokens) {
		t.tokens = append(t.tokens, make([]string, n-len(t.tokens))...)
		t.kinds = append(t.kinds, make([]tokenKind, n-len(t.kinds))...)
	}
	if t.kinds[id]&kindKnown != 0 && t.tokens[id] != token {
		return malformed("id %d: both %q and %q", id, t.tokens[id], token)
	}
	t.tokens[id] = token
	t.kinds[id] |= kindKnown
	return nil
}

// setAdded registers an added token, under the model's id where the model
// knows it, and makes it findable in text.
func (t *Tokenizer) setAdded(a addedToken, limit int) error {
	if id, ok := t.ids[a.content]; ok {
		a.id = id
	}
	if err := t.setToken(a.id, a.content, limit); err != nil {
		return err
	}
	t.ids[a.content] = a.id
	t.kinds[a.id] |= kindAdded
	if a.special {
		t.kinds[a.id] |= kindSpecial
	}
	if a.normalized {
		t.normal.add(t.normalize.apply(a.content), a)
	} else {
		t.raw.add(a.content, a)
	}
	return nil
}
