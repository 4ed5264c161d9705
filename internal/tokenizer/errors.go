package tokenizer

import (
	"errors"
	"fmt"
)

var (
	// ErrFormat marks a vocabulary that contradicts itself or its format:
	// broken JSON, an id out of range, a merge of unknown tokens.
	ErrFormat = errors.New("tokenizer: malformed vocabulary")
	// ErrUnsupported marks a well-formed vocabulary that needs a component this
	// package lacks. Errors carrying it are of type *UnsupportedError.
	ErrUnsupported = errors.New("tokenizer: unsupported component")
	// ErrStop marks a stop pattern that cannot be used.
	ErrStop = errors.New("tokenizer: bad stop pattern")
)

// UnsupportedError names the component that a vocabulary asks for in vain.
type UnsupportedError struct {
	// Part is "normalizer", "pre_tokenizer", "model", "post_processor",
	// "decoder", "regular expression", "gguf model" or "gguf pre".
	Part   string
	Name   string // the component's own name, as the file spells it
	Reason error  // why not, if there is more to say; may be nil
}

func (e *UnsupportedError) Error() string {
	if e.Reason != nil {
		return fmt.Sprintf("%v: %s %q: %v", ErrUnsupported, e.Part, e.Name, e.Reason)
	}
	return fmt.Sprintf("%v: %s %q", ErrUnsupported, e.Part, e.Name)
}

// Unwrap lets errors.Is find ErrUnsupported.
func (e *UnsupportedError) Unwrap() error { return ErrUnsupported }

func unsupported(part, name string) error { return &UnsupportedError{Part: part, Name: name} }

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrFormat, fmt.Errorf(format, args...))
}
