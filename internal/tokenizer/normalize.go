package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
	"golang.org/x/text/unicode/norm"
)

// A normalizer rewrites text before it is split; nil leaves it as it is.
type normalizer func(string) string

func (n normalizer) apply(s string) string {
	if n == nil {
		return s
	}
	return n(s)
}

// chain applies normalizers in order.
func chain(ns []normalizer) normalizer {
	switch len(ns) {
	case 0:
		return nil
	case 1:
		return ns[0]
	}
	return func(s string) string {
		for _, n := range ns {
			s = n.apply(s)
		}
		return s
	}
}

// unicodeForm normalizes to a Unicode form with the reference's older tables:
// code points it does not know stay, and the text between them is normalized
// by itself.
func unicodeForm(form norm.Form) normalizer {
	return func(s string) string {
		i := indexInert(s)
		if i < 0 {
			return form.String(s)
		}
		var b strings.Builder
		for i >= 0 {
			_, n := utf8.DecodeRuneInString(s[i:])
			b.WriteString(form.String(s[:i]))
			b.WriteString(s[i : i+n])
			s = s[i+n:]
			i = indexInert(s)
		}
		b.WriteString(form.String(s))
		return b.String()
	}
}

// indexInert finds the first of inertRunes in s, -1 without one.
func indexInert(s string) int {
	for i := 0; i < len(s); {
		if s[i] < 0xdf { // U+07FD, the least of them, is DF BD
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if inRanges(inertRunes, r) {
			return i
		}
		i += n
	}
	return -1
}

// lowercase maps each code point by itself: no final sigma, and İ to i and a
// dot above.
func lowercase(s string) string {
	return strings.Map(lowerRune, strings.ReplaceAll(s, "İ", "i\u0307"))
}

func lowerRune(r rune) rune {
	if r < newCases[0].lo {
		return unicode.ToLower(r)
	}
	for _, c := range newCases {
		if c.lo <= r && r <= c.hi {
			return r + c.delta
		}
	}
	return unicode.ToLower(r)
}

// stripAccents drops the marks that the reference knows, and two Vedic signs
// that were marks in its Unicode version.
func stripAccents(s string) string {
	return strings.Map(func(r rune) rune {
		known := unicode.Is(unicode.M, r) && !inRanges(unknownMarks, r)
		if known || r == 0x1cf2 || r == 0x1cf3 {
			return -1
		}
		return r
	}, s)
}

func prepend(prefix string) normalizer {
	return func(s string) string {
		if s == "" {
			return s
		}
		return prefix + s
	}
}

func stripSpace(left, right bool) normalizer {
	return func(s string) string {
		if left {
			s = strings.TrimLeftFunc(s, isSpaceRune)
		}
		if right {
			s = strings.TrimRightFunc(s, isSpaceRune)
		}
		return s
	}
}

func replaceLiteral(old, new string) normalizer {
	return func(s string) string { return strings.ReplaceAll(s, old, new) }
}

// replaceRegex replaces every match by text, taken literally.
func replaceRegex(pattern, text string) (normalizer, error) {
	re, err := compileRegex(pattern)
	if err != nil {
		return nil, err
	}
	return func(s string) string {
		out, err := re.ReplaceFunc(s, func(regexp2.Match) string { return text }, -1, -1)
		if err != nil { // time-outs only, and none is set
			return s
		}
		return out
	}, nil
}
