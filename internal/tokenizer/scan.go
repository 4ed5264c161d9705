package tokenizer

import "unicode/utf8"

// A scanner returns the length of the word that a pattern matches at the start
// of s, which is not empty. The patterns below match at every position, so a
// scanner always returns at least one code point.
type scanner func(s string) int

// The patterns that get a scanner, spelled as tokenizer.json files spell them.
const (
	patGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patO200k  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patTekken = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

	// DeepSeek-V3 splits in three rounds: numbers, then Han and kana, then this.
	patDeepSeekNumber = `\p{N}{1,3}`
	patDeepSeekKanji  = `[一-龥぀-ゟ゠-ヿ]+`
	patDeepSeekWord   = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)

// scannerFor returns the scanner that matches exactly as pattern does at any
// position, or nil. Only patterns that match everywhere are listed.
func scannerFor(pattern string) scanner {
	switch pattern {
	case patGPT2:
		return scanGPT2
	case patLlama3:
		return func(s string) int { return scanLlama(s, 3) }
	case patQwen2:
		return func(s string) int { return scanLlama(s, 1) }
	case patO200k:
		return func(s string) int { return scanO200k(s, 3, true) }
	case patTekken:
		return func(s string) int { return scanO200k(s, 1, false) }
	}
	return nil
}

// spanAll, spanNone: the end of the run from i whose code points carry any,
// or none, of the classes in mask.
func spanAll(s string, i int, mask uint8) int {
	for i < len(s) {
		_, n, c := classAt(s, i)
		if c&mask == 0 {
			break
		}
		i += n
	}
	return i
}

func spanNone(s string, i int, mask uint8) int {
	for i < len(s) {
		_, n, c := classAt(s, i)
		if c&mask != 0 {
			break
		}
		i += n
	}
	return i
}

// spanNumber is \p{N}{1,limit}, given that the first n bytes are one.
func spanNumber(s string, n, limit int) int {
	for range limit - 1 {
		_, k, c := classAt(s, n)
		if c&clsN == 0 {
			break
		}
		n += k
	}
	return n
}

func spanNewlines(s string, i int, slash bool) int {
	for i < len(s) && (s[i] == '\r' || s[i] == '\n' || slash && s[i] == '/') {
		i++
	}
	return i
}

// spanContraction matches 's 't 're 've 'm 'll 'd at the start of s, where
// s[0] is the apostrophe; 0 when there is none.
func spanContraction(s string, fold bool) int {
	lower := func(i int) byte {
		if i >= len(s) {
			return 0
		}
		c := s[i]
		if fold && 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	switch lower(1) {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if lower(2) == 'e' {
			return 3
		}
	case 'l':
		if lower(2) == 'l' {
			return 3
		}
	case 0xc5: // ſ (U+017F) folds to s
		if fold && lower(2) == 0xbf {
			return 3
		}
	}
	return 0
}

// spanSpace matches the tail that all patterns share, at a space:
// \s*[\r\n]+ (only with newlines), \s+(?!\S), \s+.
func spanSpace(s string, newlines bool) int {
	end, last, afterNewline := 0, 0, 0
	for end < len(s) {
		r, n, c := classAt(s, end)
		if c&clsSpace == 0 {
			break
		}
		last = end
		end += n
		if r == '\r' || r == '\n' {
			afterNewline = end
		}
	}
	switch {
	case newlines && afterNewline > 0:
		return afterNewline
	case end == len(s) || last == 0:
		return end
	}
	return last // leave one space to the word that follows
}

func scanGPT2(s string) int {
	r, n, c := classAt(s, 0)
	if r == '\'' {
		if k := spanContraction(s, false); k > 0 {
			return k
		}
	}
	if r == ' ' {
		if _, n2, c2 := classAt(s, n); n2 > 0 && c2&clsSpace == 0 {
			n, c = n+n2, c2
		}
	}
	switch {
	case c&clsL != 0:
		return spanAll(s, n, clsL)
	case c&clsN != 0:
		return spanAll(s, n, clsN)
	case c&clsSpace == 0:
		return spanNone(s, n, clsL|clsN|clsSpace)
	}
	return spanSpace(s, false)
}

// scanLlama serves Llama 3 (numbers up to three digits) and Qwen 2 (one).
func scanLlama(s string, digits int) int {
	r, n, c := classAt(s, 0)
	if r == '\'' {
		if k := spanContraction(s, true); k > 0 {
			return k
		}
	}
	if c&clsL != 0 {
		return spanAll(s, n, clsL)
	}
	if c&clsN != 0 {
		return spanNumber(s, n, digits)
	}
	_, n2, c2 := classAt(s, n)
	if r != '\r' && r != '\n' && c2&clsL != 0 {
		return spanAll(s, n+n2, clsL)
	}
	return scanSymbols(s, r, n, c, n2, c2, false)
}

// scanSymbols is the common end ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s…`; the first
// code point (r, n, c) is no letter and no number, the second is (n2, c2).
func scanSymbols(s string, r rune, n int, c uint8, n2 int, c2 uint8, slash bool) int {
	if c&clsSpace == 0 || r == ' ' && n2 > 0 && c2&(clsL|clsN|clsSpace) == 0 {
		return spanNewlines(s, spanNone(s, n, clsL|clsN|clsSpace), slash)
	}
	return spanSpace(s, true)
}

// scanO200k serves GPT-4o (contractions, three digits) and Mistral's Tekken.
func scanO200k(s string, digits int, contractions bool) int {
	r, n, c := classAt(s, 0)
	if e := spanCased(s, r, n, c); e > 0 {
		if contractions && e < len(s) && s[e] == '\'' {
			e += spanContraction(s[e:], true)
		}
		return e
	}
	if c&clsN != 0 {
		return spanNumber(s, n, digits)
	}
	_, n2, c2 := classAt(s, n)
	return scanSymbols(s, r, n, c, n2, c2, true)
}

// spanCased matches o200k's two word alternatives, each with and without its
// optional leading symbol, in the order in which the pattern tries them.
func spanCased(s string, r rune, n int, c uint8) int {
	lead := r != '\r' && r != '\n' && c&(clsL|clsN) == 0
	if lead {
		if e := spanUpperLower(s, n); e > 0 {
			return e
		}
	}
	if e := spanUpperLower(s, 0); e > 0 {
		return e
	}
	if lead {
		if e := spanAll(s, n, clsUpper); e > n {
			return e
		}
	}
	return spanAll(s, 0, clsUpper)
}

// spanUpperLower is Upper*Lower+ with backtracking: code points in both
// classes may be given back by the first part. 0 when it does not match.
func spanUpperLower(s string, i int) int {
	both := 0
	for i < len(s) {
		_, n, c := classAt(s, i)
		if c&clsUpper == 0 {
			break
		}
		i += n
		if c&clsLower != 0 {
			both = i
		}
	}
	if e := spanAll(s, i, clsLower); e > i {
		return e
	}
	return both
}

// decodeLast returns the last code point of s, -1 when s is empty.
func decodeLast(s string) rune {
	if s == "" {
		return -1
	}
	r, _ := utf8.DecodeLastRuneInString(s)
	return r
}
