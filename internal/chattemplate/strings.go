package chattemplate

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// strMethods are the methods of Python's str, but for those that make bytes or
// translation tables (encode, maketrans, translate).
var strMethods map[string]methodFunc

func init() {
	strMethods = map[string]methodFunc{
		"upper":      textMethod("upper", upper),
		"lower":      textMethod("lower", lower),
		"casefold":   textMethod("casefold", func(t string) string { return strings.ReplaceAll(lower(t), "ß", "ss") }),
		"capitalize": textMethod("capitalize", capitalize),
		"title":      textMethod("title", pyTitle),
		"swapcase":   textMethod("swapcase", swapCase),

		"isalpha":      runesTest("isalpha", unicode.IsLetter),
		"isalnum":      runesTest("isalnum", func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
		"isdigit":      runesTest("isdigit", isPyDigit),
		"isdecimal":    runesTest("isdecimal", unicode.IsDigit),
		"isnumeric":    runesTest("isnumeric", unicode.IsNumber),
		"isspace":      runesTest("isspace", isSpace),
		"isprintable":  textTest("isprintable", func(t string) bool { return allRunes(t, unicode.IsPrint) }),
		"isascii":      textTest("isascii", isASCII),
		"isidentifier": textTest("isidentifier", isIdentifier),
		"isupper":      textTest("isupper", isUpper),
		"islower":      textTest("islower", isLower),
		"istitle":      textTest("istitle", func(t string) bool { return cased(t) && t == pyTitle(t) }),

		"strip":        stripMethod("strip", true, true),
		"lstrip":       stripMethod("lstrip", true, false),
		"rstrip":       stripMethod("rstrip", false, true),
		"startswith":   affixMethod("startswith", strings.HasPrefix),
		"endswith":     affixMethod("endswith", strings.HasSuffix),
		"removeprefix": cutMethod("removeprefix", strings.TrimPrefix),
		"removesuffix": cutMethod("removesuffix", strings.TrimSuffix),
		"split":        splitMethod("split", false),
		"rsplit":       splitMethod("rsplit", true),
		"splitlines":   strSplitLines,
		"partition":    partitionMethod("partition", strings.Index, false),
		"rpartition":   partitionMethod("rpartition", strings.LastIndex, true),
		"join":         strJoin,
		"replace":      strReplace,
		"find":         findMethod("find", strings.Index, false),
		"rfind":        findMethod("rfind", strings.LastIndex, false),
		"index":        findMethod("index", strings.Index, true),
		"rindex":       findMethod("rindex", strings.LastIndex, true),
		"count":        strCount,
		"center":       padMethod("center", padCenter),
		"ljust":        padMethod("ljust", func(n int) int { return 0 }),
		"rjust":        padMethod("rjust", func(n int) int { return n }),
		"zfill":        strZfill,
		"expandtabs":   strExpandTabs,
		"format":       strFormat,
		"format_map":   strFormatMap,
	}
}

// self returns the receiver's text and accounts for looking at it.
func (s *state) self(v Value) (string, error) {
	t, _ := strOf(v)
	return t, s.text(len(t))
}

// like gives t the string type of v.
func like(v Value, t string) Value {
	if _, ok := v.(markupVal); ok {
		return markupVal(t)
	}
	return strVal(t)
}

func textMethod(name string, f func(string) string) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		if _, err := a.positional(name, 0, 0); err != nil {
			return nil, err
		}
		t, err := s.self(v)
		return like(v, f(t)), err
	}
}

func textTest(name string, f func(string) bool) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		if _, err := a.positional(name, 0, 0); err != nil {
			return nil, err
		}
		t, err := s.self(v)
		return boolVal(f(t)), err
	}
}

func runesTest(name string, f func(rune) bool) methodFunc {
	return textTest(name, func(t string) bool { return t != "" && allRunes(t, f) })
}

func allRunes(t string, f func(rune) bool) bool {
	return strings.IndexFunc(t, func(r rune) bool { return !f(r) }) < 0
}

func isPyDigit(r rune) bool {
	return unicode.IsDigit(r) || strings.ContainsRune("²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", r)
}

