package chattemplate

func (p *parser) callArgs(a *callArgs) error {
	line := p.cur().line
	if err := p.expectOp("("); err != nil {
		return err
	}
	for first := true; !p.isOp(")"); first = false {
		if !first {
			if err := p.expectOp(","); err != nil {
				return err
			}
			if p.isOp(")") {
				break
			}
		}
		ok, err := p.oneArg(a)
		if err != nil {
			return err
		}
		if !ok {
			return p.failAt(line, "invalid syntax for function call expression")
		}
	}
	return p.expectOp(")")
}

// oneArg parses one argument; false means that it stands in a wrong place.
func (p *parser) oneArg(a *callArgs) (bool, error) {
	var err error
	switch {
	case p.isOp("*"):
		if a.star != nil || a.dblKws != nil {
			return false, nil
		}
		p.next()
		a.star, err = p.expression(true)
	case p.isOp("**"):
		if a.dblKws != nil {
			return false, nil
		}
		p.next()
		a.dblKws, err = p.expression(true)
	case p.cur().kind == tName && p.look().kind == tOp && p.look().str == "=":
		if a.dblKws != nil {
			return false, nil
		}
		name := p.next().str
		p.next()
		for _, k := range a.kw {
			if k.name == name {
				return false, p.fail("keyword argument repeated: %s", name)
			}
		}
		var v expr
		v, err = p.expression(true)
		a.kw = append(a.kw, kwExpr{name, v})
	default:
		if a.star != nil || a.dblKws != nil || len(a.kw) > 0 {
			return false, nil
		}
		var v expr
		v, err = p.expression(true)
		a.pos = append(a.pos, v)
	}
	return true, err
}

func (p *parser) filterOrTest(x expr) (expr, error) {
	var err error
	for n := 0; err == nil; n++ {
		if n > maxNesting {
			return nil, p.fail("more than %d filters in a row", maxNesting)
		}
		switch {
		case p.isOp("|"):
			x, err = p.filters(x, false)
		case p.isName("is"):
			x, err = p.test(x)
		case p.isOp("("):
			x, err = p.call(x)
		default:
			return x, nil
		}
	}
	return nil, err
}

func (p *parser) dottedName() (string, error) {
	t, err := p.expectName()
	if err != nil {
		return "", err
	}
	name := t.str
	for p.skipOp(".") {
		if t, err = p.expectName(); err != nil {
			return "", err
		}
		name += "." + t.str
	}
	return name, nil
}

// filters parses `|name(args)...`; inline means the first bar is left out.
func (p *parser) filters(x expr, inline bool) (expr, error) {
	for n := 0; inline || p.isOp("|"); n++ {
		if n > maxNesting {
			return nil, p.fail("more than %d filters in a row", maxNesting)
		}
		if !inline {
			p.next()
		}
		inline = false
		line := p.cur().line
		name, err := p.dottedName()
		if err != nil {
			return nil, err
		}
		f := &filterExpr{obj: x, name: name, fn: filterTable[name]}
		if f.fn == nil {
			p.noteUnknown(line, "filter", name)
		}
		if p.isOp("(") {
			if err := p.callArgs(&f.args); err != nil {
				return nil, err
			}
		}
		x = f
	}
	return x, nil
}

func (p *parser) test(x expr) (expr, error) {
	line := p.next().line
	negated := p.skipName("not")
	name, err := p.dottedName()
	if err != nil {
		return nil, err
	}
	t := &testExpr{obj: x, name: name, fn: testTable[name]}
	if t.fn == nil {
		p.noteUnknown(line, "test", name)
	}
	if err := p.testArgs(t); err != nil {
		return nil, err
	}
	if negated {
		return &notExpr{t}, nil
	}
	return t, nil
}

func (p *parser) testArgs(t *testExpr) error {
	c := p.cur()
	switch {
	case p.isOp("("):
		return p.callArgs(&t.args)
	case c.kind == tName && (c.str == "else" || c.str == "or" || c.str == "and"):
		return nil
	case p.isName("is"):
		return p.fail("You cannot chain multiple tests with is")
	case c.kind == tName, c.kind == tString, c.kind == tNumber, p.isOp("["), p.isOp("{"):
		x, err := p.primary()
		if err == nil {
			x, err = p.postfix(x)
		}
		t.args.pos = []expr{x}
		return err
	}
	return nil
}
