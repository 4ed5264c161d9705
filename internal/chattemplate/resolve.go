package chattemplate

// resolver binds every name of a template to its slot. See scope.go.
type resolver struct{ err error }

func (r *resolver) block(body []stmt, sym *symbols) {
	for _, st := range body {
		r.stmt(st, sym)
	}
}

func (r *resolver) expr(x expr, sym *symbols) {
	walkExpr(x, func(n *nameExpr) { sym.bind(n, sym.fn) })
}

func (r *resolver) target(t *target, sym *symbols, fn *function) {
	switch {
	case t.ns != nil:
		sym.bind(t.ns, fn)
	case t.name != nil:
		sym.bind(t.name, fn)
	}
	for _, p := range t.tuple {
		r.target(p, sym, fn)
	}
}

func (r *resolver) stmt(st stmt, sym *symbols) {
	switch st := st.(type) {
	case *outputStmt:
		for _, p := range st.parts {
			r.expr(p.x, sym)
		}
	case *ifStmt:
		for i, t := range st.tests {
			r.expr(t, sym)
			r.block(st.body[i], sym)
		}
		r.block(st.els, sym)
	case *forStmt:
		r.forStmt(st, sym)
	case *setStmt:
		r.expr(st.val, sym)
		r.target(st.target, sym, sym.fn)
	case *setBlockStmt:
		r.target(st.target, sym, sym.fn)
		in := newSymbols(sym, sym.fn)
		in.visit(st.body)
		r.block(st.body, in)
		r.expr(st.filter, in)
		st.init = in.init()
	case *filterStmt:
		in := newSymbols(sym, sym.fn)
		in.visitExpr(st.filter)
		in.visit(st.body)
		r.block(st.body, in)
		r.expr(st.filter, in)
		st.init = in.init()
	case *withStmt:
		r.withStmt(st, sym)
	case *macroStmt:
		r.target(&target{name: st.name}, sym, sym.fn)
		for _, p := range st.fn.params {
			st.params = append(st.params, p.name)
		}
		r.macro(st.fn, sym, st.line)
	case *callStmt:
		if st.call != nil {
			r.expr(st.call, sym)
		}
		r.macro(st.fn, sym, st.line)
	}
}

func (r *resolver) withStmt(st *withStmt, sym *symbols) {
	in := newSymbols(sym, sym.fn)
	for _, t := range st.targets {
		in.visitTarget(t, true)
	}
	in.visit(st.body)
	for i, t := range st.targets {
		r.target(t, in, in.fn)
		r.expr(st.vals[i], sym)
	}
	r.block(st.body, in)
	st.init = in.init()
}

func (r *resolver) forStmt(st *forStmt, sym *symbols) {
	st.extended = st.recursive || undeclared(st.body, "loop")
	if storesLoop(st) && r.err == nil {
		r.err = &SyntaxError{Line: st.line, Msg: "Can't assign to special loop variable in for-loop target"}
	}
	r.expr(st.iter, sym)
	fn := sym.fn
	if st.recursive {
		fn = &function{parent: sym.fn}
	}
	in := newSymbols(sym, fn)
	if st.extended {
		in.param("loop")
		st.loopName = &nameExpr{name: "loop"}
	}
	in.visitTarget(st.target, true)
	in.visit(st.body)
	if st.test != nil {
		r.loopTest(st, sym, fn)
	}
	r.target(st.target, in, fn)
	if st.extended {
		in.bind(st.loopName, fn)
	}
	r.block(st.body, in)
	st.init = in.init()
	els := newSymbols(sym, fn)
	els.visit(st.els)
	r.block(st.els, els)
	st.elsInit = els.init()
	st.slots = fn.slots
}

// loopTest resolves the condition of a loop, a function of its own over the
// items, called from function fn.
func (r *resolver) loopTest(st *forStmt, sym *symbols, caller *function) {
	fn := &function{parent: caller}
	in := newSymbols(sym, fn)
	in.visitTarget(st.target, true)
	in.visitExpr(st.test)
	st.testTarget = copyTarget(st.target)
	r.target(st.testTarget, in, fn)
	r.expr(st.test, in)
	st.testInit = in.init()
	st.testSlots = fn.slots
}

