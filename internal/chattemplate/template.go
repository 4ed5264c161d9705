package chattemplate

import (
	"errors"
	"fmt"
	"time"
)

// Template is a parsed chat template. It is immutable and safe for concurrent
// use.
type Template struct {
	src        string
	body       []stmt
	init       frameInit
	slots      int
	wantsParts bool
}

// Options bound and parametrize one render. The zero value means defaults.
type Options struct {
	// Now is the clock of strftime_now; time.Now if nil. The zone is the one
	// that the returned time carries.
	Now func() time.Time
	// MaxOutput bounds the rendered text, and every string on the way, in
	// bytes; 16 MiB if zero.
	MaxOutput int
	// MaxSteps bounds the work: a statement, a call, a loop's turn or 16 bytes
	// of text made or searched are about one step each; 10 million if zero.
	MaxSteps int
}

const (
	defaultMaxOutput = 16 << 20
	defaultMaxSteps  = 10_000_000
	// maxCalls bounds the depth of macros and recursive loops.
	maxCalls = 200
)

// Parse reads the source of a template, at most 1 MiB. Errors are
// [*SyntaxError] and wrap [ErrSyntax].
func Parse(src string) (*Template, error) {
	if len(src) > maxSource {
		return nil, &SyntaxError{Line: 1, Msg: fmt.Sprintf("template of %d bytes, more than %d", len(src), maxSource)}
	}
	src = validUTF8(src)
	toks, err := lex(src)
	if err != nil {
		return nil, err
	}
	body, err := parse(toks)
	if err != nil {
		return nil, err
	}
	fn := &function{}
	sym := newSymbols(nil, fn)
	sym.visit(body)
	r := &resolver{}
	r.block(body, sym)
	if r.err != nil {
		return nil, r.err
	}
	return &Template{src: src, body: body, init: sym.init(), slots: fn.slots, wantsParts: iteratesContent(body)}, nil
}

// Render runs the template over vars, a map. Errors are [*RenderError], or wrap
// [ErrInput] if vars is no map; ErrRaised and ErrLimit can be told apart with
// errors.Is.
func (t *Template) Render(vars Value, o Options) (string, error) {
	d, ok := vars.(*dictVal)
	if !ok {
		if vars == nil {
			d = newDict(0)
		} else {
			return "", fmt.Errorf("%w: variables are a %s, not a map", ErrInput, vars.typeName())
		}
	}
	s := newState(d, o)
	s.act = &activation{slots: make([]Value, t.slots)}
	s.enter(t.init)
	if _, err := s.exec(t.body); err != nil {
		return "", s.renderError(err)
	}
	return string(s.out), nil
}

func (s *state) renderError(err error) error {
	cause := err
	switch {
	case errors.Is(err, ErrRaised):
		cause = ErrRaised
	case errors.Is(err, ErrLimit):
		cause = ErrLimit
	}
	return &RenderError{Line: s.line, Msg: err.Error(), err: cause}
}

// state is one render.
type state struct {
	vars *dictVal
	act  *activation
	out  []byte // of the innermost capture
	line int
	now  func() time.Time

	steps     int // left
	maxOutput int
	calls     int
}

// activation holds the slots of one call of a function; nil is a name without
// a value.
type activation struct {
	slots  []Value
	parent *activation
}

func newState(vars *dictVal, o Options) *state {
	s := &state{vars: vars, line: 1, now: o.Now, steps: o.MaxSteps, maxOutput: o.MaxOutput}
	if s.now == nil {
		s.now = time.Now
	}
	if s.steps <= 0 {
		s.steps = defaultMaxSteps
	}
	if s.maxOutput <= 0 {
		s.maxOutput = defaultMaxOutput
	}
	return s
}

// step accounts for n units of work.
func (s *state) step(n int) error {
	s.steps -= n
	if s.steps < 0 {
		return limitf("out of steps")
	}
	return nil
}

// text accounts for making or searching n bytes of text.
func (s *state) text(n int) error {
	if n > s.maxOutput {
		return limitf("text of %d bytes, more than %d", n, s.maxOutput)
	}
	return s.step(n/16 + 1)
}

// items accounts for making or searching n list items.
func (s *state) items(n int) error {
	if n > s.maxOutput/16 {
		return limitf("list of %d items, more than %d", n, s.maxOutput/16)
	}
	return s.step(n + 1)
}

func (s *state) write(t string) error {
	if len(s.out)+len(t) > s.maxOutput {
		return limitf("output of more than %d bytes", s.maxOutput)
	}
	s.out = append(s.out, t...)
	return s.step(len(t)/16 + 1)
}

func (s *state) enter(init frameInit) {
	for _, l := range init {
		var v Value
		switch l.kind {
		case loadAlias:
			v = s.outer(l.from.up).slots[l.from.slot]
		case loadResolve:
			v = s.resolve(l.name)
		}
		s.act.slots[l.slot] = v
	}
}

func (s *state) outer(up int) *activation {
	a := s.act
	for ; up > 0; up-- {
		a = a.parent
	}
	return a
}

// resolve looks a name up in the variables and then the globals; nil if
// neither has it.
func (s *state) resolve(name string) Value {
	if v, ok := s.vars.getStr(name); ok {
		return v
	}
	if f, ok := globals[name]; ok {
		return f
	}
	return nil
}

// capture runs f and returns what it wrote.
func (s *state) capture(f func() (ctl, error)) (string, ctl, error) {
	saved := s.out
	s.out = nil
	c, err := f()
	text := string(s.out)
	s.out = saved
	return text, c, err
}
