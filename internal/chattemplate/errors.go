package chattemplate

import (
	"errors"
	"fmt"
)

var (
	// ErrSyntax is wrapped by every error of [Parse].
	ErrSyntax = errors.New("chat template syntax")
	// ErrRaised is wrapped when the template itself called raise_exception:
	// the request does not fit the template (roles out of order, a tool call
	// it cannot express), and the message is meant for the caller.
	ErrRaised = errors.New("raised by chat template")
	// ErrLimit is wrapped when a template reached a bound on steps, output,
	// sizes or recursion.
	ErrLimit = errors.New("chat template limit")
	// ErrInput is wrapped when the variables given to a template are not what
	// it takes: malformed JSON, messages that are no list of objects.
	ErrInput = errors.New("chat template input")
)

// SyntaxError says where a template cannot be parsed. It wraps [ErrSyntax].
type SyntaxError struct {
	Line int // 1-based
	Msg  string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("chat template line %d: %s", e.Line, e.Msg)
}

// Unwrap returns [ErrSyntax].
func (e *SyntaxError) Unwrap() error { return ErrSyntax }

// RenderError says at which line rendering stopped and why. It wraps the
// cause, if that is [ErrRaised] or [ErrLimit].
type RenderError struct {
	Line int // 1-based line of the statement or output that failed
	Msg  string
	err  error
}

// Error implements error.
func (e *RenderError) Error() string {
	return fmt.Sprintf("chat template line %d: %s", e.Line, e.Msg)
}

// Unwrap returns the cause.
func (e *RenderError) Unwrap() error { return e.err }

// raised is the error of raise_exception; its text is the template's own.
type raised struct{ msg string }

func (r raised) Error() string { return r.msg }
func (r raised) Unwrap() error { return ErrRaised }

func limitf(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrLimit}, a...)...)
}

func errorf(format string, a ...any) error { return fmt.Errorf(format, a...) }
