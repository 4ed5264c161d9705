package chattemplate

import (
	"fmt"
	"strings"
)

const (
	// maxNesting bounds the depth of the syntax tree. CPython cannot compile
	// what jinja makes of more than about 200 levels.
	maxNesting = 200
	// maxSource bounds the size of a template in bytes.
	maxSource = 1 << 20
)

// parser turns tokens into a syntax tree with the grammar of jinja2 3.1.
type parser struct {
	toks  []token
	pos   int
	depth int
	// loops counts the loops around a statement within its function; break and
	// continue need one.
	loops int
	// soft tells that the code is conditional, where unknown filters and tests
	// fail only when they are reached.
	soft int
	// unknown are filters and tests that nobody knows, met in code that is not
	// conditional so far: `a if b` shows its condition last.
	unknown []error
}

func (p *parser) cur() *token { return &p.toks[p.pos] }

func (p *parser) look() *token {
	return &p.toks[min(p.pos+1, len(p.toks)-1)]
}

func (p *parser) next() token {
	t := p.toks[p.pos]
	if p.pos < len(p.toks)-1 {
		p.pos++
	}
	return t
}

func (p *parser) failAt(line int, format string, a ...any) error {
	return &SyntaxError{Line: line, Msg: fmt.Sprintf(format, a...)}
}

func (p *parser) fail(format string, a ...any) error {
	return p.failAt(p.cur().line, format, a...)
}

func (p *parser) isOp(op string) bool   { t := p.cur(); return t.kind == tOp && t.str == op }
func (p *parser) isName(n string) bool  { t := p.cur(); return t.kind == tName && t.str == n }
func (p *parser) skipOp(op string) bool { return p.skipIf(p.isOp(op)) }
func (p *parser) skipName(n string) bool {
	return p.skipIf(p.isName(n))
}

func (p *parser) skipIf(ok bool) bool {
	if ok {
		p.next()
	}
	return ok
}

func (p *parser) expectOp(op string) error {
	if !p.skipOp(op) {
		return p.fail("expected token '%s', got '%s'", op, p.cur().describe())
	}
	return nil
}

func (p *parser) expectKind(k tokKind, what string) (token, error) {
	if p.cur().kind != k {
		return token{}, p.fail("expected token '%s', got '%s'", what, p.cur().describe())
	}
	return p.next(), nil
}

func (p *parser) expectName() (token, error) { return p.expectKind(tName, "name") }

// enter guards recursion; pair it with p.depth--.
func (p *parser) enter() error {
	p.depth++
	if p.depth > maxNesting {
		return p.fail("nested deeper than %d", maxNesting)
	}
	return nil
}

// block parses statements up to one of the given end tags, whose name is the
// current token on return. With no end tags it parses to the end of input.
func (p *parser) block(ends ...string) ([]stmt, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var body []stmt
	var out *outputStmt
	for {
		switch t := p.cur(); t.kind {
		case tEOF:
			if len(ends) > 0 {
				return nil, p.fail("Unexpected end of template. Jinja was looking for the following tags: '%s'.", strings.Join(ends, "' or '"))
			}
			return body, nil
		case tData, tVarBegin:
			if out == nil {
				out = &outputStmt{}
				body = append(body, out)
			}
			if err := p.outputPart(out); err != nil {
				return nil, err
			}
		default:
			out = nil
			p.next()
			for _, e := range ends {
				if p.isName(e) {
					return body, nil
				}
			}
			st, err := p.statement(ends)
			if err != nil {
				return nil, err
			}
			body = append(body, st)
			if _, err := p.expectKind(tBlockEnd, "end of statement block"); err != nil {
				return nil, err
			}
		}
	}
}

func (p *parser) outputPart(out *outputStmt) error {
	t := p.next()
	if t.kind == tData {
		out.parts = append(out.parts, outPart{text: t.str, line: t.line})
		return nil
	}
	x, err := p.tuple(tupleOpts{condExpr: true})
	if err != nil {
		return err
	}
	out.parts = append(out.parts, outPart{x: x, line: t.line})
	_, err = p.expectKind(tVarEnd, "end of print statement")
	return err
}

// body parses the inside of a tag: an optional colon, the tag's end, then
// statements up to one of ends, whose name it consumes and returns.
func (p *parser) body(ends ...string) ([]stmt, string, error) {
	p.skipOp(":")
	if _, err := p.expectKind(tBlockEnd, "end of statement block"); err != nil {
		return nil, "", err
	}
	b, err := p.block(ends...)
	if err != nil {
		return nil, "", err
	}
	return b, p.next().str, nil
}

// refused are tags of jinja that need other templates or change escaping.
var refused = map[string]string{
	"include": "loads another template", "import": "loads another template",
	"from": "loads another template", "extends": "loads another template",
	"block": "belongs to template inheritance", "autoescape": "changes HTML escaping",
}

