package chattemplate

// expr is an expression; eval runs it in the current activation.
type expr interface {
	eval(s *state) (Value, error)
}

// stmt is a statement; exec writes to the state's output.
type stmt interface {
	exec(s *state) (ctl, error)
}

// ctl tells how a statement ended.
type ctl uint8

const (
	ctlNext ctl = iota
	ctlBreak
	ctlContinue
)

type (
	constExpr struct{ v Value }
	// nameExpr reads or, as a target, writes a slot: idx of the activation
	// `up` functions further out (scope.go sets both).
	nameExpr struct {
		name string
		up   int
		idx  int
	}
	listExpr struct {
		items []expr
		tuple bool
	}
	dictExpr struct{ keys, vals []expr }
	attrExpr struct {
		obj  expr
		name string
	}
	itemExpr  struct{ obj, key expr }
	sliceExpr struct{ obj, lo, hi, step expr } // nil parts are absent
	callExpr  struct {
		fn   expr
		args callArgs
	}
	filterExpr struct {
		obj  expr // nil: the captured text of a filter or set block
		name string
		fn   filterFunc // nil: unknown, an error once it is reached
		args callArgs
	}
	testExpr struct {
		obj  expr
		name string
		fn   testFunc
		args callArgs
	}
	negExpr struct {
		x    expr
		plus bool
	}
	notExpr struct{ x expr }
	binExpr struct {
		op   string
		l, r expr
	}
	concatExpr  struct{ parts []expr }
	compareExpr struct {
		first expr
		ops   []string
		rest  []expr
	}
	// logicExpr is `and` or `or`; both yield one of their operands.
	logicExpr struct {
		or   bool
		l, r expr
	}
	condExpr struct {
		test, then, els expr // els may be nil
		line            int
	}
)

type kwExpr struct {
	name string
	val  expr
}

type callArgs struct {
	pos    []expr
	kw     []kwExpr
	star   expr // *args
	dblKws expr // **kwargs
}

// each calls f for every expression among the arguments.
func (a *callArgs) each(f func(expr)) {
	for _, e := range a.pos {
		f(e)
	}
	for _, k := range a.kw {
		f(k.val)
	}
	if a.star != nil {
		f(a.star)
	}
	if a.dblKws != nil {
		f(a.dblKws)
	}
}

// target is what an assignment writes to: exactly one field is set.
type target struct {
	name  *nameExpr
	ns    *nameExpr // with attr: an attribute of a namespace
	attr  string
	tuple []*target
}

type (
	// outPart is literal text, or an expression to print.
	outPart struct {
		text string
		x    expr
		line int
	}
	outputStmt struct{ parts []outPart }
	ifStmt     struct {
		line  int
		tests []expr // if, elif, ...
		body  [][]stmt
		els   []stmt
	}
	forStmt struct {
		line      int
		target    *target
		iter      expr
		test      expr
		recursive bool
		extended  bool // the body sees `loop`
		body, els []stmt

		init, elsInit, testInit frameInit
		loopName                *nameExpr // slot of `loop`
		testTarget              *target   // target as the test's function sees it
		testSlots, slots        int       // of the test's, the recursive body's function
	}
	setStmt struct {
		line   int
		target *target
		val    expr
	}
	setBlockStmt struct {
		line   int
		target *target
		filter expr // ends in a filterExpr without object; may be nil
		body   []stmt
		init   frameInit
	}
	filterStmt struct {
		line   int
		filter expr
		body   []stmt
		init   frameInit
	}
	withStmt struct {
		line    int
		targets []*target
		vals    []expr
		body    []stmt
		init    frameInit
	}
	macroStmt struct {
		line   int
		name   *nameExpr
		fn     *macroDef
		params []string
	}
	// callStmt is a call block; call is nil for a generation block, whose body
	// is printed as it is.
	callStmt struct {
		line int
		call *callExpr
		fn   *macroDef
	}
	loopCtl struct{ c ctl }
)

// macroDef is the function behind a macro or call block.
type macroDef struct {
	name     string
	params   []*nameExpr
	defaults []expr // of the last parameters
	body     []stmt

	caller, kwargs, varargs *nameExpr // slots, if the body uses them
	explicitCaller          bool
	init                    frameInit
	slots                   int
}
