package chattemplate

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokKind uint8

const (
	tEOF tokKind = iota
	tData
	tVarBegin
	tVarEnd
	tBlockBegin
	tBlockEnd
	tName
	tString
	tNumber // integer or float, in val
	tOp     // the operator's text is in str
)

type token struct {
	kind tokKind
	line int
	str  string
	val  Value
}

// describe names a token for error messages.
func (t token) describe() string {
	switch t.kind {
	case tEOF:
		return "end of template"
	case tVarEnd:
		return "end of print statement"
	case tBlockEnd:
		return "end of statement block"
	case tString:
		return "string"
	case tNumber:
		return "number"
	}
	return t.str
}

// lexer cuts a template into tokens by the rules of jinja2 3.1 with
// trim_blocks and lstrip_blocks on, keep_trailing_newline off.
type lexer struct {
	src  string
	pos  int
	line int
	// lineStart tells that the last match ended with a newline, so that white
	// space from here on stands at the start of a line.
	lineStart bool
	toks      []token
}

func lex(src string) ([]token, error) {
	src = strings.ReplaceAll(src, "\r\n", "\n")
	src = strings.ReplaceAll(src, "\r", "\n")
	src = strings.TrimSuffix(src, "\n")
	lx := &lexer{src: src, line: 1, lineStart: true}
	for lx.pos < len(lx.src) {
		if err := lx.root(); err != nil {
			return nil, err
		}
	}
	lx.emit(token{kind: tEOF, line: lx.line})
	return lx.toks, nil
}

func (lx *lexer) fail(format string, a ...any) error {
	return &SyntaxError{Line: lx.line, Msg: fmt.Sprintf(format, a...)}
}

func (lx *lexer) emit(t token) { lx.toks = append(lx.toks, t) }

// advance moves to position end, counting lines.
func (lx *lexer) advance(end int) {
	lx.line += strings.Count(lx.src[lx.pos:end], "\n")
	lx.lineStart = end > lx.pos && lx.src[end-1] == '\n'
	lx.pos = end
}

// nextTag returns the position of the next "{{", "{%" or "{#", or -1.
func nextTag(s string, from int) int {
	for {
		i := strings.IndexByte(s[from:], '{')
		if i < 0 || from+i+1 >= len(s) {
			return -1
		}
		from += i
		if c := s[from+1]; c == '{' || c == '%' || c == '#' {
			return from
		}
		from++
	}
}

// root handles text up to the next tag and then the tag.
func (lx *lexer) root() error {
	i := nextTag(lx.src, lx.pos)
	if i < 0 {
		lx.data(lx.src[lx.pos:])
		lx.advance(len(lx.src))
		return nil
	}
	kind, end := lx.src[i+1], i+2
	sign := byte(0)
	if end < len(lx.src) && (lx.src[end] == '-' || lx.src[end] == '+') {
		sign = lx.src[end]
		end++
	}
	lx.data(lx.stripBefore(lx.src[lx.pos:i], sign, kind != '{'))
	if kind == '%' {
		if e, ok := lx.rawBegin(end); ok {
			lx.advance(e)
			return lx.raw()
		}
	}
	lx.advance(end)
	switch kind {
	case '#':
		return lx.comment()
	case '%':
		lx.emit(token{kind: tBlockBegin, line: lx.line})
		return lx.code(tBlockEnd)
	}
	lx.emit(token{kind: tVarBegin, line: lx.line})
	return lx.code(tVarEnd)
}

func (lx *lexer) data(s string) {
	if s != "" {
		lx.emit(token{kind: tData, line: lx.line, str: s})
	}
}

// stripBefore applies a tag's white space control to the text before it.
func (lx *lexer) stripBefore(text string, sign byte, block bool) string {
	if sign == '-' {
		return strings.TrimRightFunc(text, isSpace)
	}
	if sign == '+' || !block {
		return text
	}
	nl := strings.LastIndexByte(text, '\n') + 1
	if nl == 0 && !lx.lineStart {
		return text
	}
	if strings.TrimLeftFunc(text[nl:], isSpace) == "" {
		return text[:nl]
	}
	return text
}

func skipSpace(s string, i int) int {
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !isSpace(r) {
			break
		}
		i += n
	}
	return i
}

// rawBegin recognises `raw %}` after a block's start.
func (lx *lexer) rawBegin(i int) (int, bool) {
	i = skipSpace(lx.src, i)
	if !strings.HasPrefix(lx.src[i:], "raw") {
		return 0, false
	}
	i = skipSpace(lx.src, i+3)
	switch {
	case strings.HasPrefix(lx.src[i:], "-%}"):
		return skipSpace(lx.src, i+3), true
	case strings.HasPrefix(lx.src[i:], "%}"):
		return i + 2, true
	}
	return 0, false
}

// blockEnd returns the position after a block's end at i, its white space
// control applied, or -1.
func (lx *lexer) blockEnd(i int) int {
	s := lx.src[i:]
	switch {
	case strings.HasPrefix(s, "+%}"):
		return i + 3
	case strings.HasPrefix(s, "-%}"):
		return skipSpace(lx.src, i+3)
	case strings.HasPrefix(s, "%}\n"):
		return i + 3
	case strings.HasPrefix(s, "%}"):
		return i + 2
	}
	return -1
}

