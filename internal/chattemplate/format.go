package chattemplate

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// formatSpec is a field of Python's format mini-language or of a % format.
type formatSpec struct {
	fill  string
	align byte // '<', '>', '=', '^' or 0
	sign  byte // '+', ' ', '-' or 0
	alt   bool
	sep   byte // ',' or '_' between thousands
	width int
	prec  int // -1: not given
	kind  byte
}

// maxWidth bounds widths and precisions; larger ones only serve to use memory.
const maxWidth = 10_000

func parseSpec(t string) (formatSpec, error) {
	f := formatSpec{fill: " ", prec: -1}
	isAlign := func(i int) bool { return i < len(t) && strings.IndexByte("<>=^", t[i]) >= 0 }
	if _, n := utf8.DecodeRuneInString(t); n > 0 && isAlign(n) {
		f.fill, f.align = t[:n], t[n]
		t = t[n+1:]
	} else if isAlign(0) {
		f.align = t[0]
		t = t[1:]
	}
	if t != "" && strings.IndexByte("+- ", t[0]) >= 0 {
		f.sign, t = t[0], t[1:]
	}
	if strings.HasPrefix(t, "#") {
		f.alt, t = true, t[1:]
	}
	if strings.HasPrefix(t, "0") {
		if f.align == 0 {
			f.fill, f.align = "0", '='
		}
		t = t[1:]
	}
	var err error
	if f.width, t, err = takeInt(t); err != nil {
		return f, err
	}
	if t != "" && (t[0] == ',' || t[0] == '_') {
		f.sep, t = t[0], t[1:]
	}
	if strings.HasPrefix(t, ".") {
		if len(t) < 2 || !isDigit(t[1]) {
			return f, errorf("Format specifier missing precision")
		}
		if f.prec, t, err = takeInt(t[1:]); err != nil {
			return f, err
		}
	}
	if len(t) > 1 {
		return f, errorf("Invalid format specifier")
	}
	if t != "" {
		f.kind = t[0]
	}
	return f, nil
}

func takeInt(t string) (int, string, error) {
	n := 0
	for t != "" && isDigit(t[0]) {
		n = n*10 + int(t[0]-'0')
		if n > maxWidth {
			return 0, t, limitf("format width above %d", maxWidth)
		}
		t = t[1:]
	}
	return n, t, nil
}

// pad brings body to the field's width; sign is what `=` alignment puts first.
func (f *formatSpec) pad(sign, body string, numeric bool) string {
	n := f.width - utf8.RuneCountInString(sign) - utf8.RuneCountInString(body)
	if n <= 0 {
		return sign + body
	}
	align := f.align
	if align == 0 {
		align = '<'
		if numeric {
			align = '>'
		}
	}
	switch align {
	case '<':
		return sign + body + strings.Repeat(f.fill, n)
	case '^':
		return strings.Repeat(f.fill, n/2) + sign + body + strings.Repeat(f.fill, n-n/2)
	case '=':
		return sign + strings.Repeat(f.fill, n) + body
	}
	return strings.Repeat(f.fill, n) + sign + body
}

func (f *formatSpec) signOf(negative bool) string {
	switch {
	case negative:
		return "-"
	case f.sign == '+' || f.sign == ' ':
		return string(f.sign)
	}
	return ""
}

// format is Python's format(v, spec).
func (s *state) format(v Value, spec string) (string, error) {
	if spec == "" {
		return s.str(v)
	}
	f, err := parseSpec(spec)
	if err != nil {
		return "", err
	}
	if err := s.step(f.width / 16); err != nil {
		return "", err
	}
	if t, ok := strOf(v); ok {
		return f.formatStr(t)
	}
	n, ok := numberOf(v)
	if !ok {
		return "", errorf("unsupported format string passed to %s.__format__", v.typeName())
	}
	if !n.isFloat && strings.IndexByte("eEfFgG%", f.kind) < 0 || !n.isFloat && f.kind == 0 {
		return f.formatInt(n.big())
	}
	x, err := n.float()
	if err != nil {
		return "", err
	}
	return f.formatFloat(x)
}

func (f *formatSpec) formatStr(t string) (string, error) {
	if f.kind != 0 && f.kind != 's' {
		return "", errorf("Unknown format code '%c' for object of type 'str'", f.kind)
	}
	if f.sign != 0 || f.alt || f.sep != 0 || f.align == '=' && f.fill != "0" {
		return "", errorf("that format specifier is not allowed for str")
	}
	if f.align == '=' { // a leading 0 in the width
		f.align = '<'
	}
	if f.prec >= 0 {
		t = t[:byteAt(t, f.prec)]
	}
	return f.pad("", t, false), nil
}

