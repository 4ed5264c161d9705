package chattemplate

import (
	"sort"
	"strconv"
	"strings"
)

// filterFunc is a jinja filter: `v|name(args)`.
type filterFunc func(s *state, v Value, a *args) (Value, error)

var filterTable map[string]filterFunc

func init() {
	filterTable = map[string]filterFunc{
		"tojson": filterToJSON, "string": filterString, "safe": filterSafe,
		"e": filterEscape, "escape": filterEscape, "forceescape": filterForceEscape,
		"upper": textFilter("upper", upper), "lower": textFilter("lower", lower),
		"capitalize": textFilter("capitalize", capitalize), "title": textFilter("title", filterTitle),
		"trim": filterTrim, "replace": filterReplace, "join": filterJoin,
		"indent": filterIndent, "center": filterCenter, "truncate": filterTruncate,
		"wordcount": filterWordCount, "striptags": filterStripTags,
		"format": filterFormat, "urlencode": filterURLEncode, "xmlattr": filterXMLAttr,
		"filesizeformat": filterFileSize,

		"default": filterDefault, "d": filterDefault,
		"int": filterInt, "float": filterFloat, "abs": filterAbs, "round": filterRound,
		"attr": filterAttr,

		"length": filterLength, "count": filterLength,
		"first": filterFirst, "last": filterLast, "list": filterList, "reverse": filterReverse,
		"items": filterItems, "dictsort": filterDictSort, "sort": filterSort, "unique": filterUnique,
		"groupby": filterGroupBy, "sum": filterSum, "min": minMaxFilter("min"), "max": minMaxFilter("max"),
		"batch": filterBatch, "slice": filterSlice,
		"map": filterMap, "select": selectFilter(false, true), "reject": selectFilter(false, false),
		"selectattr": selectFilter(true, true), "rejectattr": selectFilter(true, false),
	}
}

func textFilter(name string, f func(string) string) filterFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		if _, err := a.positional(name, 0, 0); err != nil {
			return nil, err
		}
		t, err := s.str(v)
		if err != nil {
			return nil, err
		}
		return like(v, f(t)), s.text(len(t))
	}
}

// filterTitle capitalizes what follows white space, a hyphen or an opening
// bracket, and lowers the rest.
func filterTitle(t string) string {
	var b strings.Builder
	start := 0
	flush := func(end int) {
		for i := range t[start:end] {
			if i > 0 {
				b.WriteString(upper(t[start:start+i]) + lower(t[start+i:end]))
				start = end
				return
			}
		}
		b.WriteString(upper(t[start:end]))
		start = end
	}
	for i, r := range t {
		if isSpace(r) || strings.ContainsRune("-({[<", r) {
			flush(i)
			b.WriteRune(r)
			start = i + len(string(r))
		}
	}
	flush(len(t))
	return b.String()
}

func filterString(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("string", 0, 0); err != nil {
		return nil, err
	}
	if _, ok := v.(markupVal); ok {
		return v, nil
	}
	t, err := s.str(v)
	return strVal(t), err
}

func filterTrim(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("trim", 0, "chars")
	if err != nil {
		return nil, err
	}
	t, err := s.str(v)
	if err != nil {
		return nil, err
	}
	if err := s.text(len(t)); err != nil {
		return nil, err
	}
	t, err = strip(t, p[0], true, true)
	return like(v, t), err
}

func filterReplace(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("replace", 2, "old", "new", "count")
	if err != nil {
		return nil, err
	}
	n := -1
	if p[2] != nil && p[2] != none {
		num, ok := numberOf(p[2])
		if !ok || num.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", p[2].typeName())
		}
		n = clampIndex(num)
	}
	var texts [3]string
	for i, x := range []Value{v, p[0], p[1]} {
		if texts[i], err = s.str(x); err != nil {
			return nil, err
		}
	}
	out, err := s.replace(texts[0], texts[1], texts[2], n)
	return strVal(out), err
}

