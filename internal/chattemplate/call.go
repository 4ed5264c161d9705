package chattemplate

// args are the evaluated arguments of a call.
type args struct {
	pos []Value
	kw  []kwArg
}

type kwArg struct {
	name string
	val  Value
}

func (a *args) kwarg(name string) (Value, bool) {
	for _, k := range a.kw {
		if k.name == name {
			return k.val, true
		}
	}
	return nil, false
}

// takeKw removes a keyword argument and returns it, nil if it is absent.
func (a *args) takeKw(name string) Value {
	for i, k := range a.kw {
		if k.name == name {
			a.kw = append(append([]kwArg{}, a.kw[:i]...), a.kw[i+1:]...)
			return k.val
		}
	}
	return nil
}

// bind matches arguments to parameter names, of which the first `required`
// must be given; absent ones are nil.
func (a *args) bind(fn string, required int, params ...string) ([]Value, error) {
	if len(a.pos) > len(params) {
		return nil, errorf("%s() takes at most %d arguments (%d given)", fn, len(params), len(a.pos))
	}
	out := make([]Value, len(params))
	copy(out, a.pos)
next:
	for _, k := range a.kw {
		for i, p := range params {
			if p != k.name {
				continue
			}
			if out[i] != nil {
				return nil, errorf("%s() got multiple values for argument '%s'", fn, p)
			}
			out[i] = k.val
			continue next
		}
		return nil, errorf("%s() got an unexpected keyword argument '%s'", fn, k.name)
	}
	for i := range required {
		if out[i] == nil {
			return nil, errorf("%s() missing required argument: '%s'", fn, params[i])
		}
	}
	return out, nil
}

// positional is bind for builtins that take no keywords.
func (a *args) positional(fn string, required, most int) ([]Value, error) {
	if len(a.kw) > 0 {
		return nil, errorf("%s() takes no keyword arguments", fn)
	}
	if len(a.pos) < required || len(a.pos) > most {
		return nil, errorf("%s() takes %d to %d arguments (%d given)", fn, required, most, len(a.pos))
	}
	out := make([]Value, most)
	copy(out, a.pos)
	return out, nil
}

func (c *callArgs) eval(s *state) (*args, error) {
	a := &args{}
	if len(c.pos) > 0 {
		a.pos = make([]Value, 0, len(c.pos))
	}
	for _, x := range c.pos {
		v, err := x.eval(s)
		if err != nil {
			return nil, err
		}
		a.pos = append(a.pos, v)
	}
	for _, k := range c.kw {
		v, err := k.val.eval(s)
		if err != nil {
			return nil, err
		}
		a.kw = append(a.kw, kwArg{k.name, v})
	}
	if c.star != nil {
		v, err := c.star.eval(s)
		if err != nil {
			return nil, err
		}
		items, err := s.list(v)
		if err != nil {
			return nil, err
		}
		a.pos = append(a.pos, items...)
	}
	if c.dblKws != nil {
		return a, c.spread(s, a)
	}
	return a, nil
}

func (c *callArgs) spread(s *state, a *args) error {
	v, err := c.dblKws.eval(s)
	if err != nil {
		return err
	}
	d, ok := v.(*dictVal)
	if !ok {
		return errorf("argument after ** must be a mapping, not %s", v.typeName())
	}
	for i, k := range d.keys {
		name, ok := strOf(k)
		if !ok {
			return errorf("keywords must be strings")
		}
		if _, dup := a.kwarg(name); dup {
			return errorf("got multiple values for keyword argument '%s'", name)
		}
		a.kw = append(a.kw, kwArg{name, d.vals[i]})
	}
	return s.step(len(d.keys))
}

func (c *callExpr) eval(s *state) (Value, error) { return c.evalWith(s, nil) }

