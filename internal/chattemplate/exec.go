package chattemplate

func (s *state) exec(body []stmt) (ctl, error) {
	for _, st := range body {
		c, err := st.exec(s)
		if c != ctlNext || err != nil {
			return c, err
		}
	}
	return ctlNext, nil
}

func (o *outputStmt) exec(s *state) (ctl, error) {
	for i := range o.parts {
		p := &o.parts[i]
		text := p.text
		if p.x != nil {
			s.line = p.line
			v, err := p.x.eval(s)
			if err != nil {
				return ctlNext, err
			}
			if text, err = s.str(v); err != nil {
				return ctlNext, err
			}
		}
		if err := s.write(text); err != nil {
			return ctlNext, err
		}
	}
	return ctlNext, nil
}

func (st *ifStmt) exec(s *state) (ctl, error) {
	s.line = st.line
	if err := s.step(1); err != nil {
		return ctlNext, err
	}
	for i, test := range st.tests {
		v, err := test.eval(s)
		if err != nil {
			return ctlNext, err
		}
		if truth(v) {
			return s.exec(st.body[i])
		}
	}
	return s.exec(st.els)
}

func (l loopCtl) exec(*state) (ctl, error) { return l.c, nil }

func (st *setStmt) exec(s *state) (ctl, error) {
	s.line = st.line
	if err := s.checkNamespaces(st.target); err != nil {
		return ctlNext, err
	}
	v, err := st.val.eval(s)
	if err != nil {
		return ctlNext, err
	}
	if err := s.step(1); err != nil {
		return ctlNext, err
	}
	return ctlNext, s.assign(st.target, v)
}

