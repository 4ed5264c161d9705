package tokenizer

import (
	"strings"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// span is a match: bytes [start, end) of a text.
type span struct{ start, end int }

// A matcher appends to dst the non-overlapping, non-empty matches in s, from
// left to right.
type matcher func(dst []span, s string) []span

// matchRegex compiles a pattern: by hand if it is known, else with regexp2.
func matchRegex(pattern string) (matcher, error) {
	if scan := scannerFor(pattern); scan != nil {
		return matchScanner(scan), nil
	}
	switch pattern {
	case patDeepSeekNumber:
		return matchNumbers, nil
	case patDeepSeekKanji:
		return matchKanji, nil
	case patDeepSeekWord:
		return matchDeepSeekWords, nil
	case patTrailingSpace:
		return matchTrailingSpace, nil
	case `\p{N}`:
		return matchRunes(isDigitRune), nil
	}
	return matchRegexp2(pattern)
}

func matchScanner(scan scanner) matcher {
	return func(dst []span, s string) []span {
		for i := 0; i < len(s); {
			n := scan(s[i:])
			dst = append(dst, span{i, i + n})
			i += n
		}
		return dst
	}
}

// compileRegex reads a pattern as the reference's engine (Oniguruma with Ruby
// syntax) does: ^ and $ are borders of lines. What .NET syntax lacks of it,
// like possessive quantifiers, is not supported.
func compileRegex(pattern string) (*regexp2.Regexp, error) {
	re, err := regexp2.Compile(pattern, regexp2.Multiline)
	if err != nil {
		return nil, &UnsupportedError{Part: "regular expression", Name: pattern, Reason: err}
	}
	return re, nil
}

// matchRegexp2 is the fallback for patterns without a scanner.
func matchRegexp2(pattern string) (matcher, error) {
	re, err := compileRegex(pattern)
	if err != nil {
		return nil, err
	}
	return func(dst []span, s string) []span {
		runes := []rune(s)
		offset, at := 0, 0 // byte offset of runes[at]
		seek := func(to int) int {
			for ; at < to; at++ {
				offset += utf8.RuneLen(runes[at])
			}
			return offset
		}
		// Errors are time-outs only, and none is set.
		m, _ := re.FindRunesMatch(runes)
		for m != nil {
			start := seek(m.RuneIndex)
			end := seek(m.RuneIndex + m.RuneLength)
			if end > start {
				dst = append(dst, span{start, end})
			}
			m, _ = re.FindNextMatch(m)
		}
		return dst
	}, nil
}

// matchLiteral matches every occurrence of lit, which is not empty.
func matchLiteral(lit string) matcher {
	return func(dst []span, s string) []span {
		for i := 0; ; {
			k := strings.Index(s[i:], lit)
			if k < 0 {
				return dst
			}
			dst = append(dst, span{i + k, i + k + len(lit)})
			i += k + len(lit)
		}
	}
}

// matchRunes matches each code point of a kind as a match of its own.
func matchRunes(is func(rune) bool) matcher {
	return func(dst []span, s string) []span {
		for i, r := range s {
			if is(r) {
				dst = append(dst, span{i, i + utf8.RuneLen(r)})
			}
		}
		return dst
	}
}

// matchWhitespaceWords is `\w+|[^\w\s]+`.
func matchWhitespaceWords(dst []span, s string) []span {
	kind := func(r rune) int {
		switch {
		case isWordRune(r):
			return 1
		case isSpaceRune(r):
			return 0
		}
		return 2
	}
	start, open := 0, 0
	for i, r := range s {
		k := kind(r)
		if k == open {
			continue
		}
		if open != 0 {
			dst = append(dst, span{start, i})
		}
		start, open = i, k
	}
	if open != 0 {
		dst = append(dst, span{start, len(s)})
	}
	return dst
}

// matchTrailingSpace is `\s+$`: of each run of white space, all at the end of
// the text, else what precedes its last line break. An expression would try
// every space of a long run in vain.
func matchTrailingSpace(dst []span, s string) []span {
	for i := 0; i < len(s); {
		_, n, c := classAt(s, i)
		if c&clsSpace == 0 {
			i += n
			continue
		}
		end := spanAll(s, i, clsSpace)
		if end == len(s) {
			return append(dst, span{i, end})
		}
		if k := strings.LastIndexByte(s[i:end], '\n'); k > 0 {
			dst = append(dst, span{i, i + k})
		}
		i = end
	}
	return dst
}

func matchNumbers(dst []span, s string) []span {
	for i := 0; i < len(s); {
		_, n, c := classAt(s, i)
		if c&clsN == 0 {
			i += n
			continue
		}
		end := spanNumber(s, i+n, 3)
		dst = append(dst, span{i, end})
		i = end
	}
	return dst
}

func matchKanji(dst []span, s string) []span {
	is := func(r rune) bool { return 0x4e00 <= r && r <= 0x9fa5 || 0x3040 <= r && r <= 0x30ff }
	for i := 0; i < len(s); {
		r, n, _ := classAt(s, i)
		end := i + n
		if is(r) {
			for end < len(s) {
				r, n, _ := classAt(s, end)
				if !is(r) {
					break
				}
				end += n
			}
			dst = append(dst, span{i, end})
		}
		i = end
	}
	return dst
}

func matchDeepSeekWords(dst []span, s string) []span {
	for i := 0; i < len(s); {
		n := scanDeepSeekWord(s[i:])
		if n > 0 {
			dst = append(dst, span{i, i + n})
		} else {
			_, n, _ = classAt(s, i)
		}
		i += n
	}
	return dst
}

// scanDeepSeekWord is patDeepSeekWord at the start of s; unlike the scanners
// of scan.go it may fail to match, with 0.
func scanDeepSeekWord(s string) int {
	const symbol = clsP | clsS
	r, n, c := classAt(s, 0)
	if r < utf8.RuneSelf && c&symbol != 0 {
		if e := spanASCIILetters(s, n); e > n {
			return e
		}
	}
	if r != '\r' && r != '\n' && c&(clsL|symbol) == 0 {
		if e := spanAll(s, n, clsL|clsM); e > n {
			return e
		}
	}
	if c&(clsL|clsM) != 0 {
		return spanAll(s, n, clsL|clsM)
	}
	first := 0
	if r == ' ' {
		first = n
	}
	if e := spanAll(s, first, symbol); e > first {
		return spanNewlines(s, e, false)
	}
	if c&clsSpace != 0 {
		return spanSpace(s, true)
	}
	return 0
}

func spanASCIILetters(s string, i int) int {
	for i < len(s) && ('a' <= s[i]|0x20 && s[i]|0x20 <= 'z') {
		i++
	}
	return i
}
