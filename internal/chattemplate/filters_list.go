package chattemplate

import "math"

// lazily returns a generator over v, which like Python's touches nothing until
// it is walked; next makes its items.
func lazily(v Value, next func(s *state, it iterator) (Value, error)) Value {
	var it iterator
	return &iterVal{next: func(s *state) (Value, error) {
		if it == nil {
			var err error
			if it, err = s.iter(v); err != nil {
				return nil, err
			}
		}
		if err := s.step(1); err != nil {
			return nil, err
		}
		return next(s, it)
	}}
}

// later returns a generator over the list that make returns when the generator
// is first walked.
func later(make func(s *state) ([]Value, error)) Value {
	var it iterator
	return &iterVal{next: func(s *state) (Value, error) {
		if it == nil {
			items, err := make(s)
			if err != nil {
				return nil, err
			}
			it = &sliceIter{items: items}
		}
		return it.next(s)
	}}
}

// empty is Undefined's or an empty sequence's generator.
func empty() Value { return &iterVal{next: (&sliceIter{}).next} }

// filterMap applies a filter, or reads an attribute of, each item.
func filterMap(_ *state, v Value, a *args) (Value, error) {
	if !truth(v) {
		return empty(), nil
	}
	var fn func(s *state, x Value) (Value, error)
	return lazily(v, func(s *state, it iterator) (Value, error) {
		if fn == nil {
			var err error
			if fn, err = mapper(s, a); err != nil {
				return nil, err
			}
		}
		x, err := it.next(s)
		if err != nil || x == nil {
			return nil, err
		}
		return fn(s, x)
	}), nil
}

func mapper(s *state, a *args) (func(s *state, x Value) (Value, error), error) {
	if _, ok := a.kwarg("attribute"); ok && len(a.pos) == 0 {
		rest := &args{kw: a.kw}
		attr, def := rest.takeKw("attribute"), rest.takeKw("default")
		if len(rest.kw) > 0 {
			return nil, errorf("Unexpected keyword argument '%s'", rest.kw[0].name)
		}
		get, err := s.getter(attr, def, false)
		return func(_ *state, x Value) (Value, error) { return get(x) }, err
	}
	if len(a.pos) == 0 {
		return nil, errorf("map requires a filter argument")
	}
	name, _ := strOf(a.pos[0])
	f := filterTable[name]
	if f == nil {
		f = func(*state, Value, *args) (Value, error) { return nil, errorf("No filter named '%s'.", name) }
	}
	rest := &args{pos: a.pos[1:], kw: a.kw}
	return func(s *state, x Value) (Value, error) { return f(s, x, rest) }, nil
}

// selectFilter keeps the items for which a test, of the item or of its
// attribute, has the wanted outcome.
func selectFilter(byAttr, want bool) filterFunc {
	return func(_ *state, v Value, a *args) (Value, error) {
		if !truth(v) {
			return empty(), nil
		}
		rest := &args{pos: a.pos, kw: a.kw}
		var get func(Value) (Value, error)
		return lazily(v, func(s *state, it iterator) (Value, error) {
			if get == nil {
				var err error
				if get, err = selected(s, rest, byAttr); err != nil {
					return nil, err
				}
			}
			for {
				x, err := it.next(s)
				if err != nil || x == nil {
					return nil, err
				}
				y, err := get(x)
				if err != nil {
					return nil, err
				}
				ok, err := s.passes(y, rest)
				if err != nil {
					return nil, err
				}
				if ok == want {
					return x, nil
				}
			}
		}), nil
	}
}

// selected returns what reads the value to test from an item; it takes the
// attribute's name from the arguments.
func selected(s *state, a *args, byAttr bool) (func(Value) (Value, error), error) {
	if !byAttr {
		return func(x Value) (Value, error) { return x, s.step(1) }, nil
	}
	if len(a.pos) == 0 {
		return nil, errorf("Missing parameter for attribute name")
	}
	get, err := s.getter(a.pos[0], nil, false)
	a.pos = a.pos[1:]
	return get, err
}

