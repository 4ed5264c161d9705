package chattemplate

import "strings"

func (x *constExpr) eval(*state) (Value, error) { return x.v, nil }

func (x *nameExpr) eval(s *state) (Value, error) {
	if v := s.outer(x.up).slots[x.idx]; v != nil {
		return v, nil
	}
	return &undefVal{name: x.name}, nil
}

func (s *state) evalAll(xs []expr) ([]Value, error) {
	if err := s.step(len(xs)); err != nil {
		return nil, err
	}
	out := make([]Value, len(xs))
	for i, x := range xs {
		v, err := x.eval(s)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

func (x *listExpr) eval(s *state) (Value, error) {
	items, err := s.evalAll(x.items)
	if err != nil {
		return nil, err
	}
	if x.tuple {
		return &tupleVal{items: items}, nil
	}
	return &listVal{items}, nil
}

func (x *dictExpr) eval(s *state) (Value, error) {
	if err := s.step(len(x.keys)); err != nil {
		return nil, err
	}
	d := newDict(len(x.keys))
	for i := range x.keys {
		k, err := x.keys[i].eval(s)
		if err != nil {
			return nil, err
		}
		v, err := x.vals[i].eval(s)
		if err != nil {
			return nil, err
		}
		if err := d.set(k, v); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (x *attrExpr) eval(s *state) (Value, error) {
	o, err := x.obj.eval(s)
	if err != nil {
		return nil, err
	}
	return s.attr(o, x.name)
}

func (x *itemExpr) eval(s *state) (Value, error) {
	o, err := x.obj.eval(s)
	if err != nil {
		return nil, err
	}
	k, err := x.key.eval(s)
	if err != nil {
		return nil, err
	}
	return s.item(o, k)
}

func (x *sliceExpr) eval(s *state) (Value, error) {
	if x.obj == nil {
		return nil, errorf("a slice stands alone")
	}
	var parts [4]Value
	for i, e := range []expr{x.obj, x.lo, x.hi, x.step} {
		parts[i] = none
		if e == nil {
			continue
		}
		v, err := e.eval(s)
		if err != nil {
			return nil, err
		}
		parts[i] = v
	}
	return s.slice(parts[0], parts[1], parts[2], parts[3])
}

func (x *filterExpr) eval(s *state) (Value, error) {
	o, err := x.obj.eval(s)
	if err != nil {
		return nil, err
	}
	return x.apply(s, o)
}

func (x *filterExpr) apply(s *state, o Value) (Value, error) {
	if x.fn == nil {
		return nil, errorf("No filter named '%s' found.", x.name)
	}
	a, err := x.args.eval(s)
	if err != nil {
		return nil, err
	}
	if err := s.step(1); err != nil {
		return nil, err
	}
	return x.fn(s, o, a)
}

func (x *testExpr) eval(s *state) (Value, error) {
	o, err := x.obj.eval(s)
	if err != nil {
		return nil, err
	}
	if x.fn == nil {
		return nil, errorf("No test named '%s' found.", x.name)
	}
	a, err := x.args.eval(s)
	if err != nil {
		return nil, err
	}
	ok, err := x.fn(s, o, a)
	return boolVal(ok), err
}

func (x *negExpr) eval(s *state) (Value, error) {
	v, err := x.x.eval(s)
	if err != nil {
		return nil, err
	}
	return negate(v, x.plus)
}

func (x *notExpr) eval(s *state) (Value, error) {
	v, err := x.x.eval(s)
	if err != nil {
		return nil, err
	}
	return boolVal(!truth(v)), nil
}

func (x *binExpr) eval(s *state) (Value, error) {
	l, err := x.l.eval(s)
	if err != nil {
		return nil, err
	}
	r, err := x.r.eval(s)
	if err != nil {
		return nil, err
	}
	return s.binary(x.op, l, r)
}

func (x *concatExpr) eval(s *state) (Value, error) {
	vals, err := s.evalAll(x.parts)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(vals))
	n := 0
	for i, v := range vals {
		if texts[i], err = s.str(v); err != nil {
			return nil, err
		}
		n += len(texts[i])
	}
	if err := s.text(n); err != nil {
		return nil, err
	}
	return strVal(strings.Join(texts, "")), nil
}

func (x *compareExpr) eval(s *state) (Value, error) {
	l, err := x.first.eval(s)
	if err != nil {
		return nil, err
	}
	for i, op := range x.ops {
		r, err := x.rest[i].eval(s)
		if err != nil {
			return nil, err
		}
		ok, err := s.compare(op, l, r)
		if err != nil {
			return nil, err
		}
		if !ok {
			return boolVal(false), nil
		}
		l = r
	}
	return boolVal(true), nil
}

func (x *logicExpr) eval(s *state) (Value, error) {
	l, err := x.l.eval(s)
	if err != nil || truth(l) == x.or {
		return l, err
	}
	return x.r.eval(s)
}

func (x *condExpr) eval(s *state) (Value, error) {
	t, err := x.test.eval(s)
	if err != nil {
		return nil, err
	}
	if truth(t) {
		return x.then.eval(s)
	}
	if x.els == nil {
		return &undefVal{hint: "the inline if-expression evaluated to false and no else section was defined."}, nil
	}
	return x.els.eval(s)
}
