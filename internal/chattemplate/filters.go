package chattemplate

import (
	"math"
	"math/big"
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

func filterInt(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("int", 0, "default", "base")
	if err != nil {
		return nil, err
	}
	def, base := Value(intVal(0)), 10
	if p[0] != nil {
		def = p[0]
	}
	if p[1] != nil {
		n, ok := numberOf(p[1])
		if !ok || n.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", p[1].typeName())
		}
		base = clampIndex(n)
	}
	if u, ok := v.(*undefVal); ok {
		return nil, u.fail()
	}
	if t, ok := strOf(v); ok {
		if b, ok := parseInt(t, base); ok {
			return intOf(b), nil
		}
		f, ok := parseFloat(t)
		if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
			return def, nil
		}
		b, _ := big.NewFloat(f).Int(nil)
		return intOf(b), nil
	}
	n, ok := numberOf(v)
	switch {
	case !ok, n.isFloat && math.IsNaN(n.f):
		return def, nil
	case n.isFloat:
		b, err := wholeFloat(n.f)
		return intOf(b), err
	}
	return intOf(n.big()), nil
}

// wholeFloat is Python's int(f).
func wholeFloat(f float64) (*big.Int, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return new(big.Int), errorf("cannot convert float infinity or NaN to integer")
	}
	b, _ := big.NewFloat(f).Int(nil)
	return b, nil
}

// parseInt is Python's int(t, base).
func parseInt(t string, base int) (*big.Int, bool) {
	t = strings.TrimFunc(t, isSpace)
	neg := strings.HasPrefix(t, "-")
	if neg || strings.HasPrefix(t, "+") {
		t = t[1:]
	}
	if base != 0 && (base < 2 || base > 36) || len(t) > maxIntDigits {
		return nil, false
	}
	for _, pre := range []struct {
		s    string
		base int
	}{{"0x", 16}, {"0o", 8}, {"0b", 2}} {
		if len(t) > 2 && strings.EqualFold(t[:2], pre.s) && (base == pre.base || base == 0) {
			t, base = strings.TrimPrefix(t[2:], "_"), pre.base
		}
	}
	if base == 0 {
		base = 10
	}
	if strings.HasPrefix(t, "_") || strings.HasSuffix(t, "_") || strings.Contains(t, "__") ||
		strings.HasPrefix(t, "-") || strings.HasPrefix(t, "+") {
		return nil, false
	}
	b, ok := new(big.Int).SetString(strings.ReplaceAll(t, "_", ""), base)
	if ok && neg {
		b.Neg(b)
	}
	return b, ok
}

// parseFloat is Python's float(t).
func parseFloat(t string) (float64, bool) {
	t = strings.TrimFunc(t, isSpace)
	if strings.ContainsAny(t, "xXpP") || strings.Contains(t, "__") || strings.HasPrefix(t, "_") || strings.HasSuffix(t, "_") {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(t, "_", ""), 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

func filterFloat(_ *state, v Value, a *args) (Value, error) {
	p, err := a.bind("float", 0, "default")
	if err != nil {
		return nil, err
	}
	def := Value(floatVal(0))
	if p[0] != nil {
		def = p[0]
	}
	if u, ok := v.(*undefVal); ok {
		return nil, u.fail()
	}
	if t, ok := strOf(v); ok {
		if f, ok := parseFloat(t); ok {
			return floatVal(f), nil
		}
		return def, nil
	}
	n, ok := numberOf(v)
	if !ok {
		return def, nil
	}
	f, err := n.float()
	return floatVal(f), err
}

func filterAbs(_ *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("abs", 0, 0); err != nil {
		return nil, err
	}
	n, ok := numberOf(v)
	switch {
	case !ok:
		return nil, errorf("bad operand type for abs(): '%s'", v.typeName())
	case n.isFloat:
		return floatVal(math.Abs(n.f)), nil
	}
	return intOf(new(big.Int).Abs(n.big())), nil
}

func filterRound(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("round", 0, "precision", "method")
	if err != nil {
		return nil, err
	}
	prec, how := 0, "common"
	if p[0] != nil {
		n, ok := numberOf(p[0])
		if !ok || n.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", p[0].typeName())
		}
		prec = clampIndex(n)
	}
	if p[1] != nil {
		how, _ = strOf(p[1])
	}
	if how != "common" && how != "ceil" && how != "floor" {
		return nil, errorf("method must be common, ceil or floor")
	}
	n, ok := numberOf(v)
	if !ok {
		return nil, errorf("type %s doesn't define __round__ method", v.typeName())
	}
	if how == "common" {
		return roundCommon(n, prec)
	}
	x, err := n.float()
	if err != nil {
		return nil, err
	}
	scale := math.Pow(10, float64(prec))
	if math.IsInf(scale, 0) || scale == 0 || math.IsInf(x*scale, 0) || math.IsNaN(x*scale) {
		return nil, errorf("cannot round %s to %d digits", formatFloat(x), prec)
	}
	if how == "ceil" {
		return floatVal(noNegZero(math.Ceil(x*scale)) / scale), nil
	}
	return floatVal(noNegZero(math.Floor(x*scale)) / scale), nil
}

// noNegZero drops the sign of zero, as Python's ceil and floor return integers.
func noNegZero(f float64) float64 {
	if f == 0 {
		return 0
	}
	return f
}

// roundCommon is Python's round(n, prec): to even, on the exact value.
func roundCommon(n number, prec int) (Value, error) {
	if !n.isFloat {
		if prec >= 0 {
			return intOf(n.big()), nil
		}
		if prec < -maxIntDigits {
			return intVal(0), nil
		}
		return intOf(roundInt(n.big(), -prec)), nil
	}
	if math.IsNaN(n.f) || math.IsInf(n.f, 0) || prec > 330 {
		return floatVal(n.f), nil
	}
	if prec < -330 {
		return floatVal(math.Copysign(0, n.f)), nil
	}
	if prec >= 0 {
		f, err := strconv.ParseFloat(strconv.FormatFloat(n.f, 'f', prec, 64), 64)
		return floatVal(f), err
	}
	b, _ := big.NewFloat(math.Trunc(n.f)).Int(nil)
	r := roundInt(b, -prec)
	if frac := n.f - math.Trunc(n.f); frac != 0 {
		// Twice the distance decides exactly at a half.
		r = roundHalf(n.f, -prec)
	}
	f, _ := new(big.Float).SetInt(r).Float64()
	return floatVal(math.Copysign(math.Abs(f), n.f)), nil
}

func pow10(n int) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}

// roundInt rounds b to a multiple of 10**digits, half to even.
func roundInt(b *big.Int, digits int) *big.Int {
	unit := pow10(digits)
	q, m := new(big.Int).QuoRem(new(big.Int).Abs(b), unit, new(big.Int))
	c := new(big.Int).Lsh(m, 1).Cmp(unit)
	if c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	q.Mul(q, unit)
	if b.Sign() < 0 {
		q.Neg(q)
	}
	return q
}

func roundHalf(f float64, digits int) *big.Int {
	unit := new(big.Rat).SetInt(pow10(digits))
	r := new(big.Rat).SetFloat64(math.Abs(f))
	r.Quo(r, unit)
	q := new(big.Int).Quo(r.Num(), r.Denom())
	rest := new(big.Rat).Sub(r, new(big.Rat).SetInt(q))
	c := rest.Cmp(big.NewRat(1, 2))
	if c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return q.Mul(q, pow10(digits))
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