// checkNamespaces fails before anything is computed, as jinja does.
func (s *state) checkNamespaces(t *target) error {
	if t.ns != nil {
		if _, ok := s.outer(t.ns.up).slots[t.ns.idx].(*nsVal); !ok {
			return errorf("cannot assign attribute on non-namespace object")
		}
	}
	for _, p := range t.tuple {
		if err := s.checkNamespaces(p); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) assign(t *target, v Value) error {
	switch {
	case t.name != nil:
		s.outer(t.name.up).slots[t.name.idx] = v
		return nil
	case t.ns != nil:
		ns, ok := s.outer(t.ns.up).slots[t.ns.idx].(*nsVal)
		if !ok {
			return errorf("cannot assign attribute on non-namespace object")
		}
		return ns.set(t.attr, v)
	}
	return s.unpack(t, v)
}

func (s *state) unpack(t *target, v Value) error {
	it, err := s.iter(v)
	if err != nil {
		return err
	}
	items := make([]Value, 0, len(t.tuple))
	for {
		x, err := it.next(s)
		if err != nil {
			return err
		}
		if x == nil {
			break
		}
		if len(items) == len(t.tuple) {
			return errorf("too many values to unpack (expected %d)", len(t.tuple))
		}
		items = append(items, x)
	}
	if len(items) < len(t.tuple) {
		return errorf("not enough values to unpack (expected %d, got %d)", len(t.tuple), len(items))
	}
	for i, p := range t.tuple {
		if err := s.assign(p, items[i]); err != nil {
			return err
		}
	}
	return nil
}

func (st *setBlockStmt) exec(s *state) (ctl, error) {
	s.line = st.line
	s.enter(st.init)
	text, c, err := s.capture(func() (ctl, error) { return s.exec(st.body) })
	if err != nil || c != ctlNext {
		return c, err
	}
	v := Value(strVal(text))
	if st.filter != nil {
		s.line = st.line
		if v, err = s.filterText(st.filter, v); err != nil {
			return ctlNext, err
		}
	}
	return ctlNext, s.assign(st.target, v)
}

// filterText applies a chain of filters to captured text.
func (s *state) filterText(x expr, text Value) (Value, error) {
	f := x.(*filterExpr)
	obj := text
	if f.obj != nil {
		var err error
		if obj, err = s.filterText(f.obj, text); err != nil {
			return nil, err
		}
	}
	return f.apply(s, obj)
}

func (st *filterStmt) exec(s *state) (ctl, error) {
	s.line = st.line
	s.enter(st.init)
	text, c, err := s.capture(func() (ctl, error) { return s.exec(st.body) })
	if err != nil || c != ctlNext {
		return c, err
	}
	s.line = st.line
	v, err := s.filterText(st.filter, strVal(text))
	if err != nil {
		return ctlNext, err
	}
	return ctlNext, s.print(v)
}

func (s *state) print(v Value) error {
	text, err := s.str(v)
	if err != nil {
		return err
	}
	return s.write(text)
}

func (st *withStmt) exec(s *state) (ctl, error) {
	s.line = st.line
	s.enter(st.init)
	for i, t := range st.targets {
		v, err := st.vals[i].eval(s)
		if err != nil {
			return ctlNext, err
		}
		if err := s.assign(t, v); err != nil {
			return ctlNext, err
		}
	}
	return s.exec(st.body)
}

func (st *macroStmt) exec(s *state) (ctl, error) {
	s.outer(st.name.up).slots[st.name.idx] = &macroVal{def: st.fn, act: s.act, params: st.params}
	return ctlNext, s.step(1)
}

func (st *callStmt) exec(s *state) (ctl, error) {
	s.line = st.line
	m := &macroVal{def: st.fn, act: s.act}
	for _, p := range st.fn.params {
		m.params = append(m.params, p.name)
	}
	if st.call == nil {
		v, err := m.call(s, &args{})
		if err != nil {
			return ctlNext, err
		}
		return ctlNext, s.print(v)
	}
	v, err := st.call.evalWith(s, m)
	if err != nil {
		return ctlNext, err
	}
	return ctlNext, s.print(v)
}

func (st *forStmt) exec(s *state) (ctl, error) {
	s.line = st.line
	over, err := st.iter.eval(s)
	if err != nil {
		return ctlNext, err
	}
	if !st.recursive {
		return st.run(s, over, 0)
	}
	text, err := st.recurse(s, s.act, over, 0)
	if err != nil {
		return ctlNext, err
	}
	return ctlNext, s.write(text)
}

// recurse renders a recursive loop over the given items, in an activation of
// its own below parent.
func (st *forStmt) recurse(s *state, parent *activation, over Value, depth int) (string, error) {
	leave, err := s.call(parent, st.slots)
	if err != nil {
		return "", err
	}
	defer leave()
	text, _, err := s.capture(func() (ctl, error) { return st.run(s, over, depth) })
	return text, err
}

// call switches to a new activation; the returned function switches back.
func (s *state) call(parent *activation, slots int) (func(), error) {
	if s.calls >= maxCalls {
		return nil, limitf("calls nested deeper than %d", maxCalls)
	}
	if err := s.step(2 + slots/8); err != nil {
		return nil, err
	}
	saved := s.act
	s.calls++
	s.act = &activation{slots: make([]Value, slots), parent: parent}
	return func() { s.act = saved; s.calls-- }, nil
}

func (st *forStmt) run(s *state, over Value, depth int) (ctl, error) {
	if st.test != nil {
		filtered, err := st.filtered(s, over)
		if err != nil {
			return ctlNext, err
		}
		over = filtered
	}
	it, err := s.iter(over)
	if err != nil {
		return ctlNext, err
	}
	var loop *loopVal
	if st.extended {
		loop = newLoop(it, over, depth)
		if st.recursive {
			loop.stmt, loop.act = st, s.act.parent
		}
		it = loop
	}
	finished, c, err := st.turns(s, it, loop)
	if err != nil || c != ctlNext {
		return c, err
	}
	if len(st.els) > 0 && !finished {
		s.enter(st.elsInit)
		return s.exec(st.els)
	}
	return ctlNext, nil
}

// turns runs the body for each item. finished tells that some turn reached the
// end of the body: jinja takes the else branch otherwise, even when every turn
// was cut short.
func (st *forStmt) turns(s *state, it iterator, loop *loopVal) (finished bool, c ctl, err error) {
	for {
		v, err := it.next(s)
		if err != nil || v == nil {
			return finished, ctlNext, err
		}
		if err := s.step(1); err != nil {
			return finished, ctlNext, err
		}
		if err := s.assign(st.target, v); err != nil {
			return finished, ctlNext, err
		}
		if loop != nil {
			s.act.slots[st.loopName.idx] = loop
		}
		s.enter(st.init)
		c, err := s.exec(st.body)
		if err != nil {
			return finished, ctlNext, err
		}
		switch c {
		case ctlBreak:
			return finished, ctlNext, nil
		case ctlNext:
			finished = true
		}
	}
}

// filtered returns a generator of the items that pass the loop's condition.
func (st *forStmt) filtered(s *state, over Value) (Value, error) {
	it, err := s.iter(over)
	if err != nil {
		return nil, err
	}
	act := &activation{slots: make([]Value, st.testSlots), parent: s.act}
	started := false
	next := func(s *state) (Value, error) {
		saved := s.act
		s.act = act
		defer func() { s.act = saved }()
		if !started {
			started = true
			s.enter(st.testInit)
		}
		for {
			v, err := it.next(s)
			if err != nil || v == nil {
				return nil, err
			}
			if err := s.step(1); err != nil {
				return nil, err
			}
			if err := s.assign(st.testTarget, v); err != nil {
				return nil, err
			}
			ok, err := st.test.eval(s)
			if err != nil {
				return nil, err
			}
			if truth(ok) {
				return v, nil
			}
		}
	}
	return &iterVal{next: next}, nil
}