// passes applies the test named by the first argument, truth without one.
func (s *state) passes(v Value, a *args) (bool, error) {
	if len(a.pos) == 0 {
		return truth(v), nil
	}
	name, _ := strOf(a.pos[0])
	t := testTable[name]
	if t == nil {
		return false, errorf("No test named '%s'.", name)
	}
	return t(s, v, &args{pos: a.pos[1:], kw: a.kw})
}

func given(v Value) bool { return v != nil && truth(v) }

func filterDictSort(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("dictsort", 0, "case_sensitive", "by", "reverse")
	if err != nil {
		return nil, err
	}
	pos := 0
	if p[1] != nil {
		switch by, _ := strOf(p[1]); by {
		case "key":
		case "value":
			pos = 1
		default:
			return nil, errorf(`You can only sort by either "key" or "value"`)
		}
	}
	d, ok := v.(*dictVal)
	if !ok {
		if u, isU := v.(*undefVal); isU {
			return nil, u.fail()
		}
		return nil, errorf("'%s' object has no attribute 'items'", v.typeName())
	}
	pairs, err := s.list(&viewVal{dict: d, kind: viewItems})
	if err != nil {
		return nil, err
	}
	fold, err := s.getter(nil, nil, !given(p[0]))
	if err != nil {
		return nil, err
	}
	items, err := s.sortBy(pairs, func(x Value) (Value, error) { return fold(x.(*tupleVal).items[pos]) }, given(p[2]))
	return &listVal{items}, err
}

// multiGetter reads several attributes, separated by commas, as a list.
func (s *state) multiGetter(attr Value, fold bool) (func(Value) (Value, error), error) {
	var gets []func(Value) (Value, error)
	parts := []Value{attr}
	if t, ok := strOf(attr); ok {
		parts = parts[:0]
		for _, p := range splitSep(t, ",", -1, false) {
			parts = append(parts, strVal(p))
		}
	}
	for _, p := range parts {
		g, err := s.getter(p, nil, fold)
		if err != nil {
			return nil, err
		}
		gets = append(gets, g)
	}
	return func(v Value) (Value, error) {
		l := &listVal{}
		for _, g := range gets {
			x, err := g(v)
			if err != nil {
				return nil, err
			}
			l.items = append(l.items, x)
		}
		return l, nil
	}, nil
}

