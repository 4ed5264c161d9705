package tokenizer

import (
	"fmt"
	"math"
	"regexp/syntax"
	"unicode/utf8"
)

const (
	// maxRegexHold bounds the text, in bytes, held back for an expression that
	// is in the middle of a match (".*" always is). A match that began further
	// back is given up.
	maxRegexHold = 8 << 10
	// maxRegexProg bounds an expression: each code point of the text costs a
	// step for each instruction of its program.
	maxRegexProg = 4096
	maxRegexLen  = 4096
)

// stopRegex runs a regular expression over a stream, one code point at a time:
// Thompson's simulation, where each state remembers the earliest place its
// match could have begun.
type stopRegex struct {
	prog *syntax.Prog
	// now holds, by instruction, where the match in that state began; never
	// for states that are not active. It is the set before empty-width
	// instructions are followed, since those need to see the next code point.
	now, closed, next []int
	stack             []uint32
	prev              rune // -1 at the start of the text
}

const never = math.MaxInt

func newStopRegex(pattern string) (*stopRegex, error) {
	if len(pattern) > maxRegexLen {
		return nil, fmt.Errorf("%w: expression of %d bytes", ErrStop, len(pattern))
	}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStop, err)
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrStop, pattern, err)
	}
	n := len(prog.Inst)
	if n > maxRegexProg {
		return nil, fmt.Errorf("%w: %q: %d states", ErrStop, pattern, n)
	}
	s := &stopRegex{prog: prog, now: make([]int, n), closed: make([]int, n), next: make([]int, n), prev: -1}
	reset(s.now)
	return s, nil
}

func reset(states []int) {
	for i := range states {
		states[i] = never
	}
}

// step consumes the code point r at text offset at, which ends at end; r is -1
// at the end of the text. It reports the first match that ends at at (known
// only now, as for \b) or at end.
func (s *stopRegex) step(r rune, at, end int) (start, stop int, ok bool) {
	if start := s.close(syntax.EmptyOpContext(s.prev, r), at); start < at {
		return start, at, true
	}
	if r < 0 {
		return 0, 0, false
	}
	s.advance(r)
	s.prev = r
	// What follows is unknown: only assertions about the past may hold.
	if start := s.close(syntax.EmptyOpContext(r, r)&syntax.EmptyBeginLine, end); start < end {
		return start, end, true
	}
	return 0, 0, false
}

// close follows the instructions that consume nothing, from the active states
// and from a fresh attempt at offset at, and returns the earliest start of a
// match that is complete here.
func (s *stopRegex) close(holds syntax.EmptyOp, at int) (match int) {
	reset(s.closed)
	match = never
	for pc, start := range s.now {
		if start != never {
			match = min(match, s.follow(uint32(pc), start, holds))
		}
	}
	s.follow(uint32(s.prog.Start), at, holds) // an empty match counts for nothing
	return match
}

// follow adds pc and all it reaches without consuming, for a match that began
// at start.
func (s *stopRegex) follow(pc uint32, start int, holds syntax.EmptyOp) (match int) {
	match = never
	s.stack = append(s.stack[:0], pc)
	for len(s.stack) > 0 {
		pc := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		if s.closed[pc] <= start {
			continue
		}
		s.closed[pc] = start
		in := &s.prog.Inst[pc]
		switch in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			s.stack = append(s.stack, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			s.stack = append(s.stack, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^holds == 0 {
				s.stack = append(s.stack, in.Out)
			}
		case syntax.InstMatch:
			match = start
		}
	}
	return match
}

// advance moves every closed state over r.
func (s *stopRegex) advance(r rune) {
	reset(s.next)
	for pc, start := range s.closed {
		if start == never {
			continue
		}
		in := &s.prog.Inst[pc]
		switch in.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			if in.MatchRune(r) {
				s.next[in.Out] = min(s.next[in.Out], start)
			}
		}
	}
	s.now, s.next = s.next, s.now
}

// oldest is the earliest offset at which a running match began, at most end;
// matches that began more than limit before end are given up.
func (s *stopRegex) oldest(end, limit int) int {
	oldest := end
	for pc, start := range s.now {
		switch {
		case start == never:
		case start < end-limit:
			s.now[pc] = never
		default:
			oldest = min(oldest, start)
		}
	}
	return oldest
}

// runeLen is the length of r at the start of s; an ill-formed byte is 1.
func runeLen(s string, r rune) int {
	if r != utf8.RuneError {
		return utf8.RuneLen(r)
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}
