package chattemplate

import (
	"fmt"
	"html"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

var htmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;")

func escapeHTML(t string) string { return htmlEscaper.Replace(t) }

// escaped is v's text, escaped unless it is marked safe.
func (s *state) escaped(v Value) (string, error) {
	if m, ok := v.(markupVal); ok {
		return string(m), nil
	}
	t, err := s.str(v)
	return escapeHTML(t), err
}

func filterSafe(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("safe", 0, 0); err != nil {
		return nil, err
	}
	t, err := s.str(v)
	return markupVal(t), err
}

func filterEscape(s *state, v Value, a *args) (Value, error) {
	if _, ok := v.(markupVal); ok {
		_, err := a.positional("escape", 0, 0)
		return v, err
	}
	return filterForceEscape(s, v, a)
}

func filterForceEscape(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("escape", 0, 0); err != nil {
		return nil, err
	}
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	if err := s.text(5 * len(t)); err != nil {
		return nil, err
	}
	return markupVal(escapeHTML(t)), nil
}

func filterIndent(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("indent", 0, "width", "first", "blank")
	if err != nil {
		return nil, err
	}
	t, ok := strOf(v)
	if !ok {
		if u, isU := v.(*undefVal); isU {
			return nil, u.fail()
		}
		return nil, errorf("unsupported operand type(s) for +=: '%s' and 'str'", v.typeName())
	}
	pad := "    "
	if p[0] != nil {
		if pad, ok = strOf(p[0]); !ok {
			n, err := wholeNumber(p[0])
			if err != nil {
				return nil, err
			}
			if err := s.text(max(0, n)); err != nil {
				return nil, err
			}
			pad = strings.Repeat(" ", max(0, n))
		}
	}
	lines := splitLines(t+"\n", false)
	if err := s.text(len(t) + (len(lines)+1)*(len(pad)+1)); err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, line := range lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == 0 && given(p[1]) || i > 0 && (line != "" || given(p[2])) {
			b.WriteString(pad)
		}
		b.WriteString(line)
	}
	return like(v, b.String()), nil
}

func filterCenter(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("center", 0, "width")
	if err != nil {
		return nil, err
	}
	width := Value(intVal(80))
	if p[0] != nil {
		width = p[0]
	}
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	return strMethods["center"](s, like(v, t), &args{pos: []Value{width}})
}

func filterTruncate(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("truncate", 0, "length", "killwords", "end", "leeway")
	if err != nil {
		return nil, err
	}
	nums := [2]int{255, 5}
	for i, x := range []Value{p[0], p[3]} {
		if x == nil || i == 1 && x == none {
			continue
		}
		if nums[i], err = wholeNumber(x); err != nil {
			return nil, err
		}
	}
	end := "..."
	if p[2] != nil {
		var ok bool
		if end, ok = strOf(p[2]); !ok {
			return nil, errorf("object of type '%s' has no len()", p[2].typeName())
		}
	}
	keep := nums[0] - utf8.RuneCountInString(end)
	if keep < 0 || nums[1] < 0 {
		return nil, errorf("expected length >= %d, got %d", utf8.RuneCountInString(end), nums[0])
	}
	n, ok := length(v)
	if !ok {
		return nil, errorf("object of type '%s' has no len()", v.typeName())
	}
	if n <= nums[0]+nums[1] {
		return v, s.step(n/16 + 1)
	}
	t, ok := strOf(v)
	if !ok {
		return nil, errorf("cannot truncate a %s", v.typeName())
	}
	t = t[:byteAt(t, keep)]
	if i := strings.LastIndexByte(t, ' '); i >= 0 && !given(p[1]) {
		t = t[:i]
	}
	return like(v, t+end), s.text(len(t) + len(end))
}

func filterWordCount(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("wordcount", 0, 0); err != nil {
		return nil, err
	}
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	words := strings.FieldsFunc(t, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r)
	})
	return intVal(len(words)), s.text(len(t))
}

var (
	htmlComments = regexp.MustCompile(`(?s)<!--.*?-->`)
	htmlTags     = regexp.MustCompile(`(?s)<.*?>`)
)

func filterStripTags(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("striptags", 0, 0); err != nil {
		return nil, err
	}
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	if err := s.text(len(t) * 8); err != nil {
		return nil, err
	}
	t = htmlTags.ReplaceAllString(htmlComments.ReplaceAllString(t, ""), "")
	return strVal(html.UnescapeString(strings.Join(strings.FieldsFunc(t, isSpace), " "))), nil
}