func (p *parser) statement(ends []string) (stmt, error) {
	t := p.cur()
	if t.kind != tName {
		return nil, p.fail("tag name expected")
	}
	if why := refused[t.str]; why != "" {
		return nil, p.fail("tag '%s' is not supported: it %s", t.str, why)
	}
	switch t.str {
	case "for":
		return p.forStmt()
	case "if":
		return p.ifStmt()
	case "set":
		return p.setStmt()
	case "macro":
		return p.macroStmt()
	case "call":
		return p.callStmt()
	case "generation":
		return p.generationStmt()
	case "filter":
		return p.filterStmt()
	case "with":
		return p.withStmt()
	case "print":
		return p.printStmt()
	case "break", "continue":
		return p.loopCtl()
	}
	msg := fmt.Sprintf("Encountered unknown tag '%s'.", t.str)
	if len(ends) > 0 {
		msg += fmt.Sprintf(" Jinja was looking for the following tags: '%s'.", strings.Join(ends, "' or '"))
	}
	return nil, p.fail("%s", msg)
}

func (p *parser) loopCtl() (stmt, error) {
	t := p.next()
	if p.loops == 0 {
		return nil, p.failAt(t.line, "'%s' outside loop", t.str)
	}
	if t.str == "break" {
		return loopCtl{ctlBreak}, nil
	}
	return loopCtl{ctlContinue}, nil
}

func (p *parser) printStmt() (stmt, error) {
	line := p.next().line
	out := &outputStmt{}
	for p.cur().kind != tBlockEnd {
		if len(out.parts) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		x, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		out.parts = append(out.parts, outPart{x: x, line: line})
	}
	return out, nil
}

func (p *parser) forStmt() (st stmt, err error) {
	f := &forStmt{line: p.next().line}
	if f.target, err = p.target("in"); err != nil {
		return nil, err
	}
	if !p.skipName("in") {
		return nil, p.fail("expected token 'in', got '%s'", p.cur().describe())
	}
	if f.iter, err = p.tuple(tupleOpts{end: "recursive"}); err != nil {
		return nil, err
	}
	if p.skipName("if") {
		if f.test, err = p.expression(true); err != nil {
			return nil, err
		}
	}
	f.recursive = p.skipName("recursive")
	soft := p.soft
	p.soft = 0 // a loop body is a frame of its own
	p.loops++
	var end string
	f.body, end, err = p.body("endfor", "else")
	p.loops--
	if err == nil && end == "else" {
		// A recursive loop is a function of its own, its else part too.
		loops := p.loops
		if f.recursive {
			p.loops = 0
		}
		f.els, _, err = p.body("endfor")
		p.loops = loops
	}
	p.soft = soft
	return f, err
}

