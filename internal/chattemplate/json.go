package chattemplate

import (
	"fmt"
	"math"
	"sort"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonWriter is Python's json.dumps.
type jsonWriter struct {
	s        *state
	b        []byte
	ascii    bool
	sortKeys bool
	indent   *string // per level; nil keeps everything on one line
	itemSep  string
	keySep   string
}

// filterToJSON is transformers' tojson: json.dumps(x, ensure_ascii, indent,
// separators, sort_keys) without HTML escapes.
func filterToJSON(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys")
	if err != nil {
		return nil, err
	}
	w := &jsonWriter{s: s, itemSep: ", ", keySep: ": "}
	w.ascii = p[0] != nil && truth(p[0])
	w.sortKeys = p[3] != nil && truth(p[3])
	if err := w.setIndent(p[1]); err != nil {
		return nil, err
	}
	if err := w.setSeparators(p[2]); err != nil {
		return nil, err
	}
	if err := w.value(v, 0); err != nil {
		return nil, err
	}
	return strVal(w.b), s.text(len(w.b))
}

func (w *jsonWriter) setIndent(v Value) error {
	if v == nil || v == none {
		return nil
	}
	w.itemSep = ","
	unit, isStr := strOf(v)
	if !isStr {
		n, ok := numberOf(v)
		if !ok || n.isFloat || n.b != nil {
			return errorf("indent must be an integer or a string")
		}
		if n.i > 1000 {
			return limitf("indent of %d", n.i)
		}
		unit = strings.Repeat(" ", int(max(0, n.i)))
	}
	w.indent = &unit
	return nil
}

func (w *jsonWriter) setSeparators(v Value) error {
	if v == nil || v == none {
		return nil
	}
	items, err := w.s.list(v)
	if err != nil {
		return err
	}
	if len(items) != 2 {
		return errorf("separators must be two strings")
	}
	var ok1, ok2 bool
	w.itemSep, ok1 = strOf(items[0])
	w.keySep, ok2 = strOf(items[1])
	if !ok1 || !ok2 {
		return errorf("separators must be two strings")
	}
	return nil
}

func (w *jsonWriter) value(v Value, depth int) error {
	if depth > maxValueDepth {
		return limitf("values nested deeper than %d", maxValueDepth)
	}
	if len(w.b) > w.s.maxOutput {
		return limitf("text of more than %d bytes", w.s.maxOutput)
	}
	if err := w.s.step(1); err != nil {
		return err
	}
	switch v := v.(type) {
	case strVal:
		w.b = appendJSONString(w.b, string(v), w.ascii)
	case markupVal:
		w.b = appendJSONString(w.b, string(v), w.ascii)
	case *listVal:
		return w.list(v.items, depth)
	case *tupleVal:
		return w.list(v.items, depth)
	case *dictVal:
		return w.dict(v, depth)
	default:
		t, ok, err := w.scalar(v)
		if err != nil {
			return err
		}
		if !ok {
			return errorf("Object of type %s is not JSON serializable", v.typeName())
		}
		w.b = append(w.b, t...)
	}
	return nil
}

// scalar returns the JSON text of a constant or number.
func (w *jsonWriter) scalar(v Value) (string, bool, error) {
	switch v := v.(type) {
	case noneVal:
		return "null", true, nil
	case boolVal:
		if v {
			return "true", true, nil
		}
		return "false", true, nil
	case intVal, bigVal:
		t, err := w.s.repr(v)
		return t, true, err
	case floatVal:
		f := float64(v)
		switch {
		case math.IsNaN(f):
			return "NaN", true, nil
		case math.IsInf(f, 1):
			return "Infinity", true, nil
		case math.IsInf(f, -1):
			return "-Infinity", true, nil
		}
		return formatFloat(f), true, nil
	}
	return "", false, nil
}

func (w *jsonWriter) newline(depth int) {
	if w.indent == nil {
		return
	}
	w.b = append(w.b, '\n')
	for range depth {
		w.b = append(w.b, *w.indent...)
	}
}

func (w *jsonWriter) list(items []Value, depth int) error {
	if len(items) == 0 {
		w.b = append(w.b, "[]"...)
		return nil
	}
	w.b = append(w.b, '[')
	for i, it := range items {
		if i > 0 {
			w.b = append(w.b, w.itemSep...)
		}
		w.newline(depth + 1)
		if err := w.value(it, depth+1); err != nil {
			return err
		}
	}
	w.newline(depth)
	w.b = append(w.b, ']')
	return nil
}

func (w *jsonWriter) dict(d *dictVal, depth int) error {
	if len(d.keys) == 0 {
		w.b = append(w.b, "{}"...)
		return nil
	}
	order, err := w.keyOrder(d)
	if err != nil {
		return err
	}
	w.b = append(w.b, '{')
	for i, j := range order {
		if i > 0 {
			w.b = append(w.b, w.itemSep...)
		}
		w.newline(depth + 1)
		key, ok := strOf(d.keys[j])
		if !ok {
			if key, ok, err = w.scalar(d.keys[j]); err != nil {
				return err
			}
			if !ok {
				return errorf("keys must be str, int, float, bool or None, not %s", d.keys[j].typeName())
			}
		}
		w.b = append(appendJSONString(w.b, key, w.ascii), w.keySep...)
		if err := w.value(d.vals[j], depth+1); err != nil {
			return err
		}
	}
	w.newline(depth)
	w.b = append(w.b, '}')
	return nil
}

func (w *jsonWriter) keyOrder(d *dictVal) ([]int, error) {
	order := make([]int, len(d.keys))
	for i := range order {
		order[i] = i
	}
	if !w.sortKeys {
		return order, nil
	}
	var failed error
	sort.SliceStable(order, func(i, j int) bool {
		c, _, err := w.s.order(d.keys[order[i]], d.keys[order[j]], 0)
		if err != nil && failed == nil {
			failed = err
		}
		return c < 0
	})
	return order, failed
}

func appendJSONString(b []byte, t string, ascii bool) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(t); {
		c := t[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' || !ascii && c >= 0x7f {
			i++
			continue
		}
		b = append(b, t[start:i]...)
		r, n := utf8.DecodeRuneInString(t[i:])
		b = appendJSONEscape(b, r)
		i += n
		start = i
	}
	return append(append(b, t[start:]...), '"')
}

func appendJSONEscape(b []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(b, '\\', byte(r))
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	case '\b':
		return append(b, `\b`...)
	case '\f':
		return append(b, `\f`...)
	}
	if r >= 0x10000 {
		hi, lo := utf16.EncodeRune(r)
		return fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
	}
	return fmt.Appendf(b, `\u%04x`, r)
}