func isIdentifier(t string) bool {
	for i, r := range t {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r) && !unicode.IsMark(r)) {
			return false
		}
	}
	return t != ""
}

func isCased(r rune) bool { return unicode.IsUpper(r) || unicode.IsLower(r) || unicode.IsTitle(r) }

func cased(t string) bool   { return strings.IndexFunc(t, isCased) >= 0 }
func isUpper(t string) bool { return cased(t) && strings.IndexFunc(t, unicode.IsLower) < 0 }
func isLower(t string) bool { return cased(t) && strings.IndexFunc(t, unicode.IsUpper) < 0 }

// fullUpper are the letters whose upper case is longer than one letter
// (Unicode SpecialCasing, the commoner part).
var fullUpper = strings.NewReplacer(
	"ß", "SS", "ŉ", "ʼN", "ǰ", "J̌", "և", "ԵՒ", "ﬀ", "FF", "ﬁ", "FI", "ﬂ", "FL",
	"ﬃ", "FFI", "ﬄ", "FFL", "ﬅ", "ST", "ﬆ", "ST", "ẖ", "H̱", "ẗ", "T̈", "ẘ", "W̊", "ẙ", "Y̊",
)

func upper(t string) string {
	if !isASCII(t) {
		t = fullUpper.Replace(t)
	}
	return strings.ToUpper(t)
}

// lower is str.lower with the final sigma rule.
func lower(t string) string {
	if isASCII(t) {
		return strings.ToLower(t)
	}
	runes := []rune(t)
	var b strings.Builder
	for i, r := range runes {
		switch {
		case r == 'Σ' && finalSigma(runes, i):
			b.WriteRune('ς')
		case r == 'İ':
			b.WriteString("i̇")
		default:
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return b.String()
}

func finalSigma(runes []rune, i int) bool {
	letter := func(from, step int) bool {
		for j := from; j >= 0 && j < len(runes); j += step {
			if unicode.IsMark(runes[j]) || runes[j] == '\'' || runes[j] == '.' {
				continue
			}
			return isCased(runes[j])
		}
		return false
	}
	return letter(i-1, -1) && !letter(i+1, 1)
}

func titleRune(r rune) string {
	if u := upper(string(r)); utf8.RuneCountInString(u) > 1 {
		first, n := utf8.DecodeRuneInString(u)
		return string(first) + lower(u[n:])
	}
	return string(unicode.ToTitle(r))
}

func capitalize(t string) string {
	r, n := utf8.DecodeRuneInString(t)
	if n == 0 {
		return ""
	}
	return titleRune(r) + lower(t[n:])
}

// pyTitle is str.title: every letter after one without case is capital.
func pyTitle(t string) string {
	var b strings.Builder
	inWord := false
	for _, r := range t {
		switch {
		case !inWord:
			b.WriteString(titleRune(r))
		default:
			b.WriteRune(unicode.ToLower(r))
		}
		inWord = isCased(r)
	}
	return b.String()
}

func swapCase(t string) string {
	var b strings.Builder
	for _, r := range t {
		if unicode.IsUpper(r) {
			b.WriteString(lower(string(r)))
		} else {
			b.WriteString(upper(string(r)))
		}
	}
	return b.String()
}

// strip trims white space, or the characters of chars if that is not None.
func strip(t string, chars Value, left, right bool) (string, error) {
	drop := isSpace
	if chars != nil && chars != none {
		set, ok := strOf(chars)
		if !ok {
			return "", errorf("strip arg must be None or str")
		}
		drop = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		t = strings.TrimLeftFunc(t, drop)
	}
	if right {
		t = strings.TrimRightFunc(t, drop)
	}
	return t, nil
}

func stripMethod(name string, left, right bool) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		p, err := a.positional(name, 0, 1)
		if err != nil {
			return nil, err
		}
		t, err := s.self(v)
		if err != nil {
			return nil, err
		}
		if p[0] != nil && p[0] != none {
			// Every character of the text may be looked up in the set.
			set, _ := strOf(p[0])
			if err := s.step(len(t) / 16 * (len(set)/16 + 1)); err != nil {
				return nil, err
			}
		}
		t, err = strip(t, p[0], left, right)
		return like(v, t), err
	}
}