// evalWith calls with an additional argument caller, if that is not nil.
func (c *callExpr) evalWith(s *state, caller *macroVal) (Value, error) {
	if err := s.step(1); err != nil {
		return nil, err
	}
	fn, err := c.fn.eval(s)
	if err != nil {
		return nil, err
	}
	a, err := c.args.eval(s)
	if err != nil {
		return nil, err
	}
	if caller != nil {
		if _, dup := a.kwarg("caller"); dup {
			return nil, errorf("keyword argument repeated: caller")
		}
		a.kw = append(a.kw, kwArg{"caller", caller})
	}
	return s.invoke(fn, a)
}

func (s *state) invoke(fn Value, a *args) (Value, error) {
	switch f := fn.(type) {
	case *funcVal:
		return f.fn(s, a)
	case *macroVal:
		line := s.line
		v, err := f.call(s, a)
		if err == nil {
			s.line = line
		}
		return v, err
	case *loopVal:
		return f.call(s, a)
	case *joinerVal:
		if !f.used {
			f.used = true
			return strVal(""), nil
		}
		return strVal(f.sep), nil
	case *undefVal:
		return nil, f.fail()
	}
	return nil, errorf("'%s' object is not callable", fn.typeName())
}

// macroVal is a macro together with the activation it was defined in.
type macroVal struct {
	def    *macroDef
	act    *activation
	params []string
}

func (*macroVal) typeName() string { return "Macro" }

// call binds the arguments as jinja's Macro does and renders the body.
func (m *macroVal) call(s *state, a *args) (Value, error) {
	leave, err := s.call(m.act, m.def.slots)
	if err != nil {
		return nil, err
	}
	defer leave()
	s.enter(m.def.init)
	if err := m.bind(s, a); err != nil {
		return nil, err
	}
	text, _, err := s.capture(func() (ctl, error) { return s.exec(m.def.body) })
	return strVal(text), err
}

func (m *macroVal) bind(s *state, a *args) error {
	d, slots := m.def, s.act.slots
	rest := &args{pos: a.pos, kw: a.kw}
	n := min(len(a.pos), len(d.params))
	for i, p := range d.params {
		if i < n {
			slots[p.idx] = a.pos[i]
		} else {
			slots[p.idx] = rest.takeKw(p.name)
		}
	}
	if d.caller != nil {
		c := rest.takeKw("caller")
		if c == nil || c == none {
			c = &undefVal{hint: "No caller defined"}
		}
		slots[d.caller.idx] = c
	}
	if d.kwargs != nil {
		kw := newDict(len(rest.kw))
		for _, k := range rest.kw {
			kw.setStr(k.name, k.val)
		}
		slots[d.kwargs.idx] = kw
	} else if len(rest.kw) > 0 {
		return errorf("macro '%s' takes no keyword argument '%s'", d.name, rest.kw[0].name)
	}
	if d.varargs != nil {
		slots[d.varargs.idx] = &tupleVal{items: a.pos[n:]}
	} else if len(a.pos) > n {
		return errorf("macro '%s' takes not more than %d argument(s)", d.name, len(d.params))
	}
	return m.defaults(s)
}

// defaults fills the parameters that no argument was given for.
func (m *macroVal) defaults(s *state) error {
	d := m.def
	first := len(d.params) - len(d.defaults)
	for i, p := range d.params {
		if s.act.slots[p.idx] != nil {
			continue
		}
		if i < first {
			s.act.slots[p.idx] = &undefVal{hint: "parameter '" + p.name + "' was not provided", name: p.name}
			continue
		}
		v, err := d.defaults[i-first].eval(s)
		if err != nil {
			return err
		}
		s.act.slots[p.idx] = v
	}
	return nil
}

func (m *macroVal) attr(name string) Value {
	switch name {
	case "name":
		return strVal(m.def.name)
	case "arguments":
		l := &tupleVal{}
		for _, p := range m.params {
			l.items = append(l.items, strVal(p))
		}
		return l
	case "caller":
		return boolVal(m.def.caller != nil)
	case "catch_kwargs":
		return boolVal(m.def.kwargs != nil)
	case "catch_varargs":
		return boolVal(m.def.varargs != nil)
	}
	return nil
}
