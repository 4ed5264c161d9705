package tokenizer

import (
	"math"
	"slices"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// GGUFVocab mirrors the tokenizer.ggml.* keys of a GGUF file.
type GGUFVocab struct {
	Model  string    // "gpt2" (byte-level BPE), "llama" (SentencePiece BPE) or "t5" (Unigram)
	Pre    string    // which pre-tokenizer a "gpt2" model has
	Tokens []string  // by id
	Types  []int32   // by id, a TokenType each; may be empty
	Scores []float32 // by id; "llama" and "t5" need them
	Merges []string  // "left right", best first; "gpt2" needs them

	BOS, EOS, EOT, UNK, PAD int32 // -1 when absent

	AddBOS, AddEOS, AddSpacePrefix *bool // nil when absent
}

// Token types of a GGUF vocabulary.
const (
	TypeNormal      int32 = 1
	TypeUnknown     int32 = 2
	TypeControl     int32 = 3
	TypeUserDefined int32 = 4
	TypeUnused      int32 = 5
	TypeByte        int32 = 6
)

// maxPieceLen bounds a "llama" token, in bytes: every way to cut it in two is
// looked up.
const maxPieceLen = 1024

// FromGGUF builds the tokenizer of a GGUF file. It gives the ids that the
// model's tokenizer.json would give, also where other GGUF readers differ
// (normalization for Qwen 2, for one). The errors are those of FromJSON.
func FromGGUF(v GGUFVocab) (*Tokenizer, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	t := &Tokenizer{unk: v.UNK}
	var err error
	switch v.Model {
	case "gpt2":
		err = t.ggufByteLevel(&v)
	case "llama":
		err = t.ggufSentencePiece(&v)
	case "t5":
		t.ggufUnigram(&v)
	default:
		err = unsupported("gguf model", v.Model)
	}
	if err != nil {
		return nil, err
	}
	t.ggufTemplate(&v)
	return t, nil
}

// check rejects what contradicts itself, so that the rest can rely on it.
func (v *GGUFVocab) check() error {
	n := len(v.Tokens)
	switch {
	case n == 0:
		return malformed("tokenizer.ggml.tokens: empty")
	case n > math.MaxInt32:
		return malformed("tokenizer.ggml.tokens: %d tokens", n)
	case len(v.Types) != 0 && len(v.Types) != n:
		return malformed("tokenizer.ggml.token_type: %d types for %d tokens", len(v.Types), n)
	case len(v.Scores) != 0 && len(v.Scores) != n:
		return malformed("tokenizer.ggml.scores: %d scores for %d tokens", len(v.Scores), n)
	case len(v.Scores) == 0 && (v.Model == "llama" || v.Model == "t5"):
		return malformed("tokenizer.ggml.scores: missing for model %q", v.Model)
	}
	for i, token := range v.Tokens {
		if !utf8.ValidString(token) {
			return malformed("tokenizer.ggml.tokens[%d]: %q is not UTF-8", i, token)
		}
	}
	for i, typ := range v.Types {
		if typ < TypeNormal || typ > TypeByte {
			return malformed("tokenizer.ggml.token_type[%d]: unknown type %d", i, typ)
		}
	}
	for i, score := range v.Scores {
		if s := float64(score); math.IsNaN(s) || math.IsInf(s, 0) {
			return malformed("tokenizer.ggml.scores[%d]: %v", i, score)
		}
	}
	for _, id := range []struct {
		key string
		id  int32
	}{{"bos", v.BOS}, {"eos", v.EOS}, {"eot", v.EOT}, {"unknown", v.UNK}, {"padding", v.PAD}} {
		if id.id < -1 || int(id.id) >= n {
			return malformed("tokenizer.ggml.%s_token_id: %d is out of range", id.key, id.id)
		}
	}
	return nil
}

func (v *GGUFVocab) typeOf(id int32) int32 {
	if len(v.Types) == 0 {
		return TypeNormal
	}
	return v.Types[id]
}

// special: control tokens and the unknown token, never text.
func (v *GGUFVocab) special(id int32) bool {
	typ := v.typeOf(id)
	return typ == TypeControl || typ == TypeUnknown
}

// ggufTokens fills the table of ids. Two normal tokens must differ; of other
// equal spellings (padding entries) the first has the name.
func (t *Tokenizer) ggufTokens(v *GGUFVocab) error {
	t.tokens = slices.Clone(v.Tokens)
	t.kinds = make([]tokenKind, len(v.Tokens))
	t.ids = make(map[string]int32, len(v.Tokens))
	for i, token := range v.Tokens {
		id := int32(i)
		t.kinds[i] = kindKnown
		if v.special(id) {
			t.kinds[i] |= kindAdded | kindSpecial
		} else if v.typeOf(id) == TypeUserDefined {
			t.kinds[i] |= kindAdded
		}
		first, dup := t.ids[token]
		if dup && v.typeOf(first) == TypeNormal && v.typeOf(id) == TypeNormal {
			return malformed("tokenizer.ggml.tokens: %q is both %d and %d", token, first, id)
		}
		if !dup {
			t.ids[token] = id
		}
		if t.kinds[i]&kindAdded != 0 && !dup {
			t.raw.add(token, addedToken{id: id, content: token, special: v.special(id)})
		}
	}
	return nil
}

func (t *Tokenizer) ggufByteLevel(v *GGUFVocab) error {
	if err := t.ggufTokens(v); err != nil {
		return err
	}
	pre, err := ggufPreTokenizer(v.Pre)
	if err != nil {
		return err
	}
	pairs, err := splitMerges(v.Merges)
	if err != nil {
		return err
	}
	merges, err := bindMerges(pairs, t.ids)
	if err != nil {
		return err
	}
	if pre.nfc {
		t.normalize = unicodeForm(norm.NFC)
	}
	if v.AddSpacePrefix != nil && *v.AddSpacePrefix {
		t.splitters = append(t.splitters, prefixSpace{})
	}
	t.splitters = append(t.splitters, pre.splitters...)
	t.unk = -1 // a byte that the vocabulary lacks vanishes, as without unk_token
	t.model = newBPE(bpeConfig{
		vocab: t.ids, merges: merges, special: v.special, byteLevel: true,
		ignoreMerges: pre.ignoreMerges, unk: t.unk,
	})
	t.addDecoder(decodeBytes{})
	if v.AddBOS == nil {
		v.AddBOS = &pre.addBOS
	}
	return nil
}

// ggufSentencePiece derives merges from scores: any cut of a token into two
// tokens is a merge, and the best token is merged first.
func (t *Tokenizer) ggufSentencePiece(v *GGUFVocab) error {
	if err := t.ggufTokens(v); err != nil {
		return err
	}
	merges, err := v.scoreMerges(t.ids)
	if err != nil {
		return err
	}
	t.ggufMetaspace(v)
	t.model = newBPE(bpeConfig{
		vocab: t.ids, merges: merges, special: v.special,
		byteFallback: true, fuseUnk: true, unk: v.UNK,
	})
	if v.AddBOS == nil {
		yes := true
		v.AddBOS = &yes
	}
	return nil
}

// ggufMetaspace spells spaces as "▁", with one added before each stretch of
// text unless the file says otherwise.
func (t *Tokenizer) ggufMetaspace(v *GGUFVocab) {
	steps := []normalizer{replaceLiteral(" ", metaMark)}
	t.addDecoder(decodeReplace{metaMark, " "})
	t.addDecoder(decodeFallback{})
	t.addDecoder(decodeFuse{})
	if orTrue(v.AddSpacePrefix) {
		steps = append([]normalizer{prepend(metaMark)}, steps...)
		t.addDecoder(decodeStrip{content: " ", start: 1})
	}
	t.normalize = chain(steps)
}

func (t *Tokenizer) ggufUnigram(v *GGUFVocab) {
	pieces := make([]piece, len(v.Tokens))
	for i, token := range v.Tokens {
		pieces[i] = piece{token, float64(v.Scores[i])}
	}
	// A Unigram vocabulary is a list: equal spellings are no contradiction.
	t.setPieces(pieces)
	hasBytes := false
	for i, token := range v.Tokens {
		id := int32(i)
		hasBytes = hasBytes || v.typeOf(id) == TypeByte
		if !v.special(id) && v.typeOf(id) != TypeUserDefined {
			continue
		}
		t.kinds[i] |= kindAdded
		if v.special(id) {
			t.kinds[i] |= kindSpecial
		}
		t.raw.add(token, addedToken{id: id, content: token, special: v.special(id)})
	}
	scheme := prependNever
	if orTrue(v.AddSpacePrefix) {
		scheme = prependAlways
	}
	t.splitters = []splitter{metaspace{metaMark, scheme, true}}
	t.model = newUnigram(unigramConfig{
		pieces: pieces, unk: v.UNK, byteFallback: hasBytes, special: v.special,
		usable: func(id int32) bool {
			typ := v.typeOf(id)
			return typ == TypeNormal || typ == TypeUserDefined
		},
	})
	if hasBytes {
		t.addDecoder(decodeFallback{})
	}
	t.addDecoder(decodeMetaspace{metaMark, scheme != prependNever})
	if v.AddEOS == nil {
		yes := true
		v.AddEOS = &yes
	}
}

// ggufTemplate adds BOS and EOS where the file, or its model, wants them.
func (t *Tokenizer) ggufTemplate(v *GGUFVocab) {
	if v.AddBOS != nil && *v.AddBOS && v.BOS >= 0 {
		t.prefix = []int32{v.BOS}
	}
	if v.AddEOS != nil && *v.AddEOS && v.EOS >= 0 {
		t.suffix = []int32{v.EOS}
	}
}