// raw and comment accept a template that ends right after their start, as
// jinja2 does.
func (lx *lexer) raw() error {
	if lx.pos == len(lx.src) {
		return nil
	}
	for i := lx.pos; ; {
		j := strings.Index(lx.src[i:], "{%")
		if j < 0 {
			return lx.fail("Missing end of raw directive")
		}
		i += j
		k, sign := i+2, byte(0)
		if k < len(lx.src) && (lx.src[k] == '-' || lx.src[k] == '+') {
			sign = lx.src[k]
			k++
		}
		k = skipSpace(lx.src, k)
		if strings.HasPrefix(lx.src[k:], "endraw") {
			if end := lx.blockEnd(skipSpace(lx.src, k+6)); end >= 0 {
				lx.data(lx.stripBefore(lx.src[lx.pos:i], sign, true))
				lx.advance(end)
				return nil
			}
		}
		i += 2
	}
}

func (lx *lexer) comment() error {
	if lx.pos == len(lx.src) {
		return nil
	}
	j := strings.Index(lx.src[lx.pos:], "#}")
	if j < 0 {
		return lx.fail("Missing end of comment tag")
	}
	i := lx.pos + j
	end := i + 2
	switch {
	case j > 0 && lx.src[i-1] == '-':
		end = skipSpace(lx.src, end)
	case j > 0 && lx.src[i-1] == '+':
	case end < len(lx.src) && lx.src[end] == '\n':
		end++
	}
	lx.advance(end)
	return nil
}

// closing maps an opening bracket to its end.
var closing = map[string]string{"(": ")", "[": "]", "{": "}"}

// code lexes the inside of a block or print tag up to its end.
func (lx *lexer) code(end tokKind) error {
	var open []string
	for lx.pos < len(lx.src) {
		if len(open) == 0 {
			if e := lx.tagEnd(end); e >= 0 {
				lx.emit(token{kind: end, line: lx.line})
				lx.advance(e)
				return nil
			}
		}
		if e := skipSpace(lx.src, lx.pos); e > lx.pos {
			lx.advance(e)
			continue
		}
		t, n, err := lx.codeToken()
		if err != nil {
			return err
		}
		if t.kind == tOp {
			if open, err = lx.balance(open, t.str); err != nil {
				return err
			}
		}
		lx.emit(t)
		lx.advance(lx.pos + n)
	}
	return nil // the parser reports the missing end
}

func (lx *lexer) tagEnd(end tokKind) int {
	if end == tBlockEnd {
		return lx.blockEnd(lx.pos)
	}
	switch s := lx.src[lx.pos:]; {
	case strings.HasPrefix(s, "-}}"):
		return skipSpace(lx.src, lx.pos+3)
	case strings.HasPrefix(s, "}}"):
		return lx.pos + 2
	}
	return -1
}

func (lx *lexer) balance(open []string, op string) ([]string, error) {
	switch op {
	case "(", "[", "{":
		return append(open, closing[op]), nil
	case ")", "]", "}":
		if len(open) == 0 {
			return nil, lx.fail("unexpected '%s'", op)
		}
		if want := open[len(open)-1]; want != op {
			return nil, lx.fail("unexpected '%s', expected '%s'", op, want)
		}
		return open[:len(open)-1], nil
	}
	return open, nil
}

var twoCharOps = []string{"//", "**", "==", "!=", ">=", "<="}

const oneCharOps = "+-/*%~[](){}><=.:|,;"

func (lx *lexer) codeToken() (token, int, error) {
	s := lx.src[lx.pos:]
	c := s[0]
	if c >= '0' && c <= '9' {
		return lx.number(s)
	}
	if c == '\'' || c == '"' {
		return lx.quoted(s)
	}
	if n := identLen(s); n > 0 {
		return lx.name(s[:n])
	}
	for _, op := range twoCharOps {
		if strings.HasPrefix(s, op) {
			return token{kind: tOp, line: lx.line, str: op}, 2, nil
		}
	}
	if strings.IndexByte(oneCharOps, c) >= 0 {
		return token{kind: tOp, line: lx.line, str: s[:1]}, 1, nil
	}
	r, _ := utf8.DecodeRuneInString(s)
	return token{}, 0, lx.fail("unexpected char %s", reprStr(string(r)))
}

func identLen(s string) int {
	for i, r := range s {
		if r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r) {
			return i
		}
	}
	return len(s)
}

func (lx *lexer) name(s string) (token, int, error) {
	r, _ := utf8.DecodeRuneInString(s)
	if r != '_' && !unicode.IsLetter(r) && !unicode.Is(unicode.Nl, r) {
		return token{}, 0, lx.fail("Invalid character in identifier")
	}
	return token{kind: tName, line: lx.line, str: s}, len(s), nil
}

