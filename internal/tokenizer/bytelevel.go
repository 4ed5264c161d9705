package tokenizer

import "unicode/utf8"

// Byte-level BPE spells each byte as a printable code point (GPT-2): the
// printable Latin-1 bytes stand for themselves, the others take U+0100 onward.

var runeOfByte = func() (t [256]rune) {
	next := rune(0x100)
	for b := range t {
		printable := '!' <= b && b <= '~' || 0xa1 <= b && b <= 0xac || 0xae <= b
		if printable {
			t[b] = rune(b)
			continue
		}
		t[b] = next
		next++
	}
	return t
}()

// byteOfRune inverts runeOfByte; -1 where there is nothing to invert.
var byteOfRune = func() (t [0x144]int16) {
	for i := range t {
		t[i] = -1
	}
	for b, r := range runeOfByte {
		t[r] = int16(b)
	}
	return t
}()

// appendSpelled appends the bytes that a byte-level token spells. A token with
// a code point outside the alphabet (an added token) stands for itself.
func appendSpelled(dst []byte, token string) []byte {
	n := len(dst)
	for _, r := range token {
		if int(r) >= len(byteOfRune) || byteOfRune[r] < 0 {
			return append(dst[:n], token...)
		}
		dst = append(dst, byte(byteOfRune[r]))
	}
	return dst
}

// byteToken reads SentencePiece's spelling of a byte, "<0x0A>".
func byteToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	hi, ok1 := hexDigit(s[3])
	lo, ok2 := hexDigit(s[4])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// appendLossy appends b with one U+FFFD for each maximal part of an ill-formed
// sequence (Unicode 3.9, "substitution of maximal subparts"), as the reference
// decodes bytes.
func appendLossy(dst, b []byte) []byte {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n <= 1 {
			n = maximalSubpart(b)
			dst = append(dst, "\ufffd"...)
		} else {
			dst = append(dst, b[:n]...)
		}
		b = b[n:]
	}
	return dst
}

// maximalSubpart is the length of the longest prefix of b that begins a
// well-formed sequence, at least 1.
func maximalSubpart(b []byte) int {
	need, lo, hi := sequenceShape(b[0])
	n := 1
	for n <= need && n < len(b) && lo <= b[n] && b[n] <= hi {
		lo, hi = 0x80, 0xbf
		n++
	}
	return n
}

// sequenceShape gives the number of continuation bytes after a lead byte, and
// the range of the first of them (Unicode table 3-7).
func sequenceShape(lead byte) (need int, lo, hi byte) {
	switch {
	case 0xc2 <= lead && lead <= 0xdf:
		return 1, 0x80, 0xbf
	case lead == 0xe0:
		return 2, 0xa0, 0xbf
	case lead == 0xed:
		return 2, 0x80, 0x9f
	case 0xe1 <= lead && lead <= 0xef:
		return 2, 0x80, 0xbf
	case lead == 0xf0:
		return 3, 0x90, 0xbf
	case lead == 0xf4:
		return 3, 0x80, 0x8f
	case 0xf1 <= lead && lead <= 0xf3:
		return 3, 0x80, 0xbf
	}
	return 0, 0, 0
}

// incompleteTail is the length of the suffix of b that further bytes could
// still complete to a code point, 0 to 3.
func incompleteTail(b []byte) int {
	for n := 1; n <= 3 && n <= len(b); n++ {
		lead := b[len(b)-n]
		if lead&0xc0 == 0x80 {
			continue
		}
		need, _, _ := sequenceShape(lead)
		if need >= n && maximalSubpart(b[len(b)-n:]) == n {
			return n
		}
		return 0
	}
	return 0
}
