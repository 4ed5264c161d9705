package chattemplate

// Names are resolved once, after parsing, with the rules of jinja2's compiler
// rather than by looking through scopes at run time, because templates depend
// on the difference: a name that a frame assigns anywhere is that frame's, and
// begins as a copy of the outer one.
//
// A frame is the body of a loop, macro, with, set, filter or call block. Frames
// of one function (the template, a macro, a call block, a recursive loop, a
// loop's condition) share an activation record at run time; each name of a
// frame has a slot there. What a slot holds when its frame is entered is its
// load.

type loadKind uint8

const (
	loadParam     loadKind = iota // set by whoever enters the frame
	loadUndefined                 // nothing yet
	loadAlias                     // a copy of an outer frame's slot
	loadResolve                   // a variable of the render or a global
)

type slotLoad struct {
	slot int
	kind loadKind
	from slotRef // of loadAlias
	name string  // of loadResolve
}

// slotRef names a slot of the activation `up` functions further out.
type slotRef struct{ up, slot int }

// frameInit is what happens to a frame's slots on entry.
type frameInit []slotLoad

// function counts the slots of one activation record.
type function struct {
	parent *function
	slots  int
}

// symbols are the names known in a frame. Branches of an `if` work on copies
// that share own, so that a name has one slot in its frame.
type symbols struct {
	parent *symbols
	fn     *function
	own    map[string]int // every slot of the frame
	refs   map[string]bool
	loads  map[string]slotLoad
	stores map[string]bool
}

func newSymbols(parent *symbols, fn *function) *symbols {
	return &symbols{
		parent: parent, fn: fn, own: map[string]int{},
		refs: map[string]bool{}, loads: map[string]slotLoad{}, stores: map[string]bool{},
	}
}

func (s *symbols) copy() *symbols {
	c := &symbols{
		parent: s.parent, fn: s.fn, own: s.own,
		refs:   make(map[string]bool, len(s.refs)),
		loads:  make(map[string]slotLoad, len(s.loads)),
		stores: make(map[string]bool, len(s.stores)),
	}
	merge(c.refs, s.refs)
	merge(c.loads, s.loads)
	merge(c.stores, s.stores)
	return c
}

func merge[V any](dst, src map[string]V) {
	for k, v := range src {
		dst[k] = v
	}
}

// find returns where name lives, seen from function fn.
func (s *symbols) find(name string, fn *function) (slotRef, bool) {
	for f := s; f != nil; f = f.parent {
		if !f.refs[name] {
			continue
		}
		up := 0
		for g := fn; g != f.fn; g = g.parent {
			up++
		}
		return slotRef{up, f.own[name]}, true
	}
	return slotRef{}, false
}

func (s *symbols) define(name string, l slotLoad) {
	slot, ok := s.own[name]
	if !ok {
		slot = s.fn.slots
		s.fn.slots++
		s.own[name] = slot
	}
	l.slot, l.name = slot, name
	s.refs[name] = true
	s.loads[name] = l
}

func (s *symbols) load(name string) {
	if _, ok := s.find(name, s.fn); !ok {
		s.define(name, slotLoad{kind: loadResolve})
	}
}

func (s *symbols) param(name string) {
	s.stores[name] = true
	s.define(name, slotLoad{kind: loadParam})
}

func (s *symbols) store(name string) {
	s.stores[name] = true
	if s.refs[name] {
		return
	}
	s.define(name, s.outerLoad(name, loadUndefined))
}

// outerLoad starts name as a copy of the outer frames' slot, if there is one.
func (s *symbols) outerLoad(name string, otherwise loadKind) slotLoad {
	if s.parent != nil {
		if from, ok := s.parent.find(name, s.fn); ok {
			return slotLoad{kind: loadAlias, from: from}
		}
	}
	return slotLoad{kind: otherwise}
}

// mergeBranches joins what the branches of an `if` did. A name that only some
// branches assign keeps its outer value, or the render's variable.
func (s *symbols) mergeBranches(branches []*symbols) {
	added := map[string]bool{}
	for _, b := range branches {
		for name := range b.stores {
			if !s.stores[name] {
				added[name] = true
			}
		}
	}
	for _, b := range branches {
		merge(s.refs, b.refs)
		merge(s.loads, b.loads)
		merge(s.stores, b.stores)
	}
	for name := range added {
		s.define(name, s.outerLoad(name, loadResolve))
	}
}