func filterJoin(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("join", 0, "d", "attribute")
	if err != nil {
		return nil, err
	}
	sep := ""
	if p[0] != nil {
		if sep, err = s.str(p[0]); err != nil {
			return nil, err
		}
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	get, err := s.getter(p[1], nil, false)
	if err != nil {
		return nil, err
	}
	parts, n := make([]string, len(items)), 0
	for i, it := range items {
		if it, err = get(it); err != nil {
			return nil, err
		}
		if parts[i], err = s.str(it); err != nil {
			return nil, err
		}
		if n += len(parts[i]) + len(sep); n > s.maxOutput+len(sep) {
			return nil, limitf("text of more than %d bytes", s.maxOutput)
		}
	}
	return strVal(strings.Join(parts, sep)), s.text(max(0, n-len(sep)))
}

func filterDefault(_ *state, v Value, a *args) (Value, error) {
	p, err := a.bind("default", 0, "default_value", "boolean")
	if err != nil {
		return nil, err
	}
	_, undef := v.(*undefVal)
	if !undef && (p[1] == nil || !truth(p[1]) || truth(v)) {
		return v, nil
	}
	if p[0] == nil {
		return strVal(""), nil
	}
	return p[0], nil
}

func filterLength(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("length", 0, 0); err != nil {
		return nil, err
	}
	if l, ok := v.(*loopVal); ok {
		n, err := l.length(s)
		return intVal(n), err
	}
	n, ok := length(v)
	if !ok {
		return nil, errorf("object of type '%s' has no len()", v.typeName())
	}
	return intVal(n), s.step(n/16 + 1)
}

func filterFirst(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("first", 0, 0); err != nil {
		return nil, err
	}
	it, err := s.iter(v)
	if err != nil {
		return nil, err
	}
	x, err := it.next(s)
	if x == nil && err == nil {
		x = &undefVal{hint: "No first item, sequence was empty."}
	}
	return x, err
}

func filterLast(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("last", 0, 0); err != nil {
		return nil, err
	}
	if _, ok := v.(*iterVal); ok {
		return nil, errorf("'generator' object is not reversible")
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return &undefVal{hint: "No last item, sequence was empty."}, nil
	}
	last := items[len(items)-1]
	if _, ok := v.(markupVal); ok {
		t, _ := strOf(last)
		return markupVal(t), nil
	}
	return last, nil
}

func filterList(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("list", 0, 0); err != nil {
		return nil, err
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	items, err = s.joinItems(items, nil)
	return &listVal{items}, err
}

func filterReverse(s *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("reverse", 0, 0); err != nil {
		return nil, err
	}
	if t, ok := strOf(v); ok {
		step := -1
		out, err := s.sliceStr(t, [3]*int{2: &step})
		return like(v, out), err
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	if err := s.items(len(items)); err != nil {
		return nil, err
	}
	out := make([]Value, len(items))
	for i, it := range items {
		out[len(items)-1-i] = it
	}
	if _, ok := v.(*iterVal); ok {
		return &listVal{out}, nil // what cannot be walked backwards becomes a list
	}
	it := &sliceIter{items: out}
	return &iterVal{next: it.next}, nil
}

func filterItems(_ *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("items", 0, 0); err != nil {
		return nil, err
	}
	return later(func(s *state) ([]Value, error) {
		switch d := v.(type) {
		case *undefVal:
			return nil, nil
		case *dictVal:
			return s.list(&viewVal{dict: d, kind: viewItems})
		}
		return nil, errorf("Can only get item pairs from a mapping.")
	}), nil
}

// filterAttr reads an attribute of the Python type only, never an item.
func filterAttr(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("attr", 1, "name")
	if err != nil {
		return nil, err
	}
	name, ok := strOf(p[0])
	if !ok {
		return nil, errorf("attribute name must be string, not '%s'", p[0].typeName())
	}
	x, err := s.pyAttr(v, name)
	if x == nil && err == nil {
		x = &undefVal{name: name, obj: v}
	}
	return x, err
}

// getter reads an attribute given as dotted path or index, as map(attribute=)
// and its kin take it; nil reads the item itself. def replaces undefined
// results; fold lowers strings.
func (s *state) getter(attr, def Value, fold bool) (func(Value) (Value, error), error) {
	var path []Value
	if attr != nil && attr != none {
		if t, ok := strOf(attr); ok {
			for _, part := range strings.Split(t, ".") {
				if n, err := strconv.Atoi(part); err == nil && part != "" && isDigit(part[0]) {
					path = append(path, intVal(n))
				} else {
					path = append(path, strVal(part))
				}
			}
		} else {
			path = []Value{attr}
		}
	}
	return func(v Value) (Value, error) {
		if err := s.step(1); err != nil {
			return nil, err
		}
		for _, k := range path {
			var err error
			if v, err = s.item(v, k); err != nil {
				return nil, err
			}
			if _, undef := v.(*undefVal); undef && def != nil && def != none {
				v = def
			}
		}
		if t, ok := strOf(v); ok && fold {
			v = like(v, lower(t))
		}
		return v, nil
	}, nil
}

// sortBy sorts stably by key; the first comparison that fails is the error.
func (s *state) sortBy(items []Value, key func(Value) (Value, error), reverse bool) ([]Value, error) {
	if err := s.items(len(items)); err != nil {
		return nil, err
	}
	type keyed struct{ k, v Value }
	ks := make([]keyed, len(items))
	for i, it := range items {
		k, err := key(it)
		if err != nil {
			return nil, err
		}
		ks[i] = keyed{k, it}
	}
	var failed error
	sort.SliceStable(ks, func(i, j int) bool {
		if failed != nil {
			return false
		}
		if err := s.step(1); err != nil {
			failed = err
			return false
		}
		c, _, err := s.order(ks[i].k, ks[j].k, 0)
		failed = err
		if reverse {
			return c > 0
		}
		return c < 0
	})
	out := make([]Value, len(ks))
	for i, k := range ks {
		out[i] = k.v
	}
	return out, failed
}
