package chattemplate

import "unicode/utf8"

// iterator walks items; next returns nil at the end.
type iterator interface {
	next(s *state) (Value, error)
}

type sliceIter struct {
	items []Value
	pos   int
}

func (it *sliceIter) next(*state) (Value, error) {
	if it.pos >= len(it.items) {
		return nil, nil
	}
	it.pos++
	return it.items[it.pos-1], nil
}

type funcIter func(s *state) (Value, error)

func (f funcIter) next(s *state) (Value, error) { return f(s) }

// genIter walks a generator, which keeps its place for the next walker.
type genIter struct{ v *iterVal }

func (g genIter) next(s *state) (Value, error) {
	if g.v.next == nil {
		return nil, nil
	}
	v, err := g.v.next(s)
	if v == nil {
		g.v.next = nil
	}
	return v, err
}

// iter is Python's iter(v).
func (s *state) iter(v Value) (iterator, error) {
	switch v := v.(type) {
	case *listVal:
		return &sliceIter{items: v.items}, nil
	case *tupleVal:
		return &sliceIter{items: v.items}, nil
	case *dictVal:
		return &sliceIter{items: v.keys}, nil
	case *undefVal:
		return &sliceIter{}, nil
	case strVal:
		return runeIter(string(v)), nil
	case markupVal:
		return runeIter(string(v)), nil
	case *rangeVal:
		i := int64(0)
		return funcIter(func(*state) (Value, error) {
			if i >= v.n {
				return nil, nil
			}
			i++
			return intVal(v.start + (i-1)*v.step), nil
		}), nil
	case *viewVal:
		i := 0
		return funcIter(func(*state) (Value, error) {
			if i >= len(v.dict.keys) {
				return nil, nil
			}
			i++
			return v.at(i - 1), nil
		}), nil
	case *iterVal:
		return genIter{v}, nil
	case *loopVal:
		return funcIter(func(s *state) (Value, error) {
			x, err := v.next(s)
			if err != nil || x == nil {
				return nil, err
			}
			return &tupleVal{items: []Value{x, v}}, nil
		}), nil
	}
	return nil, errorf("'%s' object is not iterable", v.typeName())
}

func runeIter(t string) iterator {
	return funcIter(func(*state) (Value, error) {
		if t == "" {
			return nil, nil
		}
		_, n := utf8.DecodeRuneInString(t)
		c := t[:n]
		t = t[n:]
		return strVal(c), nil
	})
}

func (v *viewVal) at(i int) Value {
	switch v.kind {
	case viewKeys:
		return v.dict.keys[i]
	case viewValues:
		return v.dict.vals[i]
	}
	return &tupleVal{items: []Value{v.dict.keys[i], v.dict.vals[i]}}
}

// list is Python's list(v). The result may be v's own storage: do not change it.
func (s *state) list(v Value) ([]Value, error) {
	switch v := v.(type) {
	case *listVal:
		return v.items, s.step(1 + len(v.items)/16)
	case *tupleVal:
		return v.items, s.step(1 + len(v.items)/16)
	case *dictVal:
		return v.keys, s.step(1 + len(v.keys)/16)
	}
	it, err := s.iter(v)
	if err != nil {
		return nil, err
	}
	return s.drain(it)
}

func (s *state) drain(it iterator) ([]Value, error) {
	var out []Value
	for {
		v, err := it.next(s)
		if err != nil || v == nil {
			return out, err
		}
		if err := s.step(1); err != nil {
			return nil, err
		}
		if len(out) >= s.maxOutput/16 {
			return nil, limitf("list of more than %d items", len(out))
		}
		out = append(out, v)
	}
}

// length is Python's len(v); ok is false for what has none.
func length(v Value) (n int, ok bool) {
	switch v := v.(type) {
	case strVal:
		return utf8.RuneCountInString(string(v)), true
	case markupVal:
		return utf8.RuneCountInString(string(v)), true
	case *listVal:
		return len(v.items), true
	case *tupleVal:
		return len(v.items), true
	case *dictVal:
		return len(v.keys), true
	case *viewVal:
		return len(v.dict.keys), true
	case *rangeVal:
		return int(v.n), true
	case *undefVal:
		return 0, true
	}
	return 0, false
}