// digitsLen is the length of digits in s, single underscores between them
// allowed.
func digitsLen(s string, ok func(byte) bool) int {
	n := 0
	for n < len(s) {
		if ok(s[n]) {
			n++
		} else if s[n] == '_' && n > 0 && n+1 < len(s) && ok(s[n+1]) {
			n += 2
		} else {
			break
		}
	}
	return n
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// floatLen is the length of a float literal at the start of s, or 0.
func floatLen(s string) int {
	n := digitsLen(s, isDigit)
	frac := 0
	if n < len(s) && s[n] == '.' {
		if d := digitsLen(s[n+1:], isDigit); d > 0 {
			frac = 1 + d
		}
	}
	exp := 0
	if e := n + frac; e < len(s) && (s[e] == 'e' || s[e] == 'E') {
		k := e + 1
		if k < len(s) && (s[k] == '+' || s[k] == '-') {
			k++
		}
		if d := digitsLen(s[k:], isDigit); d > 0 {
			exp = k + d - e
		}
	}
	if frac+exp == 0 {
		return 0
	}
	return n + frac + exp
}

func (lx *lexer) number(s string) (token, int, error) {
	// `a.1.2`: a float literal does not start right after a dot.
	afterDot := lx.pos > 0 && lx.src[lx.pos-1] == '.'
	if n := floatLen(s); n > 0 && !afterDot {
		f, err := strconv.ParseFloat(strings.ReplaceAll(s[:n], "_", ""), 64)
		if err != nil && f == 0 {
			return token{}, 0, lx.fail("bad number %q", s[:n])
		}
		return token{kind: tNumber, line: lx.line, val: floatVal(f)}, n, nil
	}
	n, base := intLen(s)
	text := strings.ReplaceAll(s[:n], "_", "")
	if base != 10 {
		text = text[2:]
	}
	if len(text) > maxIntDigits {
		return token{}, 0, lx.fail("integer of %d digits", len(text))
	}
	b, ok := new(big.Int).SetString(text, base)
	if !ok {
		return token{}, 0, lx.fail("bad number %q", s[:n])
	}
	return token{kind: tNumber, line: lx.line, val: intOf(b)}, n, nil
}

func intLen(s string) (n, base int) {
	if s[0] != '0' {
		return digitsLen(s, isDigit), 10
	}
	if len(s) > 2 {
		for _, b := range []struct {
			c    byte
			base int
			set  string
		}{{'b', 2, "01"}, {'o', 8, "01234567"}, {'x', 16, "0123456789abcdefABCDEF"}} {
			if s[1]|0x20 != b.c {
				continue
			}
			// An underscore may also follow the prefix, hence from 1.
			d := digitsLen("0"+s[2:], func(c byte) bool { return strings.IndexByte(b.set, c) >= 0 }) - 1
			if d > 0 {
				return 2 + d, b.base
			}
		}
	}
	return digitsLen(s, func(c byte) bool { return c == '0' }), 10
}

func (lx *lexer) quoted(s string) (token, int, error) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[0]:
			text, err := unescape(s[1:i])
			if err != nil {
				return token{}, 0, lx.fail("%s", err)
			}
			return token{kind: tString, line: lx.line, str: text}, i + 1, nil
		}
	}
	return token{}, 0, lx.fail("unexpected char %s", reprStr(s[:1]))
}

var simpleEscapes = map[byte]string{
	'\\': "\\", '\'': "'", '"': "\"", 'a': "\a", 'b': "\b", 'f': "\f",
	'n': "\n", 'r': "\r", 't': "\t", 'v': "\v", '\n': "",
}

// unescape decodes a string literal as Python's unicode-escape does.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' || i+1 >= len(s) {
			b.WriteByte(s[i])
			i++
			continue
		}
		c := s[i+1]
		i += 2
		if e, ok := simpleEscapes[c]; ok {
			b.WriteString(e)
			continue
		}
		n, err := codeEscape(&b, s[i-1:])
		if err != nil {
			return "", err
		}
		i += n - 1
	}
	return validUTF8(b.String()), nil
}

// codeEscape decodes the escape whose letter is s[0] and returns how many bytes
// of s it took.
func codeEscape(b *strings.Builder, s string) (int, error) {
	if s[0] >= '0' && s[0] <= '7' {
		n, v := 0, rune(0)
		for n < 3 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
			v = v*8 + rune(s[n]-'0')
			n++
		}
		b.WriteRune(v)
		return n, nil
	}
	width := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[0]]
	if width == 0 {
		if s[0] == 'N' {
			return 0, errorf("\\N{...} escapes are not supported")
		}
		b.WriteByte('\\')
		b.WriteByte(s[0])
		return 1, nil
	}
	if len(s) < 1+width {
		return 0, errorf("truncated \\%c escape", s[0])
	}
	v, err := strconv.ParseUint(s[1:1+width], 16, 32)
	if err != nil || v > unicode.MaxRune {
		return 0, errorf("bad \\%c escape", s[0])
	}
	b.WriteRune(rune(v))
	return 1 + width, nil
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool {
	return r >= 0x1c && r <= 0x1f || unicode.IsSpace(r)
}
