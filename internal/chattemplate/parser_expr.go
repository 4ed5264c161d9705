package chattemplate

import "strings"

type tupleOpts struct {
	condExpr bool   // allow `a if b else c` at the top
	parens   bool   // inside parentheses, where () is a tuple
	end      string // a name or bracket that ends the tuple besides the usual
}

func (p *parser) tupleEnd(end string) bool {
	t := p.cur()
	if t.kind == tVarEnd || t.kind == tBlockEnd || t.kind == tOp && t.str == ")" {
		return true
	}
	return end != "" && t.str == end && (t.kind == tName || t.kind == tOp)
}

// tuple parses one expression, or several with commas between as a tuple.
func (p *parser) tuple(o tupleOpts) (expr, error) {
	var items []expr
	isTuple := false
	for {
		if len(items) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		if p.tupleEnd(o.end) {
			break
		}
		x, err := p.expression(o.condExpr || o.parens)
		if err != nil {
			return nil, err
		}
		items = append(items, x)
		if !p.isOp(",") {
			break
		}
		isTuple = true
	}
	if !isTuple {
		if len(items) > 0 {
			return items[0], nil
		}
		if !o.parens {
			return nil, p.fail("Expected an expression, got '%s'", p.cur().describe())
		}
	}
	return &listExpr{items: items, tuple: true}, nil
}

func (p *parser) expression(condExpr bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	if condExpr {
		return p.cond()
	}
	return p.or()
}

func (p *parser) cond() (expr, error) {
	line, unknown := p.cur().line, len(p.unknown)
	x, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.isName("if") {
		// All parts of a conditional are conditional code, the first too.
		p.unknown = p.unknown[:unknown]
		p.soft++
		defer func() { p.soft-- }()
	}
	for n := 0; p.skipName("if"); n++ {
		if n > maxNesting {
			return nil, p.fail("nested deeper than %d", maxNesting)
		}
		c := &condExpr{then: x, line: line}
		if c.test, err = p.or(); err != nil {
			return nil, err
		}
		if p.skipName("else") {
			if c.els, err = p.expression(true); err != nil {
				return nil, err
			}
		}
		x, line = c, p.cur().line
	}
	return x, nil
}

// chain parses `operand (op operand)*`, left-associative.
func (p *parser) chain(operand func() (expr, error), isOp func() string, join func(op string, l, r expr) expr) (expr, error) {
	l, err := operand()
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		op := isOp()
		if op == "" {
			return l, nil
		}
		if n > maxNesting {
			return nil, p.fail("more than %d operators in a row", maxNesting)
		}
		p.next()
		r, err := operand()
		if err != nil {
			return nil, err
		}
		l = join(op, l, r)
	}
}

func (p *parser) nameOp(n string) func() string {
	return func() string {
		if p.isName(n) {
			return n
		}
		return ""
	}
}

func (p *parser) oneOf(ops ...string) func() string {
	return func() string {
		for _, op := range ops {
			if p.isOp(op) {
				return op
			}
		}
		return ""
	}
}

func (p *parser) or() (expr, error) {
	return p.chain(p.and, p.nameOp("or"), func(_ string, l, r expr) expr { return &logicExpr{true, l, r} })
}

func (p *parser) and() (expr, error) {
	return p.chain(p.not, p.nameOp("and"), func(_ string, l, r expr) expr { return &logicExpr{false, l, r} })
}