// loopVal is the variable `loop` of a for loop.
type loopVal struct {
	it      iterator
	over    Value
	index0  int
	len     int // -1 until asked for
	after   Value
	current Value
	before  Value
	changed []Value // of the last call of loop.changed; nil before
	depth0  int
	stmt    *forStmt    // of a recursive loop
	act     *activation // around the recursive loop
}

func newLoop(it iterator, over Value, depth int) *loopVal {
	return &loopVal{it: it, over: over, index0: -1, len: -1, depth0: depth}
}

func (*loopVal) typeName() string { return "LoopContext" }

func (l *loopVal) next(s *state) (Value, error) {
	v, err := l.peek(s)
	if err != nil || v == nil {
		return nil, err
	}
	l.after = nil
	l.index0++
	l.before, l.current = l.current, v
	return v, nil
}

// peek returns the item after the current one, nil at the end.
func (l *loopVal) peek(s *state) (Value, error) {
	if l.after == nil {
		v, err := l.it.next(s)
		if err != nil {
			return nil, err
		}
		l.after = v
	}
	return l.after, nil
}

func (l *loopVal) length(s *state) (int, error) {
	if l.len >= 0 {
		return l.len, nil
	}
	if n, ok := length(l.over); ok {
		l.len = n
		return n, nil
	}
	rest, err := s.drain(l.it)
	if err != nil {
		return 0, err
	}
	l.it = &sliceIter{items: rest}
	l.len = len(rest) + l.index0 + 1
	if l.after != nil {
		l.len++
	}
	return l.len, nil
}

// attr returns an attribute of the loop, nil if there is none of that name.
func (l *loopVal) attr(s *state, name string) (Value, error) {
	switch name {
	case "index0":
		return intVal(l.index0), nil
	case "index":
		return intVal(l.index0 + 1), nil
	case "first":
		return boolVal(l.index0 == 0), nil
	case "depth0":
		return intVal(l.depth0), nil
	case "depth":
		return intVal(l.depth0 + 1), nil
	case "last":
		v, err := l.peek(s)
		return boolVal(v == nil), err
	case "length", "revindex", "revindex0":
		n, err := l.length(s)
		switch name {
		case "revindex":
			n -= l.index0
		case "revindex0":
			n -= l.index0 + 1
		}
		return intVal(n), err
	case "previtem":
		if l.index0 == 0 {
			return &undefVal{hint: "there is no previous item"}, nil
		}
		return l.before, nil
	case "nextitem":
		v, err := l.peek(s)
		if v == nil && err == nil {
			v = &undefVal{hint: "there is no next item"}
		}
		return v, err
	case "cycle":
		return &funcVal{name: name, fn: l.cycle}, nil
	case "changed":
		return &funcVal{name: name, fn: l.hasChanged}, nil
	}
	return nil, nil
}

func (l *loopVal) cycle(_ *state, a *args) (Value, error) {
	if len(a.kw) > 0 {
		return nil, errorf("cycle() takes no keyword arguments")
	}
	if len(a.pos) == 0 {
		return nil, errorf("no items for cycling given")
	}
	return a.pos[l.index0%len(a.pos)], nil
}

func (l *loopVal) hasChanged(s *state, a *args) (Value, error) {
	if len(a.kw) > 0 {
		return nil, errorf("changed() takes no keyword arguments")
	}
	if l.changed != nil {
		same, err := s.equalItems(l.changed, a.pos, 0)
		if err != nil || same {
			return boolVal(false), err
		}
	}
	l.changed = append([]Value{}, a.pos...)
	return boolVal(true), nil
}

// call renders the body of a recursive loop over other items.
func (l *loopVal) call(s *state, a *args) (Value, error) {
	p, err := a.bind("loop", 1, "iterable")
	if err != nil {
		return nil, err
	}
	if l.stmt == nil {
		return nil, errorf("The loop must have the 'recursive' marker to be called recursively.")
	}
	text, err := l.stmt.recurse(s, l.act, p[0], l.depth0+1)
	return strVal(text), err
}
