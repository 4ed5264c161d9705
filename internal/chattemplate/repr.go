package chattemplate

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// str is Python's str(v), what printing shows.
func (s *state) str(v Value) (string, error) {
	switch v := v.(type) {
	case strVal:
		return string(v), nil
	case markupVal:
		return string(v), nil
	case *undefVal:
		return "", nil
	}
	return s.repr(v)
}

// repr is Python's repr(v).
func (s *state) repr(v Value) (string, error) {
	b, err := s.appendRepr(nil, v, 0)
	if err != nil {
		return "", err
	}
	return string(b), s.text(len(b))
}

func (s *state) appendRepr(b []byte, v Value, depth int) ([]byte, error) {
	if depth > maxValueDepth {
		return b, limitf("values nested deeper than %d", maxValueDepth)
	}
	if len(b) > s.maxOutput {
		return b, limitf("text of more than %d bytes", s.maxOutput)
	}
	if err := s.step(1); err != nil {
		return b, err
	}
	switch v := v.(type) {
	case noneVal:
		return append(b, "None"...), nil
	case boolVal:
		if v {
			return append(b, "True"...), nil
		}
		return append(b, "False"...), nil
	case intVal:
		return strconv.AppendInt(b, int64(v), 10), nil
	case bigVal:
		t := v.Text(10)
		if len(strings.TrimPrefix(t, "-")) > maxIntDigits {
			return b, errorf("Exceeds the limit (%d digits) for integer string conversion", maxIntDigits)
		}
		return append(b, t...), nil
	case floatVal:
		return append(b, formatFloat(float64(v))...), nil
	case strVal:
		return append(b, reprStr(string(v))...), nil
	case markupVal:
		return append(append(append(b, "Markup("...), reprStr(string(v))...), ')'), nil
	case *undefVal:
		return append(b, "Undefined"...), nil
	case *listVal:
		return s.reprItems(b, '[', v.items, ']', depth)
	case *tupleVal:
		return s.reprTuple(b, v, depth)
	case *dictVal:
		return s.reprDict(b, v, depth)
	case *viewVal:
		b = append(append(b, v.typeName()...), '(')
		items := make([]Value, len(v.dict.keys))
		for i := range items {
			items[i] = v.at(i)
		}
		b, err := s.reprItems(b, '[', items, ']', depth)
		return append(b, ')'), err
	case *nsVal:
		b, err := s.reprDict(append(b, "<Namespace "...), v.attrs, depth)
		return append(b, '>'), err
	}
	return append(b, s.reprOpaque(v)...), nil
}

// reprOpaque prints what Python prints with an address or a count.
func (s *state) reprOpaque(v Value) string {
	switch v := v.(type) {
	case *rangeVal:
		if v.step == 1 {
			return fmt.Sprintf("range(%d, %d)", v.start, v.stop)
		}
		return fmt.Sprintf("range(%d, %d, %d)", v.start, v.stop, v.step)
	case *macroVal:
		return "<Macro " + reprStr(v.def.name) + ">"
	case *loopVal:
		n, _ := v.length(s)
		return fmt.Sprintf("<LoopContext %d/%d>", v.index0+1, n)
	case *funcVal:
		return "<function " + v.name + ">"
	}
	return "<" + v.typeName() + ">"
}

func (s *state) reprTuple(b []byte, v *tupleVal, depth int) ([]byte, error) {
	b, err := s.reprItems(b, '(', v.items, ')', depth)
	if err == nil && len(v.items) == 1 {
		b = append(b[:len(b)-1], ",)"...)
	}
	return b, err
}

func (s *state) reprItems(b []byte, open byte, items []Value, end byte, depth int) ([]byte, error) {
	b = append(b, open)
	var err error
	for i, it := range items {
		if i > 0 {
			b = append(b, ", "...)
		}
		if b, err = s.appendRepr(b, it, depth+1); err != nil {
			return b, err
		}
	}
	return append(b, end), nil
}

func (s *state) reprDict(b []byte, d *dictVal, depth int) ([]byte, error) {
	b = append(b, '{')
	var err error
	for i, k := range d.keys {
		if i > 0 {
			b = append(b, ", "...)
		}
		if b, err = s.appendRepr(b, k, depth+1); err != nil {
			return b, err
		}
		b = append(b, ": "...)
		if b, err = s.appendRepr(b, d.vals[i], depth+1); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

// reprStr quotes a string as Python does.
func reprStr(t string) string {
	q := byte('\'')
	if strings.Contains(t, "'") && !strings.Contains(t, `"`) {
		q = '"'
	}
	b := make([]byte, 0, len(t)+2)
	b = append(b, q)
	for _, r := range t {
		switch {
		case r == rune(q) || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r < 0x100:
			b = fmt.Appendf(b, `\x%02x`, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
	}
	return string(append(b, q))
}

// formatFloat is Python's repr of a float: the shortest digits that read back,
// with an exponent below 1e-4 and from 1e16.
func formatFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	t := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(t, ".") {
		t += ".0"
	}
	return t
}