func (s *symbols) init() frameInit {
	var out frameInit
	for _, l := range s.loads {
		if l.kind != loadParam {
			out = append(out, l)
		}
	}
	return out
}

// bind sets the slot of a name that a symbols pass has seen.
func (s *symbols) bind(n *nameExpr, fn *function) {
	ref, ok := s.find(n.name, fn)
	if !ok {
		// Only the arguments of a set block's filter are not visited before;
		// they see what the frame sees.
		s.load(n.name)
		ref, _ = s.find(n.name, fn)
	}
	n.up, n.idx = ref.up, ref.slot
}

// visit declares the names that a statement uses in this frame, in the order
// of jinja's compiler. Inner frames are not entered.
func (s *symbols) visit(body []stmt) {
	for _, st := range body {
		switch st := st.(type) {
		case *outputStmt:
			for _, p := range st.parts {
				s.visitExpr(p.x)
			}
		case *ifStmt:
			s.visitIf(st)
		case *forStmt:
			s.visitExpr(st.iter)
		case *setStmt:
			s.visitExpr(st.val)
			s.visitTarget(st.target, false)
		case *setBlockStmt:
			s.visitTarget(st.target, false)
		case *filterStmt:
			s.visitExpr(st.filter)
		case *withStmt:
			for _, v := range st.vals {
				s.visitExpr(v)
			}
		case *macroStmt:
			s.store(st.name.name)
		case *callStmt:
			if st.call != nil {
				s.visitExpr(st.call)
			}
		}
	}
}

func (s *symbols) visitExpr(x expr) {
	walkExpr(x, func(n *nameExpr) { s.load(n.name) })
}

func (s *symbols) visitTarget(t *target, param bool) {
	switch {
	case t.ns != nil:
		s.load(t.ns.name)
	case t.name != nil && param:
		s.param(t.name.name)
	case t.name != nil:
		s.store(t.name.name)
	}
	for _, p := range t.tuple {
		s.visitTarget(p, param)
	}
}

// visitIf treats the branches of elif as jinja does: each is an `if` of its
// own next to the first branch and the else.
func (s *symbols) visitIf(st *ifStmt) {
	s.visitExpr(st.tests[0])
	branch := func(f func(*symbols)) *symbols {
		c := s.copy()
		f(c)
		return c
	}
	branches := []*symbols{
		branch(func(c *symbols) { c.visit(st.body[0]) }),
		branch(func(c *symbols) {
			for i, test := range st.tests[1:] {
				c.visitExpr(test)
				inner := c.copy()
				inner.visit(st.body[i+1])
				c.mergeBranches([]*symbols{inner})
			}
		}),
		branch(func(c *symbols) { c.visit(st.els) }),
	}
	s.mergeBranches(branches)
}

// walkExpr calls f for every name that x reads, in source order.
func walkExpr(x expr, f func(*nameExpr)) {
	switch x := x.(type) {
	case nil, *constExpr:
	case *nameExpr:
		f(x)
	default:
		children(x, func(c expr) { walkExpr(c, f) })
	}
}

func children(x expr, f func(expr)) {
	opt := func(es ...expr) {
		for _, e := range es {
			if e != nil {
				f(e)
			}
		}
	}
	switch x := x.(type) {
	case *listExpr:
		opt(x.items...)
	case *dictExpr:
		for i := range x.keys {
			opt(x.keys[i], x.vals[i])
		}
	case *attrExpr:
		f(x.obj)
	case *itemExpr:
		opt(x.obj, x.key)
	case *sliceExpr:
		opt(x.obj, x.lo, x.hi, x.step)
	case *callExpr:
		f(x.fn)
		x.args.each(f)
	case *filterExpr:
		opt(x.obj)
		x.args.each(f)
	case *testExpr:
		f(x.obj)
		x.args.each(f)
	case *negExpr:
		f(x.x)
	case *notExpr:
		f(x.x)
	case *binExpr:
		opt(x.l, x.r)
	case *concatExpr:
		opt(x.parts...)
	case *compareExpr:
		f(x.first)
		opt(x.rest...)
	case *logicExpr:
		opt(x.l, x.r)
	case *condExpr:
		opt(x.test, x.then, x.els)
	}
}