func copyTarget(t *target) *target {
	c := &target{attr: t.attr}
	if t.name != nil {
		c.name = &nameExpr{name: t.name.name}
	}
	if t.ns != nil {
		c.ns = &nameExpr{name: t.ns.name}
	}
	for _, p := range t.tuple {
		c.tuple = append(c.tuple, copyTarget(p))
	}
	return c
}

func (r *resolver) macro(def *macroDef, sym *symbols, line int) {
	fn := &function{parent: sym.fn}
	in := newSymbols(sym, fn)
	for _, p := range def.params {
		in.param(p.name)
	}
	for i, p := range def.params {
		if p.name != "caller" {
			continue
		}
		def.explicitCaller = true
		if undeclared(def.body, "caller") && i < len(def.params)-len(def.defaults) && r.err == nil {
			r.err = &SyntaxError{Line: line, Msg: `When defining macros or call blocks the special "caller" argument must be omitted or be given a default.`}
		}
	}
	special := func(name string) *nameExpr {
		if in.refs[name] || !undeclared(def.body, name) {
			return nil
		}
		in.param(name)
		n := &nameExpr{name: name}
		in.bind(n, fn)
		return n
	}
	def.caller, def.kwargs, def.varargs = special("caller"), special("kwargs"), special("varargs")
	for _, d := range def.defaults {
		in.visitExpr(d)
	}
	in.visit(def.body)
	for _, p := range def.params {
		in.bind(p, fn)
	}
	for _, d := range def.defaults {
		r.expr(d, in)
	}
	r.block(def.body, in)
	def.init = in.init()
	def.slots = fn.slots
}

// undeclared reports whether body reads name before assigning it, at any depth.
func undeclared(body []stmt, name string) bool {
	found, declared := false, false
	walkNames(body, func(n string, store bool) {
		if n != name {
			return
		}
		if store {
			declared = true
		} else if !declared {
			found = true
		}
	})
	return found
}

// storesLoop reports whether anything in a loop assigns the name loop.
func storesLoop(st *forStmt) bool {
	found := false
	walkNames([]stmt{st}, func(n string, store bool) {
		found = found || store && n == "loop"
	})
	return found
}

// walkNames calls f for every name in body, at any depth, in the field order of
// jinja's syntax tree.
func walkNames(body []stmt, f func(name string, store bool)) {
	x := func(e expr) { walkExpr(e, func(n *nameExpr) { f(n.name, false) }) }
	for _, st := range body {
		switch st := st.(type) {
		case *outputStmt:
			for _, p := range st.parts {
				x(p.x)
			}
		case *ifStmt:
			for i, t := range st.tests {
				x(t)
				walkNames(st.body[i], f)
			}
			walkNames(st.els, f)
		case *forStmt:
			walkTarget(st.target, f)
			x(st.iter)
			walkNames(st.body, f)
			walkNames(st.els, f)
			x(st.test)
		case *setStmt:
			walkTarget(st.target, f)
			x(st.val)
		case *setBlockStmt:
			walkTarget(st.target, f)
			x(st.filter)
			walkNames(st.body, f)
		case *filterStmt:
			walkNames(st.body, f)
			x(st.filter)
		case *withStmt:
			for _, v := range st.vals {
				x(v)
			}
			walkNames(st.body, f)
		case *macroStmt:
			walkMacro(st.fn, f)
		case *callStmt:
			if st.call != nil {
				x(st.call)
			}
			walkMacro(st.fn, f)
		}
	}
}

func walkMacro(def *macroDef, f func(string, bool)) {
	for _, d := range def.defaults {
		walkExpr(d, func(n *nameExpr) { f(n.name, false) })
	}
	walkNames(def.body, f)
}

func walkTarget(t *target, f func(string, bool)) {
	if t.name != nil {
		f(t.name.name, true)
	}
	for _, p := range t.tuple {
		walkTarget(p, f)
	}
}
