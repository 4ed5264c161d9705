package tokenizer

import (
	"encoding/json"
	"math"
	"strings"
)

// tokenizerFile is tokenizer.json. Parts whose type decides their fields stay
// raw until that type is known.
type tokenizerFile struct {
	AddedTokens []struct {
		ID         int32  `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
		Special    bool   `json:"special"`
	} `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         modelFile       `json:"model"`
}

type modelFile struct {
	Type         string          `json:"type"`
	Vocab        json.RawMessage `json:"vocab"`
	Merges       json.RawMessage `json:"merges"`
	UnkToken     *string         `json:"unk_token"`
	UnkID        *int64          `json:"unk_id"`
	Dropout      *float64        `json:"dropout"`
	Prefix       string          `json:"continuing_subword_prefix"`
	Suffix       string          `json:"end_of_word_suffix"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
}

// FromJSON reads Hugging Face's tokenizer.json. The errors are ErrFormat for a
// broken file and *UnsupportedError for a component this package lacks.
func FromJSON(b []byte) (*Tokenizer, error) {
	var f tokenizerFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, malformed("tokenizer.json: %w", err)
	}
	t := &Tokenizer{unk: -1}
	var err error
	if t.normalize, err = readNormalizer(f.Normalizer); err != nil {
		return nil, err
	}
	pre, err := readPreTokenizer(f.PreTokenizer)
	if err != nil {
		return nil, err
	}
	t.splitters, t.spelled = pre.splitters, pre.byteLevel
	if pre.byteLevel && f.Model.Type == "Unigram" {
		// Only the BPE model spells bytes by itself.
		t.splitters = append(t.splitters, spellBytes{})
	}
	if err := t.readModel(&f); err != nil {
		return nil, err
	}
	limit := len(t.tokens) + len(f.AddedTokens) + maxGap
	for _, a := range f.AddedTokens {
		err := t.setAdded(addedToken{
			a.ID, a.Content, a.SingleWord, a.LStrip, a.RStrip, a.Normalized, a.Special,
		}, limit)
		if err != nil {
			return nil, err
		}
	}
	if err := t.readPost(f.PostProcessor, 0); err != nil {
		return nil, err
	}
	if err := t.readDecoder(f.Decoder); err != nil {
		return nil, err
	}
	return t, nil
}

// specialIDs tells which ids the file declares special.
func (f *tokenizerFile) specialIDs(vocab map[string]int32) func(int32) bool {
	special := make(map[int32]bool)
	for _, a := range f.AddedTokens {
		if a.Special {
			special[idOr(vocab, a.Content, a.ID)] = true
		}
	}
	return func(id int32) bool { return special[id] }
}

func (t *Tokenizer) readModel(f *tokenizerFile) error {
	switch f.Model.Type {
	case "BPE":
		return t.readBPE(f)
	case "Unigram":
		return t.readUnigram(f)
	case "": // files of before 2020 do not say
		if len(f.Model.Merges) > 0 {
			return t.readBPE(f)
		}
		return malformed("model: no type")
	}
	return unsupported("model", f.Model.Type)
}

func (t *Tokenizer) readBPE(f *tokenizerFile) error {
	m := &f.Model
	switch {
	case m.Dropout != nil && *m.Dropout != 0:
		return unsupported("model", "BPE with dropout")
	case m.Prefix != "":
		return unsupported("model", "BPE with continuing_subword_prefix")
	case m.Suffix != "":
		return unsupported("model", "BPE with end_of_word_suffix")
	}
	var vocab map[string]int32
	if err := json.Unmarshal(m.Vocab, &vocab); err != nil {
		return malformed("model.vocab: %w", err)
	}
	if len(vocab) == 0 {
		return malformed("model.vocab: empty")
	}
	if err := t.setTokens(vocab, len(f.AddedTokens)); err != nil {
		return err
	}
	pairs, err := readMerges(m.Merges)
	if err != nil {
		return err
	}
	merges, err := bindMerges(pairs, vocab)
	if err != nil {
		return err
	}
	if m.UnkToken != nil {
		t.unk = idOr(vocab, *m.UnkToken, -1)
	}
	t.model = newBPE(bpeConfig{
		vocab: vocab, merges: merges, special: f.specialIDs(vocab), byteLevel: t.spelled,
		ignoreMerges: m.IgnoreMerges, byteFallback: m.ByteFallback, fuseUnk: m.FuseUnk, unk: t.unk,
	})
	return nil
}

// readMerges reads both spellings of merges: "a b" and ["a", "b"].
func readMerges(raw json.RawMessage) ([][2]string, error) {
	if isNull(raw) {
		return nil, nil
	}
	var pairs [][2]string
	if json.Unmarshal(raw, &pairs) == nil {
		return pairs, nil
	}
	var lines []string
	if err := json.Unmarshal(raw, &lines); err != nil {
		return nil, malformed("model.merges: %w", err)
	}
	return splitMerges(lines)
}

func splitMerges(lines []string) ([][2]string, error) {
	pairs := make([][2]string, len(lines))
	for i, line := range lines {
		left, right, ok := strings.Cut(line, " ")
		if !ok || left == "" || right == "" {
			return nil, malformed("merge %d: %q is not two tokens", i, line)
		}
		pairs[i] = [2]string{left, right}
	}
	return pairs, nil
}

// bindMerges looks up the tokens of each merge; ranks follow the order.
func bindMerges(pairs [][2]string, vocab map[string]int32) ([]merge, error) {
	merges := make([]merge, len(pairs))
	var buf []byte
	for i, p := range pairs {
		left, ok1 := vocab[p[0]]
		right, ok2 := vocab[p[1]]
		buf = append(append(buf[:0], p[0]...), p[1]...)
		id, ok3 := vocab[string(buf)]
		if !ok1 || !ok2 || !ok3 {
			return nil, malformed("merge %d: %q and %q: not all in the vocabulary", i, p[0], p[1])
		}
		merges[i] = merge{left, right, id, uint32(i)}
	}
	return merges, nil
}

func (t *Tokenizer) readUnigram(f *tokenizerFile) error {
	var entries [][2]json.RawMessage
	if err := json.Unmarshal(f.Model.Vocab, &entries); err != nil {
		return malformed("model.vocab: %w", err)
	}
	if len(entries) == 0 {
		return malformed("model.vocab: empty")
	}
	pieces := make([]piece, len(entries))
	for i, e := range entries {
		if err := json.Unmarshal(e[0], &pieces[i].text); err != nil {
			return malformed("model.vocab[%d]: %w", i, err)
		}
		if err := json.Unmarshal(e[1], &pieces[i].score); err != nil {
			return malformed("model.vocab[%d]: %w", i, err)
		}
	}
	if id := f.Model.UnkID; id != nil {
		if *id < 0 || *id >= int64(len(pieces)) {
			return malformed("model.unk_id: %d is out of range", *id)
		}
		t.unk = int32(*id)
	}
	if len(pieces) > math.MaxInt32 {
		return malformed("model.vocab: %d pieces", len(pieces))
	}
	t.setPieces(pieces)
	t.model = newUnigram(unigramConfig{
		pieces: pieces, unk: t.unk, byteFallback: f.Model.ByteFallback, special: f.specialIDs(t.ids),
	})
	return nil
}

// setPieces fills the table of ids where an id is a position. Of equal
// spellings, the last has the name.
func (t *Tokenizer) setPieces(pieces []piece) {
	t.tokens = make([]string, len(pieces))
	t.kinds = make([]tokenKind, len(pieces))
	t.ids = make(map[string]int32, len(pieces))
	for i, p := range pieces {
		t.tokens[i] = p.text
		t.kinds[i] = kindKnown
		t.ids[p.text] = int32(i)
	}
}
