package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A model turns one word into ids. plain forbids ids of special tokens; a
// model that can never produce one ignores it.
type model interface {
	encode(dst []int32, word string, plain bool) []int32
}

// merge is one merge rule: two tokens, the token they become, and its rank.
type merge struct {
	left, right, id int32
	rank            uint32
}

// bpeConfig is what a BPE model is made from.
type bpeConfig struct {
	vocab        map[string]int32
	merges       []merge
	special      func(id int32) bool
	byteLevel    bool // words arrive as raw bytes, the vocabulary spells them
	ignoreMerges bool // a word that is a token needs no merges to become it
	byteFallback bool // unknown code points become <0xXX> tokens
	fuseUnk      bool // a run of unknowns is one unknown
	unk          int32
}

// bpe is byte-pair encoding: a word becomes symbols, and the adjacent pair
// with the lowest rank is merged until no pair has a merge (Sennrich et al.
// 2016).
type bpe struct {
	merges       *mergeTable
	words        map[string]int32 // for ignoreMerges only: raw text of tokens
	byteLevel    bool
	byteFallback bool
	fuseUnk      bool
	unk          int32          // -1: unknown symbols vanish
	bytes        [256]int32     // the token of a byte, -1 without one
	ascii        [128]int32     // the token of a code point, -1 without one
	runes        map[rune]int32 // … beyond ASCII
	split        *markSplit     // nil: words are encoded whole
	cache        *wordCache
}

// metaMark is SentencePiece's spelling of a space.
const metaMark = "▁"

func newBPE(c bpeConfig) *bpe {
	m := &bpe{
		merges: newMergeTable(len(c.merges)), byteLevel: c.byteLevel, byteFallback: c.byteFallback,
		fuseUnk: c.fuseUnk, unk: c.unk, cache: newWordCache(len(c.vocab)),
	}
	for _, r := range c.merges {
		// The added-token pass has taken special tokens out of trusted text, so
		// a merge that makes one could only serve text that must not have it.
		if !c.special(r.id) {
			m.merges.put(r.left, r.right, r.rank, r.id)
		}
	}
	if c.ignoreMerges {
		m.words = knownWords(c)
	}
	m.bindSymbols(c.vocab)
	if !c.byteLevel {
		m.split = newMarkSplit(c)
	}
	return m
}

// knownWords lists the tokens that ignoreMerges may take whole, by raw text.
func knownWords(c bpeConfig) map[string]int32 {
	words := make(map[string]int32, len(c.vocab))
	var buf []byte
	for token, id := range c.vocab {
		if c.special(id) {
			continue
		}
		if !c.byteLevel {
			words[token] = id
			continue
		}
		buf = appendSpelled(buf[:0], token)
		if string(buf) != token || isASCIIPrint(token) {
			words[string(buf)] = id
		}
	}
	return words
}

