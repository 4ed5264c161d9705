package tokenizer

import (
	"sort"
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
		k := sort.Search(len(inertRunes), func(k int) bool { return inertRunes[k].hi >= r })
		if k < len(inertRunes) && inertRunes[k].lo <= r {
			return i
		}
		i += n
	}
	return -1
}

// lowercase maps each code point by itself: no final sigma, and İ to i and a
// dot above.
func lowercase(s string) string {
	if !strings.ContainsRune(s, 'İ') {
		return strings.ToLower(s)
	}
	return strings.ToLower(strings.ReplaceAll(s, "İ", "i\u0307"))
}

func stripAccents(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
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
	re, err := regexp2.Compile(pattern, regexp2.None)
	if err != nil {
		return nil, malformed("pattern %q: %w", pattern, err)
	}
	return func(s string) string {
		out, err := re.ReplaceFunc(s, func(regexp2.Match) string { return text }, -1, -1)
		if err != nil { // time-outs only, and none is set
			return s
		}
		return out
	}, nil
}

// bertText is BertNormalizer: clean controls, space out Han, strip accents,
// lower case, each if asked for.
func bertText(clean, chinese, accents, lower bool) normalizer {
	nfd := unicodeForm(norm.NFD)
	return func(s string) string {
		if clean {
			s = strings.Map(bertClean, s)
		}
		if chinese {
			s = spaceHan(s)
		}
		if accents {
			s = strings.Map(func(r rune) rune {
				if unicode.Is(unicode.Mn, r) {
					return -1
				}
				return r
			}, nfd(s))
		}
		if lower {
			s = lowercase(s)
		}
		return s
	}
}

func bertClean(r rune) rune {
	switch {
	case r == '\t' || r == '\n' || r == '\r' || isSpaceRune(r):
		return ' '
	case r == 0 || r == utf8.RuneError || unicode.Is(unicode.C, r):
		return -1
	}
	return r
}

func spaceHan(s string) string {
	var b strings.Builder
	for _, r := range s {
		if isHanRune(r) {
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// isHanRune is BERT's list of CJK ideograph blocks.
func isHanRune(r rune) bool {
	return 0x4e00 <= r && r <= 0x9fff || 0x3400 <= r && r <= 0x4dbf ||
		0x20000 <= r && r <= 0x2a6df || 0x2a700 <= r && r <= 0x2b73f ||
		0x2b740 <= r && r <= 0x2b81f || 0x2b920 <= r && r <= 0x2ceaf ||
		0xf900 <= r && r <= 0xfaff || 0x2f800 <= r && r <= 0x2fa1f
}
