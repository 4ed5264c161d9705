package status

import (
	"errors"
	"fmt"

	"chorale/router"
)

// Errors of the faces themselves, beside those of the router.
var (
	// ErrUnsupported reports a known field or feature that is not served.
	ErrUnsupported = errors.New("not supported")
	// ErrModelNotFound reports a model name that is neither the base model nor
	// an adapter.
	ErrModelNotFound = errors.New("model does not exist")
	// ErrBodyTooLarge reports a request body beyond the limit.
	ErrBodyTooLarge = errors.New("request body is too large")
	// ErrUnauthenticated reports a missing or wrong key.
	ErrUnauthenticated = errors.New("missing or invalid API key")
	// ErrPermission reports a valid key that may not do this.
	ErrPermission = errors.New("the admin API key is required")
	// ErrOrigin reports a web page that may not call.
	ErrOrigin = errors.New("pages of other origins may not call this (--allowed-origins)")
	// ErrElsewhere reports what is served, but not at this address.
	ErrElsewhere = errors.New("is served at another address")
	// ErrRouteNotFound reports a path that nothing serves.
	ErrRouteNotFound = errors.New("no such route")
	// ErrMethod reports a method that the path does not take.
	ErrMethod = errors.New("method not allowed")
	// ErrPanic reports a fault inside a handler.
	ErrPanic = errors.New("internal error")
)

// Invalid says that a field of a request is wrong: problem is a sentence
// without the field's name.
func Invalid(field, problem string, args ...any) error {
	return &router.FieldError{Field: field, Problem: fmt.Sprintf(problem, args...)}
}

// Unsupported says that a field asks for what is not served.
func Unsupported(field string) error {
	return &router.FieldError{Field: field, Problem: "is not supported", Err: ErrUnsupported}
}

// ModelNotFoundError names a model that nobody serves.
type ModelNotFoundError struct {
	// Model is the name as the client gave it, Field where ("model" or
	// "lora_path").
	Model, Field string
	// Err says more, such as which adapters there are; it may be nil.
	Err error
}

// Error uses vLLM's words, followed by SGLang's when Err has them.
func (e *ModelNotFoundError) Error() string {
	s := fmt.Sprintf("The model `%s` does not exist.", e.Model)
	if e.Err != nil {
		s += " " + e.Err.Error()
	}
	return s
}

// Unwrap gives ErrModelNotFound, and Err.
func (e *ModelNotFoundError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrModelNotFound}
	}
	return []error{ErrModelNotFound, e.Err}
}

// WithText says an error in a face's own words; errors.Is still finds it.
func WithText(err error, text string) error { return &reworded{err, text} }

type reworded struct {
	err  error
	text string
}

func (e *reworded) Error() string { return e.text }
func (e *reworded) Unwrap() error { return e.err }