func (f *formatSpec) formatInt(b *big.Int) (string, error) {
	if f.prec >= 0 {
		return "", errorf("Precision not allowed in integer format specifier")
	}
	base, prefix := 10, ""
	switch f.kind {
	case 0, 'd', 'n':
	case 'x', 'X':
		base, prefix = 16, "0x"
	case 'o':
		base, prefix = 8, "0o"
	case 'b':
		base, prefix = 2, "0b"
	case 'c':
		if f.sign != 0 || !b.IsInt64() || b.Int64() < 0 || b.Int64() > utf8.MaxRune {
			return "", errorf("%%c arg not in range(0x110000)")
		}
		return f.pad("", string(rune(b.Int64())), true), nil
	default:
		return "", errorf("Unknown format code '%c' for object of type 'int'", f.kind)
	}
	digits := new(big.Int).Abs(b).Text(base)
	if f.kind == 'X' {
		digits, prefix = strings.ToUpper(digits), "0X"
	}
	sign := f.signOf(b.Sign() < 0)
	if f.alt {
		sign += prefix
	}
	return f.pad(sign, f.group(digits, base, len(sign)), true), nil
}

// group puts separators between digits, and zeros before them if zero padding
// has to be grouped too.
func (f *formatSpec) group(digits string, base, signLen int) string {
	if f.sep == 0 {
		return digits
	}
	every := 3
	if base != 10 {
		every = 4
	}
	whole, frac := digits, ""
	if i := strings.IndexAny(digits, ".e%"); i >= 0 {
		whole, frac = digits[:i], digits[i:]
	}
	out := groupDigits(whole, every, f.sep)
	if f.fill == "0" && f.align == '=' {
		for len(out)+len(frac)+signLen < f.width {
			whole = "0" + whole
			out = groupDigits(whole, every, f.sep)
		}
	}
	return out + frac
}

func groupDigits(t string, every int, sep byte) string {
	var b strings.Builder
	for i := range len(t) {
		if i > 0 && (len(t)-i)%every == 0 {
			b.WriteByte(sep)
		}
		b.WriteByte(t[i])
	}
	return b.String()
}

func (f *formatSpec) formatFloat(x float64) (string, error) {
	body, err := f.floatBody(math.Abs(x))
	if err != nil {
		return "", err
	}
	sign := f.signOf(math.Signbit(x) && !math.IsNaN(x))
	return f.pad(sign, f.group(body, 10, len(sign)), true), nil
}

func (f *formatSpec) floatBody(x float64) (string, error) {
	prec := f.prec
	if prec < 0 && f.kind != 0 {
		prec = 6
	}
	up := f.kind == 'F' || f.kind == 'E' || f.kind == 'G'
	var t string
	switch {
	case math.IsInf(x, 0):
		t = "inf"
	case math.IsNaN(x):
		t = "nan"
	default:
		switch f.kind {
		case 'f', 'F':
			t = strconv.FormatFloat(x, 'f', prec, 64)
		case 'e', 'E':
			t = strconv.FormatFloat(x, 'e', prec, 64)
		case '%':
			t = strconv.FormatFloat(x*100, 'f', prec, 64)
		case 'g', 'G', 'n':
			t = general(x, max(1, prec), f.alt, false)
		case 0:
			if t = formatFloat(x); prec >= 0 {
				t = general(x, max(1, prec), f.alt, true)
			}
		default:
			return "", errorf("Unknown format code '%c' for object of type 'float'", f.kind)
		}
	}
	if up {
		t = strings.ToUpper(t)
	}
	if f.kind == '%' {
		t += "%"
	}
	return t, nil
}

// general is C's %g with prec significant digits; with dot, Python's rule for
// no format code, which keeps a digit after the point.
func general(x float64, prec int, alt, dot bool) string {
	if x == 0 {
		if dot {
			return "0.0"
		}
		if alt {
			return "0." + strings.Repeat("0", prec-1)
		}
		return "0"
	}
	e := strconv.FormatFloat(x, 'e', prec-1, 64)
	exp, _ := strconv.Atoi(e[strings.IndexByte(e, 'e')+1:])
	limit := prec
	if dot {
		limit = prec - 1
	}
	if exp < -4 || exp >= max(limit, 1) && exp >= limit {
		m, tail, _ := strings.Cut(e, "e")
		if !alt && strings.Contains(m, ".") {
			m = strings.TrimRight(strings.TrimRight(m, "0"), ".")
		}
		return m + "e" + tail
	}
	t := strconv.FormatFloat(x, 'f', prec-1-exp, 64)
	if !alt && strings.Contains(t, ".") {
		t = strings.TrimRight(strings.TrimRight(t, "0"), ".")
	}
	if dot && !strings.Contains(t, ".") {
		t += ".0"
	}
	return t
}

