package tokenizer

import "unicode/utf8"

// addedToken is a token that is found in text before the model sees it.
type addedToken struct {
	id         int32
	content    string
	singleWord bool // only where no word character touches it
	lstrip     bool // it swallows the white space before it
	rstrip     bool // … and after it
	normalized bool // it is looked for in normalized text
	special    bool // dropped by DecodeOptions.SkipSpecial
}

// addedTrie finds added tokens, the longest at a position.
type addedTrie struct {
	trie   byteTrie
	tokens []addedToken
	first  [256]bool // bytes that begin a token
}

func (t *addedTrie) add(spelling string, a addedToken) {
	if spelling == "" {
		return // nothing to find in text
	}
	t.first[spelling[0]] = true
	t.trie.insert(spelling, int32(len(t.tokens)))
	t.tokens = append(t.tokens, a)
}

// longest returns the longest token at the start of s and its length in bytes.
func (t *addedTrie) longest(s string) (*addedToken, int) {
	node, best, length := int32(0), int32(-1), 0
	for i := 0; i < len(s); i++ {
		if node = t.trie.child(node, s[i]); node < 0 {
			break
		}
		if v := t.trie.nodes[node].value; v >= 0 {
			best, length = v, i+1
		}
	}
	if best < 0 {
		return nil, 0
	}
	return &t.tokens[best], length
}

// split walks s from left to right and calls plain for each stretch without
// added tokens, and found for each added token.
func (t *addedTrie) split(s segment, plain func(segment), found func(id int32)) {
	text, start := s.text, 0
	for i := 0; i < len(text); {
		if !t.first[text[i]] {
			i++
			continue
		}
		a, n := t.longest(text[i:])
		if a == nil {
			i++
			continue
		}
		if a.singleWord && touchesWord(text, i, i+n) {
			i += n
			continue
		}
		from, to := a.extent(text, start, i, i+n)
		if from > start {
			plain(segment{text[start:from], s.first && start == 0})
		}
		found(a.id)
		start, i = to, to
	}
	if start < len(text) {
		plain(segment{text[start:], s.first && start == 0})
	}
}

// extent widens the match [from, to) by the white space it swallows, not
// further left than start.
func (a *addedToken) extent(text string, start, from, to int) (int, int) {
	for a.lstrip && from > start {
		r, n := utf8.DecodeLastRuneInString(text[start:from])
		if !isSpaceRune(r) {
			break
		}
		from -= n
	}
	for a.rstrip && to < len(text) {
		r, n := utf8.DecodeRuneInString(text[to:])
		if !isSpaceRune(r) {
			break
		}
		to += n
	}
	return from, to
}

func touchesWord(text string, from, to int) bool {
	if from > 0 && isWordRune(decodeLast(text[:from])) {
		return true
	}
	r, n := utf8.DecodeRuneInString(text[to:])
	return n > 0 && isWordRune(r)
}
