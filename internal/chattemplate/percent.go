package chattemplate

import (
	"math/big"
	"strings"
)

// percentFormat is `t % v`, Python's printf formatting.
func (s *state) percentFormat(t string, v Value) (Value, error) {
	p := &percent{s: s, t: t}
	switch a := v.(type) {
	case *tupleVal:
		p.args = a.items
	case *dictVal:
		p.args, p.dict, p.lenient = []Value{v}, a, true
	case *listVal, *rangeVal, *undefVal:
		// What can be subscripted may stay unused, like a dict.
		p.args, p.lenient = []Value{v}, true
	default:
		p.args = []Value{v}
	}
	out, err := p.run()
	return strVal(out), err
}

type percent struct {
	s       *state
	t       string
	args    []Value
	used    int
	dict    *dictVal
	lenient bool
}

func (p *percent) run() (string, error) {
	var b strings.Builder
	for {
		i := strings.IndexByte(p.t, '%')
		if i < 0 {
			b.WriteString(p.t)
			break
		}
		b.WriteString(p.t[:i])
		p.t = p.t[i+1:]
		out, err := p.directive()
		if err != nil {
			return "", err
		}
		b.WriteString(out)
		if err := p.s.text(b.Len()); err != nil {
			return "", err
		}
	}
	if p.used < len(p.args) && !p.lenient {
		return "", errorf("not all arguments converted during string formatting")
	}
	return b.String(), nil
}

func (p *percent) next() (Value, error) {
	if p.used >= len(p.args) {
		return nil, errorf("not enough arguments for format string")
	}
	p.used++
	return p.args[p.used-1], nil
}

// directive handles what follows a percent sign.
func (p *percent) directive() (string, error) {
	var val Value
	if strings.HasPrefix(p.t, "(") {
		end := strings.IndexByte(p.t, ')')
		if end < 0 {
			return "", errorf("incomplete format key")
		}
		if p.dict == nil {
			return "", errorf("format requires a mapping")
		}
		v, ok := p.dict.getStr(p.t[1:end])
		if !ok {
			return "", errorf("KeyError: %s", reprStr(p.t[1:end]))
		}
		val, p.used = v, len(p.args)
		p.t = p.t[end+1:]
	}
	f := formatSpec{fill: " ", align: '>', prec: -1}
	p.flags(&f)
	var err error
	if f.width, err = p.size(); err != nil {
		return "", err
	}
	if f.width < 0 {
		f.align, f.fill, f.width = '<', " ", -f.width
	}
	if strings.HasPrefix(p.t, ".") {
		p.t = p.t[1:]
		if f.prec, err = p.size(); err != nil {
			return "", err
		}
		f.prec = max(0, f.prec)
	}
	p.t = strings.TrimLeft(p.t, "hlL")
	if p.t == "" {
		return "", errorf("incomplete format")
	}
	f.kind, p.t = p.t[0], p.t[1:]
	if f.kind == '%' {
		return "%", nil
	}
	if val == nil {
		if val, err = p.next(); err != nil {
			return "", err
		}
	}
	return p.convert(f, val)
}

func (p *percent) flags(f *formatSpec) {
	for p.t != "" {
		switch p.t[0] {
		case '-':
			f.align, f.fill = '<', " "
		case '+':
			f.sign = '+'
		case ' ':
			if f.sign == 0 {
				f.sign = ' '
			}
		case '#':
			f.alt = true
		case '0':
			if f.align != '<' {
				f.align, f.fill = '=', "0"
			}
		default:
			return
		}
		p.t = p.t[1:]
	}
}

// size reads a width or precision, which `*` takes from the arguments.
func (p *percent) size() (int, error) {
	if !strings.HasPrefix(p.t, "*") {
		n, rest, err := takeInt(p.t)
		p.t = rest
		return n, err
	}
	p.t = p.t[1:]
	v, err := p.next()
	if err != nil {
		return 0, err
	}
	n, ok := numberOf(v)
	if !ok || n.isFloat {
		return 0, errorf("* wants int")
	}
	i := clampIndex(n)
	if i > maxWidth || i < -maxWidth {
		return 0, limitf("format width above %d", maxWidth)
	}
	return i, nil
}

func (p *percent) convert(f formatSpec, v Value) (string, error) {
	switch f.kind {
	case 's', 'r', 'a':
		return p.text(f, v)
	case 'c':
		if t, ok := strOf(v); ok && len([]rune(t)) == 1 {
			return f.plain(t), nil
		}
		n, ok := numberOf(v)
		if !ok || n.isFloat || n.b != nil || n.i < 0 || n.i > 0x10ffff {
			return "", errorf("%%c requires int or char")
		}
		return f.plain(string(rune(n.i))), nil
	case 'd', 'i', 'u', 'x', 'X', 'o':
		return p.integer(f, v)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		n, ok := numberOf(v)
		if !ok {
			return "", errorf("must be real number, not %s", v.typeName())
		}
		x, err := n.float()
		if err != nil {
			return "", err
		}
		return f.formatFloat(x)
	}
	return "", errorf("unsupported format character '%c'", f.kind)
}

// plain pads text; zero padding does not apply to it.
func (f *formatSpec) plain(t string) string {
	if f.align == '=' {
		f.align, f.fill = '>', " "
	}
	return f.pad("", t, false)
}

func (p *percent) text(f formatSpec, v Value) (string, error) {
	t, err := p.s.str(v)
	if f.kind != 's' {
		t, err = p.s.repr(v)
	}
	if err != nil {
		return "", err
	}
	if f.prec >= 0 {
		t = t[:byteAt(t, f.prec)]
	}
	return f.plain(t), nil
}

func (p *percent) integer(f formatSpec, v Value) (string, error) {
	n, ok := numberOf(v)
	if !ok || n.isFloat && strings.IndexByte("xXo", f.kind) >= 0 {
		return "", errorf("%%%c format: a real number is required, not %s", f.kind, v.typeName())
	}
	b := n.big()
	if n.isFloat {
		var err error
		if b, err = wholeFloat(n.f); err != nil {
			return "", err
		}
	}
	if f.kind == 'i' || f.kind == 'u' {
		f.kind = 'd'
	}
	prec := f.prec
	f.prec = -1
	if prec < 0 {
		return f.formatInt(b)
	}
	g := formatSpec{fill: "0", align: '=', prec: -1, kind: f.kind, width: prec}
	digits, err := g.formatInt(new(big.Int).Abs(b))
	if err != nil {
		return "", err
	}
	return f.pad(f.signOf(b.Sign() < 0), digits, true), nil
}