func filterSort(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("sort", 0, "reverse", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	attr := p[2]
	if attr == nil {
		attr = none
	}
	key, err := s.multiGetter(attr, !given(p[1]))
	if err != nil {
		return nil, err
	}
	out, err := s.sortBy(items, key, given(p[0]))
	return &listVal{out}, err
}

func filterUnique(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("unique", 0, "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	get, err := s.getter(p[1], nil, !given(p[0]))
	if err != nil {
		return nil, err
	}
	seen := newDict(0)
	return lazily(v, func(s *state, it iterator) (Value, error) {
		for {
			x, err := it.next(s)
			if err != nil || x == nil {
				return nil, err
			}
			k, err := get(x)
			if err != nil {
				return nil, err
			}
			i, err := seen.find(k)
			if err != nil {
				return nil, err
			}
			if i < 0 {
				return x, seen.set(k, none)
			}
		}
	}), nil
}

func filterGroupBy(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("groupby", 1, "attribute", "default", "case_sensitive")
	if err != nil {
		return nil, err
	}
	key, err := s.getter(p[0], p[1], !given(p[2]))
	if err != nil {
		return nil, err
	}
	shown, err := s.getter(p[0], p[1], false)
	if err != nil {
		return nil, err
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	if items, err = s.sortBy(items, key, false); err != nil {
		return nil, err
	}
	out := &listVal{}
	var last Value
	for _, x := range items {
		k, err := key(x)
		if err != nil {
			return nil, err
		}
		same := false
		if last != nil {
			if same, err = s.equal(last, k, 0); err != nil {
				return nil, err
			}
		}
		if !same {
			label, err := shown(x)
			if err != nil {
				return nil, err
			}
			out.items = append(out.items, &tupleVal{items: []Value{label, &listVal{}}, group: true})
			last = k
		}
		group := out.items[len(out.items)-1].(*tupleVal).items[1].(*listVal)
		group.items = append(group.items, x)
	}
	return out, nil
}

func filterSum(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("sum", 0, "attribute", "start")
	if err != nil {
		return nil, err
	}
	total := Value(intVal(0))
	if p[1] != nil {
		total = p[1]
	}
	get, err := s.getter(p[0], nil, false)
	if err != nil {
		return nil, err
	}
	if _, ok := strOf(total); ok {
		return nil, errorf("sum() can't sum strings [use ''.join(seq) instead]")
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	for _, x := range items {
		if x, err = get(x); err != nil {
			return nil, err
		}
		if total, err = s.binary("+", total, x); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func minMaxFilter(name string) filterFunc {
	return func(s *state, v Value, a *args) (Value, error) {
		p, err := a.bind(name, 0, "case_sensitive", "attribute")
		if err != nil {
			return nil, err
		}
		get, err := s.getter(p[1], nil, !given(p[0]))
		if err != nil {
			return nil, err
		}
		items, err := s.list(v)
		if err != nil {
			return nil, err
		}
		if len(items) == 0 {
			return &undefVal{hint: "No aggregated item, sequence was empty."}, nil
		}
		var best, bestKey Value
		for _, x := range items {
			k, err := get(x)
			if err != nil {
				return nil, err
			}
			if best == nil {
				best, bestKey = x, k
				continue
			}
			c, _, err := s.order(k, bestKey, 0)
			if err != nil {
				return nil, err
			}
			if name == "min" && c < 0 || name == "max" && c > 0 {
				best, bestKey = x, k
			}
		}
		return best, nil
	}
}

// wholeNumber is an argument that has to be an int.
func wholeNumber(v Value) (int, error) {
	n, ok := numberOf(v)
	if !ok || n.isFloat {
		return 0, errorf("'%s' object cannot be interpreted as an integer", v.typeName())
	}
	return clampIndex(n), nil
}

func filterBatch(_ *state, v Value, a *args) (Value, error) {
	p, err := a.bind("batch", 1, "linecount", "fill_with")
	if err != nil {
		return nil, err
	}
	return later(func(s *state) ([]Value, error) { return s.batch(v, p[0], p[1]) }), nil
}

func (s *state) batch(v, count, fill Value) ([]Value, error) {
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	if err := s.items(len(items)); err != nil {
		return nil, err
	}
	size := -1 // never reached
	if n, ok := numberOf(count); ok && !n.isFloat {
		size = clampIndex(n)
	} else if ok && n.f == math.Trunc(n.f) && math.Abs(n.f) < 1<<40 {
		size = int(n.f)
	}
	var out, row []Value
	for _, x := range items {
		if len(row) == size {
			out = append(out, &listVal{row})
			row = nil
		}
		row = append(row, x)
	}
	if len(row) == 0 {
		return out, nil
	}
	if fill != nil && fill != none {
		if size, err = wholeNumber(count); err != nil {
			return nil, err
		}
		if err := s.items(size - len(row)); err != nil {
			return nil, err
		}
		for len(row) < size {
			row = append(row, fill)
		}
	}
	return append(out, &listVal{row}), nil
}

func filterSlice(_ *state, v Value, a *args) (Value, error) {
	p, err := a.bind("slice", 1, "slices", "fill_with")
	if err != nil {
		return nil, err
	}
	return later(func(s *state) ([]Value, error) { return s.slices(v, p[0], p[1]) }), nil
}

func (s *state) slices(v, count, fill Value) ([]Value, error) {
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	n, err := wholeNumber(count)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errorf("integer division or modulo by zero")
	}
	if n < 0 {
		return nil, nil
	}
	if err := s.items(n + len(items)); err != nil {
		return nil, err
	}
	per, extra := len(items)/n, len(items)%n
	var out []Value
	for i, start := 0, 0; i < n; i++ {
		end := start + per
		if i < extra {
			end++
		}
		part := append([]Value{}, items[start:end]...)
		if fill != nil && fill != none && i >= extra {
			part = append(part, fill)
		}
		out = append(out, &listVal{part})
		start = end
	}
	return out, nil
}