// window cuts the text to optional start and end arguments, in runes.
func window(t string, lo, hi Value) (cut string, offset int, ok bool, err error) {
	if lo == nil && hi == nil {
		return t, 0, true, nil
	}
	n := utf8.RuneCountInString(t)
	place := func(v Value, otherwise int) (int, error) {
		if v == nil || v == none {
			return otherwise, nil
		}
		num, isNum := numberOf(v)
		if !isNum || num.isFloat {
			return 0, errorf("slice indices must be integers or None or have an __index__ method")
		}
		i := clampIndex(num)
		if i < 0 {
			i = max(0, i+n)
		}
		return i, nil
	}
	start, err := place(lo, 0)
	if err != nil {
		return "", 0, false, err
	}
	end, err := place(hi, n)
	if err != nil || start > min(end, n) {
		return "", 0, false, err
	}
	end = min(end, n)
	return t[byteAt(t, start):byteAt(t, end)], start, true, nil
}

// byteAt is the byte offset of the i-th rune.
func byteAt(t string, i int) int {
	for off := range t {
		if i == 0 {
			return off
		}
		i--
	}
	return len(t)
}

func affixMethod(name string, has func(t, affix string) bool) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		p, err := a.positional(name, 1, 3)
		if err != nil {
			return nil, err
		}
		t, err := s.self(v)
		if err != nil {
			return nil, err
		}
		t, _, ok, err := window(t, p[1], p[2])
		if err != nil {
			return nil, err
		}
		options := []Value{p[0]}
		if tup, isTuple := p[0].(*tupleVal); isTuple {
			options = tup.items
		}
		found := false
		for _, o := range options {
			affix, isStr := strOf(o)
			if !isStr {
				return nil, errorf("%s first arg must be str or a tuple of str, not %s", name, o.typeName())
			}
			if found = ok && has(t, affix); found {
				break
			}
		}
		return boolVal(found), nil
	}
}

func cutMethod(name string, cut func(t, affix string) string) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		p, err := a.positional(name, 1, 1)
		if err != nil {
			return nil, err
		}
		affix, ok := strOf(p[0])
		if !ok {
			return nil, errorf("%s() argument must be str, not %s", name, p[0].typeName())
		}
		t, err := s.self(v)
		return like(v, cut(t, affix)), err
	}
}

func strJoin(s *state, v Value, a *args) (Value, error) {
	p, err := a.positional("join", 1, 1)
	if err != nil {
		return nil, err
	}
	items, err := s.list(p[0])
	if err != nil {
		return nil, err
	}
	sep, _ := strOf(v)
	parts, n := make([]string, len(items)), 0
	for i, it := range items {
		t, ok := strOf(it)
		if _, safe := v.(markupVal); safe {
			if t, err = s.escaped(it); err != nil {
				return nil, err
			}
		} else if !ok {
			return nil, errorf("sequence item %d: expected str instance, %s found", i, it.typeName())
		}
		parts[i] = t
		n += len(t) + len(sep)
	}
	if err := s.text(n); err != nil {
		return nil, err
	}
	return like(v, strings.Join(parts, sep)), nil
}

func strReplace(s *state, v Value, a *args) (Value, error) {
	p, err := a.positional("replace", 2, 3)
	if err != nil {
		return nil, err
	}
	t, err := s.self(v)
	if err != nil {
		return nil, err
	}
	from, ok1 := strOf(p[0])
	to, ok2 := strOf(p[1])
	if !ok1 || !ok2 {
		return nil, errorf("replace() argument must be str")
	}
	n := -1
	if p[2] != nil {
		num, ok := numberOf(p[2])
		if !ok || num.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", p[2].typeName())
		}
		n = clampIndex(num)
	}
	out, err := s.replace(t, from, to, n)
	return like(v, out), err
}

func (s *state) replace(t, from, to string, n int) (string, error) {
	hits := strings.Count(t, from)
	if n >= 0 {
		hits = min(hits, n)
	}
	if err := s.text(len(t) + hits*(len(to)-len(from))); err != nil {
		return "", err
	}
	return strings.Replace(t, from, to, n), nil
}