func (p *parser) not() (expr, error) {
	if !p.skipName("not") {
		return p.compare()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	x, err := p.not()
	return &notExpr{x}, err
}

func (p *parser) compareOp() string {
	t := p.cur()
	switch {
	case t.kind == tOp:
		switch t.str {
		case "==", "!=", "<", "<=", ">", ">=":
			p.next()
			return t.str
		}
	case p.skipName("in"):
		return "in"
	case p.isName("not") && p.look().kind == tName && p.look().str == "in":
		p.next()
		p.next()
		return "not in"
	}
	return ""
}

func (p *parser) compare() (expr, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	var c *compareExpr
	for {
		op := p.compareOp()
		if op == "" {
			break
		}
		r, err := p.sum()
		if err != nil {
			return nil, err
		}
		if c == nil {
			c = &compareExpr{first: first}
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, r)
	}
	if c == nil {
		return first, nil
	}
	return c, nil
}

func joinBin(op string, l, r expr) expr { return &binExpr{op, l, r} }

func (p *parser) sum() (expr, error) {
	return p.chain(p.concat, p.oneOf("+", "-"), joinBin)
}

func (p *parser) concat() (expr, error) {
	x, err := p.product()
	if err != nil || !p.isOp("~") {
		return x, err
	}
	c := &concatExpr{parts: []expr{x}}
	for p.skipOp("~") {
		if x, err = p.product(); err != nil {
			return nil, err
		}
		c.parts = append(c.parts, x)
	}
	return c, nil
}

func (p *parser) product() (expr, error) {
	return p.chain(p.power, p.oneOf("*", "/", "//", "%"), joinBin)
}

func (p *parser) power() (expr, error) {
	return p.chain(func() (expr, error) { return p.unary(true) }, p.oneOf("**"), joinBin)
}

func (p *parser) unary(withFilter bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var x expr
	var err error
	if p.isOp("-") || p.isOp("+") {
		plus := p.next().str == "+"
		x, err = p.unary(false)
		x = &negExpr{x, plus}
	} else {
		x, err = p.primary()
	}
	if err == nil {
		x, err = p.postfix(x)
	}
	if err == nil && withFilter {
		x, err = p.filterOrTest(x)
	}
	return x, err
}

func (p *parser) primary() (expr, error) {
	t := p.cur()
	switch t.kind {
	case tName:
		p.next()
		switch t.str {
		case "true", "True":
			return &constExpr{boolVal(true)}, nil
		case "false", "False":
			return &constExpr{boolVal(false)}, nil
		case "none", "None":
			return &constExpr{none}, nil
		}
		return &nameExpr{name: t.str}, nil
	case tString:
		var b strings.Builder
		for p.cur().kind == tString {
			b.WriteString(p.next().str)
		}
		return &constExpr{strVal(b.String())}, nil
	case tNumber:
		return &constExpr{p.next().val}, nil
	case tOp:
		switch t.str {
		case "(":
			p.next()
			x, err := p.tuple(tupleOpts{parens: true})
			if err != nil {
				return nil, err
			}
			return x, p.expectOp(")")
		case "[":
			return p.list()
		case "{":
			return p.dict()
		}
	}
	return nil, p.fail("unexpected '%s'", t.describe())
}

func (p *parser) list() (expr, error) {
	p.next()
	l := &listExpr{}
	for !p.isOp("]") {
		if len(l.items) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.isOp("]") {
				break
			}
		}
		x, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, x)
	}
	return l, p.expectOp("]")
}

func (p *parser) dict() (expr, error) {
	p.next()
	d := &dictExpr{}
	for !p.isOp("}") {
		if len(d.keys) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.isOp("}") {
				break
			}
		}
		k, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		if err := p.expectOp(":"); err != nil {
			return nil, err
		}
		v, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		d.keys, d.vals = append(d.keys, k), append(d.vals, v)
	}
	return d, p.expectOp("}")
}

func (p *parser) postfix(x expr) (expr, error) {
	var err error
	for n := 0; err == nil; n++ {
		if n > maxNesting {
			return nil, p.fail("more than %d accesses in a row", maxNesting)
		}
		switch {
		case p.isOp("."):
			x, err = p.attr(x)
		case p.isOp("["):
			x, err = p.subscript(x)
		case p.isOp("("):
			x, err = p.call(x)
		default:
			return x, nil
		}
	}
	return nil, err
}

func (p *parser) attr(x expr) (expr, error) {
	p.next()
	t := p.next()
	switch {
	case t.kind == tName:
		return &attrExpr{x, t.str}, nil
	case t.kind == tNumber && t.val.typeName() == "int":
		return &itemExpr{x, &constExpr{t.val}}, nil
	}
	return nil, p.failAt(t.line, "expected name or number")
}

func (p *parser) call(x expr) (expr, error) {
	c := &callExpr{fn: x}
	return c, p.callArgs(&c.args)
}

func (p *parser) subscript(x expr) (expr, error) {
	line := p.next().line
	var keys []expr
	for !p.isOp("]") {
		if len(keys) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		k, err := p.subscribed()
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if err := p.expectOp("]"); err != nil {
		return nil, err
	}
	if len(keys) != 1 {
		for _, k := range keys {
			if _, ok := k.(*sliceExpr); ok {
				return nil, p.failAt(line, "a slice cannot be part of a tuple subscript")
			}
		}
		return &itemExpr{x, &listExpr{items: keys, tuple: true}}, nil
	}
	if sl, ok := keys[0].(*sliceExpr); ok && sl.obj == nil {
		sl.obj = x
		return sl, nil
	}
	return &itemExpr{x, keys[0]}, nil
}

// subscribed parses one index or a slice, the latter still without its object.
func (p *parser) subscribed() (expr, error) {
	s := &sliceExpr{}
	var err error
	if !p.isOp(":") {
		if s.lo, err = p.expression(true); err != nil {
			return nil, err
		}
		if !p.isOp(":") {
			return s.lo, nil
		}
	}
	p.next()
	if !p.isOp(":") && !p.isOp("]") && !p.isOp(",") {
		if s.hi, err = p.expression(true); err != nil {
			return nil, err
		}
	}
	if p.skipOp(":") && !p.isOp("]") && !p.isOp(",") {
		if s.step, err = p.expression(true); err != nil {
			return nil, err
		}
	}
	return s, nil
}
