package router

import (
	"errors"
	"fmt"
)

// Errors of the router, wrapped with what was wrong. services/status holds the
// one table from them to gRPC codes and HTTP statuses.
var (
	// ErrInvalid reports a value that no request may have; a *FieldError tells
	// which.
	ErrInvalid = errors.New("invalid request")
	// ErrTooLong reports a prompt that leaves no room in the context.
	ErrTooLong = errors.New("prompt is longer than the context")
	// ErrNoTokenizer reports text where only token ids are served.
	ErrNoTokenizer = errors.New("the server has no tokenizer (--skip-tokenizer-init): only token ids are served")
	// ErrUnknownAdapter reports a name that is not registered.
	ErrUnknownAdapter = errors.New("adapter has never been loaded")
	// ErrAdapterNotReady reports a registered adapter that takes no requests:
	// draining, failed or nowhere loaded.
	ErrAdapterNotReady = errors.New("adapter takes no requests")
	// ErrLoRADisabled reports an adapter named while --enable-lora=false.
	ErrLoRADisabled = errors.New("LoRA is not enabled")
	// ErrTooManyAdapters reports more distinct names in one request than may
	// be loaded.
	ErrTooManyAdapters = errors.New("too many distinct adapters in one request")
	// ErrOverloaded reports a full queue.
	ErrOverloaded = errors.New("queue is full")
	// ErrUnavailable reports that no worker group can be reached.
	ErrUnavailable = errors.New("no worker group is available")
	// ErrNoCatalogue reports that the adapter manager has not told yet which
	// adapters there are.
	ErrNoCatalogue = errors.New("it is not known yet which adapters there are")
	// ErrDraining reports a router that is stopping.
	ErrDraining = errors.New("server is shutting down")
	// ErrWorkerLost reports an answer cut short by a worker's end that could
	// not be continued elsewhere.
	ErrWorkerLost = errors.New("worker group was lost")
	// ErrGroupLost reports a worker group that is over because one of its ranks is:
	// it says which, and is started again.
	ErrGroupLost = errors.New("worker group is lost")
	// ErrGroupRestarting reports a worker group whose ranks are being started.
	ErrGroupRestarting = errors.New("worker group is starting")
	// ErrAborted reports an answer that was aborted by request.
	ErrAborted = errors.New("request was aborted")
	// ErrWorker reports a failure inside a worker.
	ErrWorker = errors.New("worker failed")
)

// FieldError says which field of a request is wrong. It wraps ErrInvalid or a
// more special sentinel.
type FieldError struct {
	// Field is the path in the caller's message, e.g. "prompts[1].sampling.top_p".
	Field string
	// Problem is a sentence without the field's name: "must be in (0, 1], got 3".
	Problem string
	Err     error
}

// Error tells field and problem.
func (e *FieldError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Problem) }

// Unwrap gives the sentinel.
func (e *FieldError) Unwrap() error {
	if e.Err == nil {
		return ErrInvalid
	}
	return e.Err
}

// UnknownAdapterError names an adapter that is not registered.
type UnknownAdapterError struct {
	Name string
	// Loaded are some of the names that are.
	Loaded []string
}

// Error uses the words that SGLang's clients match.
func (e *UnknownAdapterError) Error() string {
	return fmt.Sprintf("Got LoRA adapter that has never been loaded: %s. All loaded adapters: %v.", e.Name, e.Loaded)
}

// Unwrap gives ErrUnknownAdapter.
func (e *UnknownAdapterError) Unwrap() error { return ErrUnknownAdapter }
