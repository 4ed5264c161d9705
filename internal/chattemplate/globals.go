package chattemplate

import "errors"

// maxRange is the longest range of jinja's sandbox.
const maxRange = 100_000

// globals are the functions a template can call, unless a variable hides them.
var globals map[string]Value

func init() {
	globals = map[string]Value{}
	for name, fn := range map[string]func(*state, *args) (Value, error){
		"range":           globalRange,
		"dict":            globalDict,
		"namespace":       globalNamespace,
		"cycler":          globalCycler,
		"joiner":          globalJoiner,
		"raise_exception": globalRaise,
		"strftime_now":    globalStrftime,
	} {
		globals[name] = &funcVal{name, fn}
	}
}

func globalRaise(s *state, a *args) (Value, error) {
	p, err := a.bind("raise_exception", 1, "message")
	if err != nil {
		return nil, err
	}
	msg, err := s.str(p[0])
	if err != nil && errors.Is(err, ErrLimit) {
		return nil, err
	}
	return nil, raised{msg}
}

func globalRange(_ *state, a *args) (Value, error) {
	if _, err := a.positional("range", 1, 3); err != nil {
		return nil, err
	}
	n := [3]int64{0, 0, 1}
	for i, v := range a.pos {
		num, ok := numberOf(v)
		if u, isU := v.(*undefVal); isU {
			return nil, errorf("'Undefined' object cannot be interpreted as an integer: %s", u.msg())
		}
		if !ok || num.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", v.typeName())
		}
		n[i] = int64(clampIndex(num))
	}
	if len(a.pos) == 1 {
		n[0], n[1] = 0, n[0]
	}
	if n[2] == 0 {
		return nil, errorf("range() arg 3 must not be zero")
	}
	r := &rangeVal{start: n[0], stop: n[1], step: n[2]}
	if r.step > 0 && r.stop > r.start {
		r.n = (r.stop-r.start-1)/r.step + 1
	} else if r.step < 0 && r.stop < r.start {
		r.n = (r.start-r.stop-1)/-r.step + 1
	}
	if r.n > maxRange {
		return nil, limitf("Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
	}
	return r, nil
}

// globalDict is Python's dict(mapping or pairs, **kwargs).
func globalDict(s *state, a *args) (Value, error) {
	if len(a.pos) > 1 {
		return nil, errorf("dict expected at most 1 argument, got %d", len(a.pos))
	}
	d := newDict(len(a.kw))
	if len(a.pos) == 1 {
		if src, ok := a.pos[0].(*dictVal); ok {
			if err := s.items(len(src.keys)); err != nil {
				return nil, err
			}
			d = src.clone()
		} else if err := s.addPairs(d, a.pos[0]); err != nil {
			return nil, err
		}
	}
	for _, k := range a.kw {
		d.setStr(k.name, k.val)
	}
	return d, nil
}

func (s *state) addPairs(d *dictVal, v Value) error {
	it, err := s.iter(v)
	if err != nil {
		return err
	}
	for {
		p, err := it.next(s)
		if err != nil || p == nil {
			return err
		}
		if err := s.step(1); err != nil {
			return err
		}
		kv, err := s.list(p)
		if err != nil {
			return errorf("cannot convert dictionary update sequence element to a sequence")
		}
		if len(kv) != 2 {
			return errorf("dictionary update sequence element has length %d; 2 is required", len(kv))
		}
		if err := d.set(kv[0], kv[1]); err != nil {
			return err
		}
	}
}

func globalNamespace(s *state, a *args) (Value, error) {
	v, err := globalDict(s, a)
	if err != nil {
		return nil, err
	}
	src := v.(*dictVal)
	ns := &nsVal{attrs: newDict(len(src.keys))}
	for i, k := range src.keys {
		name, ok := strOf(k)
		if !ok {
			continue // jinja keeps it, but nothing can read it
		}
		if err := ns.set(name, src.vals[i]); err != nil {
			return nil, err
		}
	}
	return ns, nil
}

func globalCycler(_ *state, a *args) (Value, error) {
	if len(a.kw) > 0 {
		return nil, errorf("cycler() takes no keyword arguments")
	}
	if len(a.pos) == 0 {
		return nil, errorf("at least one item has to be provided")
	}
	return &cyclerVal{items: a.pos}, nil
}

func (c *cyclerVal) attr(name string) Value {
	switch name {
	case "items":
		return &tupleVal{items: c.items}
	case "pos":
		return intVal(c.pos)
	case "current":
		return c.items[c.pos]
	case "next":
		return &funcVal{name, func(_ *state, a *args) (Value, error) {
			if _, err := a.positional("next", 0, 0); err != nil {
				return nil, err
			}
			v := c.items[c.pos]
			c.pos = (c.pos + 1) % len(c.items)
			return v, nil
		}}
	case "reset":
		return &funcVal{name, func(_ *state, a *args) (Value, error) {
			c.pos = 0
			return none, nil
		}}
	}
	return nil
}

func globalJoiner(s *state, a *args) (Value, error) {
	p, err := a.bind("joiner", 0, "sep")
	if err != nil {
		return nil, err
	}
	j := &joinerVal{sep: ", "}
	if p[0] != nil {
		j.sep, err = s.str(p[0])
	}
	return j, err
}