func filterFormat(s *state, v Value, a *args) (Value, error) {
	if len(a.pos) > 0 && len(a.kw) > 0 {
		return nil, errorf("can't handle positional and keyword arguments at the same time")
	}
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	if len(a.kw) == 0 {
		return s.percentFormat(t, &tupleVal{items: a.pos})
	}
	d := newDict(len(a.kw))
	for _, k := range a.kw {
		d.setStr(k.name, k.val)
	}
	return s.percentFormat(t, d)
}

// quoteURL percent-encodes UTF-8; queries encode slashes and turn spaces to +.
func quoteURL(t string, query bool) string {
	var b strings.Builder
	for i := range len(t) {
		c := t[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', isDigit(c), strings.IndexByte("_.-~", c) >= 0, c == '/' && !query:
			b.WriteByte(c)
		case c == ' ' && query:
			b.WriteByte('+')
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func filterURLEncode(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("urlencode", 0, 0); err != nil {
		return nil, err
	}
	if _, isStr := strOf(v); isStr || !isIterable(v) {
		t, err := s.str(v)
		if err != nil {
			return nil, err
		}
		return strVal(quoteURL(t, false)), s.text(3 * len(t))
	}
	if d, ok := v.(*dictVal); ok {
		v = &viewVal{dict: d, kind: viewItems}
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	parts := make([]string, len(items))
	for i, it := range items {
		kv, err := s.list(it)
		if err != nil {
			return nil, err
		}
		if len(kv) != 2 {
			return nil, errorf("not enough values to unpack (expected 2, got %d)", len(kv))
		}
		var q [2]string
		for j, x := range kv {
			t, err := s.str(x)
			if err != nil {
				return nil, err
			}
			if err := s.text(3 * len(t)); err != nil {
				return nil, err
			}
			q[j] = quoteURL(t, true)
		}
		parts[i] = q[0] + "=" + q[1]
	}
	return strVal(strings.Join(parts, "&")), nil
}

func filterXMLAttr(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("xmlattr", 0, "autospace")
	if err != nil {
		return nil, err
	}
	d, ok := v.(*dictVal)
	if !ok {
		return nil, errorf("'%s' object has no attribute 'items'", v.typeName())
	}
	var b strings.Builder
	for i, k := range d.keys {
		if _, undef := d.vals[i].(*undefVal); undef || d.vals[i] == none {
			continue
		}
		key, ok := strOf(k)
		if !ok {
			return nil, errorf("expected string or bytes-like object, got '%s'", k.typeName())
		}
		if strings.IndexFunc(key, func(r rune) bool { return isSpace(r) || strings.ContainsRune("/>=", r) }) >= 0 {
			return nil, errorf("Invalid character in attribute name: %s", reprStr(key))
		}
		val, err := s.escaped(d.vals[i])
		if err != nil {
			return nil, err
		}
		if b.Len() > 0 || p[0] == nil || truth(p[0]) {
			b.WriteByte(' ')
		}
		b.WriteString(escapeHTML(key) + `="` + val + `"`)
		if err := s.text(b.Len()); err != nil {
			return nil, err
		}
	}
	return strVal(b.String()), nil
}

func filterFileSize(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("filesizeformat", 0, "binary")
	if err != nil {
		return nil, err
	}
	var f float64
	if t, ok := strOf(v); ok {
		if f, ok = parseFloat(t); !ok {
			return nil, errorf("could not convert string to float: %s", reprStr(t))
		}
	} else if n, ok := numberOf(v); ok {
		if f, err = n.float(); err != nil {
			return nil, err
		}
	} else {
		return nil, errorf("float() argument must be a string or a real number, not '%s'", v.typeName())
	}
	base, suffix := 1000.0, []string{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
	if given(p[0]) {
		base, suffix = 1024, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}
	}
	switch {
	case f == 1:
		return strVal("1 Byte"), nil
	case f < base:
		b, err := wholeFloat(f)
		return strVal(fmt.Sprintf("%d Bytes", b)), err
	}
	unit := base
	for i, name := range suffix {
		unit *= base
		if f < unit || i == len(suffix)-1 {
			return strVal(fmt.Sprintf("%.1f %s", base*f/unit, name)), nil
		}
	}
	return nil, errorf("cannot format %s", formatFloat(f))
}
