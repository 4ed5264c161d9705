package chattemplate

// iteratesContent looks for a loop over a message's content: over x.content or
// x['content'] of anything, filtered or sliced or not, or over a name that was
// set from one or that a macro was called with.
func iteratesContent(body []stmt) bool {
	f := &partsFinder{names: map[string]bool{}}
	// A name may be set after the macro that uses it is defined: twice over the
	// template finds those, too.
	f.block(body)
	f.block(body)
	return f.found
}

type partsFinder struct {
	names  map[string]bool // names that hold content
	macros map[string]*macroDef
	found  bool
}

// content reports whether x is a message's content.
func (f *partsFinder) content(x expr) bool {
	switch x := x.(type) {
	case *attrExpr:
		return x.name == "content"
	case *itemExpr:
		c, ok := x.key.(*constExpr)
		return ok && c.v == strVal("content")
	case *nameExpr:
		return f.names[x.name]
	case *filterExpr:
		return x.obj != nil && f.content(x.obj)
	case *sliceExpr:
		return x.obj != nil && f.content(x.obj)
	case *condExpr:
		return f.content(x.then) || x.els != nil && f.content(x.els)
	case *logicExpr:
		return f.content(x.l) || f.content(x.r)
	}
	return false
}

// calls notes the parameters of macros that are called with content.
func (f *partsFinder) calls(x expr) {
	if x == nil {
		return
	}
	if c, ok := x.(*callExpr); ok {
		if n, ok := c.fn.(*nameExpr); ok && f.macros[n.name] != nil {
			def := f.macros[n.name]
			for i, a := range c.args.pos {
				if i < len(def.params) && f.content(a) {
					f.names[def.params[i].name] = true
				}
			}
			for _, k := range c.args.kw {
				if f.content(k.val) {
					f.names[k.name] = true
				}
			}
		}
	}
	children(x, f.calls)
}

func (f *partsFinder) block(body []stmt) {
	for _, st := range body {
		switch st := st.(type) {
		case *outputStmt:
			for _, p := range st.parts {
				f.calls(p.x)
			}
		case *ifStmt:
			for _, b := range st.body {
				f.block(b)
			}
			f.block(st.els)
		case *forStmt:
			f.found = f.found || f.content(st.iter)
			f.block(st.body)
			f.block(st.els)
		case *setStmt:
			f.calls(st.val)
			if st.target.name != nil && f.content(st.val) {
				f.names[st.target.name.name] = true
			}
		case *setBlockStmt:
			f.block(st.body)
		case *filterStmt:
			f.block(st.body)
		case *withStmt:
			f.block(st.body)
		case *macroStmt:
			if f.macros == nil {
				f.macros = map[string]*macroDef{}
			}
			f.macros[st.fn.name] = st.fn
			f.block(st.fn.body)
		case *callStmt:
			f.block(st.fn.body)
		}
	}
}