func strFormat(s *state, v Value, a *args) (Value, error) {
	t, err := s.self(v)
	if err != nil {
		return nil, err
	}
	f := &fieldFormatter{s: s, args: a}
	out, err := f.run(t, 0)
	return like(v, out), err
}

func strFormatMap(s *state, v Value, a *args) (Value, error) {
	p, err := a.positional("format_map", 1, 1)
	if err != nil {
		return nil, err
	}
	d, ok := p[0].(*dictVal)
	if !ok {
		return nil, errorf("format_map() argument must be a mapping")
	}
	kw := &args{}
	for i, k := range d.keys {
		if name, ok := strOf(k); ok {
			kw.kw = append(kw.kw, kwArg{name, d.vals[i]})
		}
	}
	return strFormat(s, v, kw)
}

// fieldFormatter is str.format.
type fieldFormatter struct {
	s    *state
	args *args
	auto int // next automatic number; -1 once a field was numbered
}

func (f *fieldFormatter) run(t string, depth int) (string, error) {
	if depth > 2 {
		return "", errorf("Max string recursion exceeded")
	}
	var b strings.Builder
	for t != "" {
		i := strings.IndexAny(t, "{}")
		if i < 0 {
			b.WriteString(t)
			break
		}
		b.WriteString(t[:i])
		if i+1 < len(t) && t[i+1] == t[i] {
			b.WriteByte(t[i])
			t = t[i+2:]
			continue
		}
		if t[i] == '}' {
			return "", errorf("Single '}' encountered in format string")
		}
		end := fieldEnd(t, i+1)
		if end < 0 {
			return "", errorf("expected '}' before end of string")
		}
		out, err := f.field(t[i+1:end], depth)
		if err != nil {
			return "", err
		}
		b.WriteString(out)
		if err := f.s.text(b.Len()); err != nil {
			return "", err
		}
		t = t[end+1:]
	}
	return b.String(), nil
}

// fieldEnd finds the brace that closes a field, nested ones skipped.
func fieldEnd(t string, from int) int {
	for i, open := from, 0; i < len(t); i++ {
		switch t[i] {
		case '{':
			open++
		case '}':
			if open == 0 {
				return i
			}
			open--
		}
	}
	return -1
}

func (f *fieldFormatter) field(t string, depth int) (string, error) {
	name, spec := t, ""
	if i := strings.IndexByte(t, ':'); i >= 0 {
		name, spec = t[:i], t[i+1:]
	}
	conv := ""
	if i := strings.IndexByte(name, '!'); i >= 0 {
		name, conv = name[:i], name[i+1:]
	}
	v, err := f.lookup(name)
	if err != nil {
		return "", err
	}
	switch conv {
	case "":
	case "s", "r", "a":
		text, err := f.s.str(v)
		if conv != "s" {
			text, err = f.s.repr(v)
		}
		if err != nil {
			return "", err
		}
		v = strVal(text)
	default:
		return "", errorf("Unknown conversion specifier %s", reprStr(conv))
	}
	if spec, err = f.run(spec, depth+1); err != nil {
		return "", err
	}
	return f.s.format(v, spec)
}

func (f *fieldFormatter) lookup(name string) (Value, error) {
	i := strings.IndexAny(name, ".[")
	if i < 0 {
		i = len(name)
	}
	v, err := f.first(name[:i], i < len(name))
	for rest := name[i:]; err == nil && rest != ""; {
		if rest[0] == '[' {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil, errorf("Missing ']' in format string")
			}
			var key Value = strVal(rest[1:end])
			if n, convErr := strconv.Atoi(rest[1:end]); convErr == nil {
				key = intVal(n)
			}
			v, err = f.s.item(v, key)
			rest = rest[end+1:]
			continue
		}
		rest = rest[1:]
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		v, err = f.s.attr(v, rest[:end])
		rest = rest[end:]
	}
	return v, err
}

// first returns the argument a field starts with; more tells that an attribute
// or index follows, where CPython below 3.14 does not number automatically.
func (f *fieldFormatter) first(name string, more bool) (Value, error) {
	n, err := strconv.Atoi(name)
	switch {
	case name == "" && !more:
		if f.auto < 0 {
			return nil, errorf("cannot switch from manual field specification to automatic field numbering")
		}
		n = f.auto
		f.auto++
	case err == nil:
		if f.auto > 0 {
			return nil, errorf("cannot switch from automatic field numbering to manual field specification")
		}
		f.auto = -1
	default:
		if v, ok := f.args.kwarg(name); ok {
			return v, nil
		}
		return nil, errorf("KeyError: %s", reprStr(name))
	}
	if n < 0 || n >= len(f.args.pos) {
		return nil, errorf("Replacement index %d out of range for positional args tuple", n)
	}
	return f.args.pos[n], nil
}