func (p *parser) ifStmt() (stmt, error) {
	st := &ifStmt{line: p.next().line}
	p.soft++
	defer func() { p.soft-- }()
	for {
		test, err := p.tuple(tupleOpts{})
		if err != nil {
			return nil, err
		}
		body, end, err := p.body("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		st.tests, st.body = append(st.tests, test), append(st.body, body)
		switch end {
		case "else":
			st.els, _, err = p.body("endif")
			return st, err
		case "endif":
			return st, nil
		}
	}
}

func (p *parser) setStmt() (stmt, error) {
	line := p.next().line
	t, err := p.target("")
	if err != nil {
		return nil, err
	}
	if p.skipOp("=") {
		v, err := p.tuple(tupleOpts{condExpr: true})
		return &setStmt{line: line, target: t, val: v}, err
	}
	st := &setBlockStmt{line: line, target: t}
	if st.filter, err = p.filters(nil, false); err != nil {
		return nil, err
	}
	st.body, err = p.inner("endset")
	return st, err
}

// inner parses the body of a block that has its own frame in the same function.
func (p *parser) inner(end string) ([]stmt, error) {
	soft := p.soft
	p.soft = 0
	b, _, err := p.body(end)
	p.soft = soft
	return b, err
}

// function parses the body of a block that jinja makes a function of: loops
// around it do not count.
func (p *parser) function(end string) ([]stmt, error) {
	loops := p.loops
	p.loops = 0
	b, err := p.inner(end)
	p.loops = loops
	return b, err
}

func (p *parser) filterStmt() (stmt, error) {
	st := &filterStmt{line: p.next().line}
	var err error
	if st.filter, err = p.filters(nil, true); err != nil {
		return nil, err
	}
	st.body, err = p.inner("endfilter")
	return st, err
}

func (p *parser) withStmt() (stmt, error) {
	st := &withStmt{line: p.next().line}
	for p.cur().kind != tBlockEnd {
		if len(st.targets) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		// The tuple form would swallow the comma, so only names stand here,
		// or a tuple in parentheses.
		t, err := p.target("")
		if err != nil {
			return nil, err
		}
		if t.ns != nil {
			return nil, p.fail("can't assign to a namespace attribute here")
		}
		if err := p.expectOp("="); err != nil {
			return nil, err
		}
		v, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		st.targets, st.vals = append(st.targets, t), append(st.vals, v)
	}
	var err error
	st.body, err = p.inner("endwith")
	return st, err
}

func (p *parser) macroStmt() (stmt, error) {
	line := p.next().line
	name, err := p.assignName()
	if err != nil {
		return nil, err
	}
	def := &macroDef{name: name.name}
	if err := p.signature(def); err != nil {
		return nil, err
	}
	def.body, err = p.function("endmacro")
	return &macroStmt{line: line, name: name, fn: def}, err
}

func (p *parser) callStmt() (stmt, error) {
	st := &callStmt{line: p.next().line, fn: &macroDef{name: "caller"}}
	if p.isOp("(") {
		if err := p.signature(st.fn); err != nil {
			return nil, err
		}
	}
	x, err := p.expression(true)
	if err != nil {
		return nil, err
	}
	call, ok := x.(*callExpr)
	if !ok {
		return nil, p.failAt(st.line, "expected call")
	}
	st.call = call
	st.fn.body, err = p.function("endcall")
	return st, err
}

func (p *parser) generationStmt() (stmt, error) {
	st := &callStmt{line: p.next().line, fn: &macroDef{name: "caller"}}
	var err error
	st.fn.body, err = p.function("endgeneration")
	return st, err
}

func (p *parser) signature(def *macroDef) error {
	if err := p.expectOp("("); err != nil {
		return err
	}
	for !p.isOp(")") {
		if len(def.params) > 0 {
			if err := p.expectOp(","); err != nil {
				return err
			}
		}
		n, err := p.assignName()
		if err != nil {
			return err
		}
		for _, o := range def.params {
			if o.name == n.name {
				return p.fail("duplicate argument '%s'", n.name)
			}
		}
		if p.skipOp("=") {
			d, err := p.expression(true)
			if err != nil {
				return err
			}
			def.defaults = append(def.defaults, d)
		} else if len(def.defaults) > 0 {
			return p.fail("non-default argument follows default argument")
		}
		def.params = append(def.params, n)
	}
	return p.expectOp(")")
}

func isLiteralName(n string) bool {
	switch n {
	case "true", "false", "none", "True", "False", "None":
		return true
	}
	return false
}

// assignName parses one plain name to assign to.
func (p *parser) assignName() (*nameExpr, error) {
	t, err := p.expectName()
	if err != nil {
		return nil, err
	}
	if isLiteralName(t.str) {
		return nil, p.failAt(t.line, "can't assign to 'name'")
	}
	return &nameExpr{name: t.str}, nil
}

// target parses what stands left of `=` or, with end set, of that name.
func (p *parser) target(end string) (*target, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var parts []*target
	tuple := false
	for {
		if len(parts) > 0 {
			if !p.skipOp(",") {
				break
			}
			tuple = true
		}
		if p.tupleEnd(end) {
			break
		}
		t, err := p.onePart(end == "")
		if err != nil {
			return nil, err
		}
		parts = append(parts, t)
	}
	switch {
	case len(parts) == 0:
		return nil, p.fail("Expected an expression, got '%s'", p.cur().describe())
	case len(parts) == 1 && !tuple:
		return parts[0], nil
	}
	return &target{tuple: parts}, nil
}

func (p *parser) onePart(namespace bool) (*target, error) {
	if p.skipOp("(") {
		t, err := p.target(")")
		if err != nil {
			return nil, err
		}
		return t, p.expectOp(")")
	}
	if p.cur().kind != tName {
		return nil, p.fail("can't assign to '%s'", p.cur().describe())
	}
	n, err := p.assignName()
	if err != nil {
		return nil, err
	}
	if namespace && p.skipOp(".") {
		a, err := p.expectName()
		return &target{ns: n, attr: a.str}, err
	}
	return &target{name: n}, nil
}

// noteUnknown remembers a filter or test that is not known.
func (p *parser) noteUnknown(line int, kind, name string) {
	if p.soft == 0 {
		p.unknown = append(p.unknown, p.failAt(line, "No %s named '%s'.", kind, name))
	}
}

// parse reads a whole template.
func parse(toks []token) ([]stmt, error) {
	p := &parser{toks: toks}
	body, err := p.block()
	if err == nil && len(p.unknown) > 0 {
		err = p.unknown[0]
	}
	return body, err
}
