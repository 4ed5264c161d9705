package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// Classes of code points that the pre-tokenizer patterns tell apart. One code
// point may carry several.
const (
	clsL     uint8 = 1 << iota // \p{L}
	clsN                       // \p{N}
	clsSpace                   // \s
	clsM                       // \p{M}
	clsUpper                   // \p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}: what o200k's patterns call upper
	clsLower                   // \p{Ll}\p{Lm}\p{Lo}\p{M}
	clsP                       // \p{P}
	clsS                       // \p{S}
)

type runeRange struct{ lo, hi rune }

// classTable maps a code point to its classes: pages of 256, shared when empty.
type classTable struct {
	pages [(unicode.MaxRune + 1) >> 8]*[256]uint8
	ascii [utf8.RuneSelf]uint8
}

var classes = newClassTable()

func newClassTable() *classTable {
	t := &classTable{}
	for _, c := range []struct {
		table *unicode.RangeTable
		bits  uint8
	}{
		{unicode.L, clsL},
		{unicode.N, clsN},
		{unicode.White_Space, clsSpace},
		{unicode.M, clsM | clsUpper | clsLower},
		{unicode.Lu, clsUpper},
		{unicode.Lt, clsUpper},
		{unicode.Lm, clsUpper | clsLower},
		{unicode.Lo, clsUpper | clsLower},
		{unicode.Ll, clsLower},
		{unicode.P, clsP},
		{unicode.S, clsS},
	} {
		for _, r := range c.table.R16 {
			t.set(rune(r.Lo), rune(r.Hi), rune(r.Stride), c.bits)
		}
		for _, r := range c.table.R32 {
			t.set(rune(r.Lo), rune(r.Hi), rune(r.Stride), c.bits)
		}
	}
	for _, e := range unicode16 {
		for _, r := range e.ranges {
			t.set(r.lo, r.hi, 1, e.bits)
		}
	}
	empty := new([256]uint8)
	for i := range t.pages {
		if t.pages[i] == nil {
			t.pages[i] = empty
		}
	}
	copy(t.ascii[:], t.pages[0][:])
	return t
}

func (t *classTable) set(lo, hi, stride rune, bits uint8) {
	for r := lo; r <= hi; r += stride {
		p := t.pages[r>>8]
		if p == nil {
			p = new([256]uint8)
			t.pages[r>>8] = p
		}
		p[r&0xff] |= bits
	}
}

func classOf(r rune) uint8 { return classes.pages[r>>8][r&0xff] }

// classAt reads the code point of s at i. At the end of s its size is 0.
func classAt(s string, i int) (r rune, size int, cls uint8) {
	if i >= len(s) {
		return -1, 0, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return rune(c), 1, classes.ascii[c]
	}
	r, size = utf8.DecodeRuneInString(s[i:])
	return r, size, classOf(r)
}

// isWordRune is \w as the reference's regex crate defines it.
func isWordRune(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc,
		unicode.Other_Alphabetic, unicode.Join_Control)
}

// isPunctRune is BERT's notion: every ASCII symbol, and \p{P} beyond.
func isPunctRune(r rune) bool {
	c := classOf(r)
	return c&clsP != 0 || r < utf8.RuneSelf && c&clsS != 0
}

func isSpaceRune(r rune) bool { return classOf(r)&clsSpace != 0 }

func isDigitRune(r rune) bool { return classOf(r)&clsN != 0 }
