package chattemplate

import (
	"strings"
	"unicode/utf8"
)

func strValues(v Value, parts []string) *listVal {
	l := &listVal{items: make([]Value, len(parts))}
	for i, p := range parts {
		l.items[i] = like(v, p)
	}
	return l
}

func splitMethod(name string, right bool) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		p, err := a.bind(name, 0, "sep", "maxsplit")
		if err != nil {
			return nil, err
		}
		t, err := s.self(v)
		if err != nil {
			return nil, err
		}
		limit := -1
		if p[1] != nil {
			n, ok := numberOf(p[1])
			if !ok || n.isFloat {
				return nil, errorf("'%s' object cannot be interpreted as an integer", p[1].typeName())
			}
			limit = clampIndex(n)
		}
		var parts []string
		if p[0] == nil || p[0] == none {
			parts = splitSpace(t, limit, right)
		} else {
			sep, ok := strOf(p[0])
			if !ok {
				return nil, errorf("must be str or None, not %s", p[0].typeName())
			}
			if sep == "" {
				return nil, errorf("empty separator")
			}
			parts = splitSep(t, sep, limit, right)
		}
		return strValues(v, parts), s.items(len(parts))
	}
}

func splitSep(t, sep string, limit int, right bool) []string {
	if limit < 0 {
		return strings.Split(t, sep)
	}
	if !right {
		return strings.SplitN(t, sep, limit+1)
	}
	var rev []string
	for len(rev) < limit {
		i := strings.LastIndex(t, sep)
		if i < 0 {
			break
		}
		rev = append(rev, t[i+len(sep):])
		t = t[:i]
	}
	return reversed(append(rev, t))
}

func reversed(parts []string) []string {
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return parts
}

func splitSpace(t string, limit int, right bool) []string {
	if limit < 0 {
		return strings.FieldsFunc(t, isSpace)
	}
	var parts []string
	if right {
		t = strings.TrimRightFunc(t, isSpace)
		for t != "" && len(parts) < limit {
			i := strings.LastIndexFunc(t, isSpace)
			if i < 0 {
				break
			}
			_, n := utf8.DecodeRuneInString(t[i:])
			parts = append(parts, t[i+n:])
			t = strings.TrimRightFunc(t[:i], isSpace)
		}
		if t != "" {
			parts = append(parts, t)
		}
		return reversed(parts)
	}
	t = strings.TrimLeftFunc(t, isSpace)
	for t != "" && len(parts) < limit {
		i := strings.IndexFunc(t, isSpace)
		if i < 0 {
			break
		}
		parts = append(parts, t[:i])
		t = strings.TrimLeftFunc(t[i:], isSpace)
	}
	if t != "" {
		parts = append(parts, t)
	}
	return parts
}

func isLineEnd(r rune) bool {
	switch r {
	case '\n', '\r', '\v', '\f', 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029:
		return true
	}
	return false
}

func splitLines(t string, keep bool) []string {
	var lines []string
	for t != "" {
		i := strings.IndexFunc(t, isLineEnd)
		if i < 0 {
			return append(lines, t)
		}
		_, n := utf8.DecodeRuneInString(t[i:])
		if strings.HasPrefix(t[i:], "\r\n") {
			n = 2
		}
		end := i
		if keep {
			end += n
		}
		lines = append(lines, t[:end])
		t = t[i+n:]
	}
	return lines
}

func strSplitLines(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("splitlines", 0, "keepends")
	if err != nil {
		return nil, err
	}
	t, err := s.self(v)
	if err != nil {
		return nil, err
	}
	lines := splitLines(t, p[0] != nil && truth(p[0]))
	return strValues(v, lines), s.items(len(lines))
}

func partitionMethod(name string, find func(t, sep string) int, last bool) methodFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		p, err := a.positional(name, 1, 1)
		if err != nil {
			return nil, err
		}
		sep, ok := strOf(p[0])
		if !ok {
			return nil, errorf("must be str, not %s", p[0].typeName())
		}
		if sep == "" {
			return nil, errorf("empty separator")
		}
		t, err := s.self(v)
		parts := []string{t, "", ""}
		if i := find(t, sep); i >= 0 {
			parts = []string{t[:i], sep, t[i+len(sep):]}
		} else if last {
			parts = []string{"", "", t}
		}
		return &tupleVal{items: strValues(v, parts).items}, err
	}
}