// isASCIIPrint: byte-level spelling leaves such a token as it is.
func isASCIIPrint(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// bindSymbols finds the tokens that a word is first cut into.
func (m *bpe) bindSymbols(vocab map[string]int32) {
	for b := range m.bytes {
		name := fmt.Sprintf("<0x%02X>", b)
		if m.byteLevel {
			name = string(runeOfByte[b])
		}
		m.bytes[b] = idOr(vocab, name, -1)
	}
	if m.byteLevel {
		return
	}
	for i := range m.ascii {
		m.ascii[i] = -1
	}
	m.runes = make(map[rune]int32)
	for token, id := range vocab {
		r, n := utf8.DecodeRuneInString(token)
		switch {
		case n != len(token) || n == 0:
		case r < utf8.RuneSelf:
			m.ascii[r] = id
		default:
			m.runes[r] = id
		}
	}
}

func idOr(vocab map[string]int32, token string, fallback int32) int32 {
	if id, ok := vocab[token]; ok {
		return id
	}
	return fallback
}

func (m *bpe) encode(dst []int32, word string, _ bool) []int32 {
	if m.split == nil {
		return m.cache.encode(dst, word, m.word)
	}
	for word != "" {
		n := m.split.next(word)
		dst = m.cache.encode(dst, word[:n], m.word)
		word = word[n:]
	}
	return dst
}

// word encodes one word that the cache does not know.
func (m *bpe) word(dst []int32, w string) []int32 {
	if m.words != nil {
		if id, ok := m.words[w]; ok {
			return append(dst, id)
		}
	}
	var buf [128]int32
	symbols := buf[:0]
	if m.byteLevel {
		symbols = m.byteSymbols(symbols, w)
	} else {
		symbols = m.runeSymbols(symbols, w)
	}
	if len(symbols) <= scanLimit {
		return m.merges.scan(dst, symbols)
	}
	return m.merges.heap(dst, symbols)
}

func (m *bpe) byteSymbols(dst []int32, w string) []int32 {
	unknown := unknowns{m: m}
	for i := 0; i < len(w); i++ {
		id := m.bytes[w[i]]
		if id < 0 {
			dst = unknown.add(dst)
			continue
		}
		dst = append(unknown.flush(dst), id)
	}
	return unknown.flush(dst)
}

func (m *bpe) runeSymbols(dst []int32, w string) []int32 {
	unknown := unknowns{m: m}
	for i, n := 0, 0; i < len(w); i += n {
		var id int32
		if id, n = m.runeAt(w, i); id >= 0 {
			dst = append(unknown.flush(dst), id)
			continue
		}
		if ok := m.byteFallback; ok {
			for k := i; k < i+n; k++ {
				ok = ok && m.bytes[w[k]] >= 0
			}
			if ok {
				for k := i; k < i+n; k++ {
					dst = append(dst, m.bytes[w[k]])
				}
				continue // a pending unknown stays pending, as in the reference
			}
		}
		dst = unknown.add(dst)
	}
	return unknown.flush(dst)
}

// runeAt is the token of the code point at i (-1 without one) and its length.
func (m *bpe) runeAt(w string, i int) (int32, int) {
	if c := w[i]; c < utf8.RuneSelf {
		return m.ascii[c], 1
	}
	r, n := utf8.DecodeRuneInString(w[i:])
	if id, ok := m.runes[r]; ok {
		return id, n
	}
	return -1, n
}

// unknowns delays the unknown token until it is clear how many it stands for.
type unknowns struct {
	m       *bpe
	pending bool
}

func (u *unknowns) add(dst []int32) []int32 {
	if u.m.unk < 0 {
		return dst
	}
	if u.pending && !u.m.fuseUnk {
		dst = append(dst, u.m.unk)
	}
	u.pending = true
	return dst
}

func (u *unknowns) flush(dst []int32) []int32 {
	if u.pending {
		dst = append(dst, u.m.unk)
		u.pending = false
	}
	return dst
}

// markSplit cuts text without a pre-tokenizer into words before "▁", so that
// the cache can serve it. The cut is exact where no merge could reach across:
// inner lists the bytes that may stand before an inner "▁" of a merged token.
type markSplit struct{ inner [256]bool }

// newMarkSplit returns nil where "▁" is no symbol of the vocabulary.
func newMarkSplit(c bpeConfig) *markSplit {
	if _, ok := c.vocab[metaMark]; !ok || c.ignoreMerges {
		return nil
	}
	names := make(map[int32]string, len(c.vocab))
	for token, id := range c.vocab {
		names[id] = token
	}
	s := &markSplit{}
	for _, r := range c.merges {
		token := names[r.left] + names[r.right]
		for i := 1; i < len(token); i++ {
			if strings.HasPrefix(token[i:], metaMark) && !strings.HasSuffix(token[:i], metaMark) {
				s.inner[token[i-1]] = true
			}
		}
	}
	return s
}

// next is the length of the first word of text.
func (s *markSplit) next(text string) int {
	for i := 1; i < len(text); {
		k := strings.Index(text[i:], metaMark)
		if k < 0 {
			break
		}
		i += k
		if !s.inner[text[i-1]] && !strings.HasSuffix(text[:i], metaMark) {
			return i
		}
		i += len(metaMark)
	}
	return len(text)
}