func findMethod(name string, find func(t, sub string) int, must bool) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		p, err := a.positional(name, 1, 3)
		if err != nil {
			return nil, err
		}
		sub, ok := strOf(p[0])
		if !ok {
			return nil, errorf("must be str, not %s", p[0].typeName())
		}
		t, err := s.self(v)
		if err != nil {
			return nil, err
		}
		t, off, ok, err := window(t, p[1], p[2])
		if err != nil {
			return nil, err
		}
		i := -1
		if ok {
			i = find(t, sub)
		}
		switch {
		case i >= 0:
			return intVal(off + utf8.RuneCountInString(t[:i])), nil
		case must:
			return nil, errorf("substring not found")
		}
		return intVal(-1), nil
	}
}

func strCount(s *state, v Value, a *args) (Value, error) {
	p, err := a.positional("count", 1, 3)
	if err != nil {
		return nil, err
	}
	sub, ok := strOf(p[0])
	if !ok {
		return nil, errorf("must be str, not %s", p[0].typeName())
	}
	t, err := s.self(v)
	if err != nil {
		return nil, err
	}
	t, _, ok, err = window(t, p[1], p[2])
	if err != nil || !ok {
		return intVal(0), err
	}
	return intVal(strings.Count(t, sub)), nil
}

// padCenter is the left half of the n missing characters of str.center; of an
// odd n the spare one goes left if the width is odd too (see padMethod).
func padCenter(n int) int { return n / 2 }

func padMethod(name string, left func(n int) int) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		p, err := a.positional(name, 1, 2)
		if err != nil {
			return nil, err
		}
		num, ok := numberOf(p[0])
		if !ok || num.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", p[0].typeName())
		}
		fill := " "
		if p[1] != nil {
			if fill, ok = strOf(p[1]); !ok || utf8.RuneCountInString(fill) != 1 {
				return nil, errorf("The fill character must be exactly one character long")
			}
		}
		t, err := s.self(v)
		if err != nil {
			return nil, err
		}
		width := clampIndex(num)
		n := width - utf8.RuneCountInString(t)
		if n <= 0 {
			return v, nil
		}
		if err := s.text(len(t) + n*len(fill)); err != nil {
			return nil, err
		}
		l := left(n)
		if name == "center" {
			l += n & width & 1
		}
		return like(v, strings.Repeat(fill, l)+t+strings.Repeat(fill, n-l)), nil
	}
}

func strZfill(s *state, v Value, a *args) (Value, error) {
	p, err := a.positional("zfill", 1, 1)
	if err != nil {
		return nil, err
	}
	num, ok := numberOf(p[0])
	if !ok || num.isFloat {
		return nil, errorf("'%s' object cannot be interpreted as an integer", p[0].typeName())
	}
	t, err := s.self(v)
	if err != nil {
		return nil, err
	}
	n := clampIndex(num) - utf8.RuneCountInString(t)
	if n <= 0 {
		return v, nil
	}
	if err := s.text(len(t) + n); err != nil {
		return nil, err
	}
	sign := ""
	if t != "" && (t[0] == '+' || t[0] == '-') {
		sign, t = t[:1], t[1:]
	}
	return like(v, sign+strings.Repeat("0", n)+t), nil
}

func strExpandTabs(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("expandtabs", 0, "tabsize")
	if err != nil {
		return nil, err
	}
	size := 8
	if p[0] != nil {
		num, ok := numberOf(p[0])
		if !ok || num.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", p[0].typeName())
		}
		size = clampIndex(num)
	}
	t, err := s.self(v)
	if err != nil {
		return nil, err
	}
	if err := s.text(len(t) + strings.Count(t, "\t")*max(0, size)); err != nil {
		return nil, err
	}
	var b strings.Builder
	col := 0
	for _, r := range t {
		switch r {
		case '\t':
			if size > 0 {
				n := size - col%size
				b.WriteString(strings.Repeat(" ", n))
				col += n
			}
			continue
		case '\n', '\r':
			col = -1
		}
		col++
		b.WriteRune(r)
	}
	return like(v, b.String()), nil
}
