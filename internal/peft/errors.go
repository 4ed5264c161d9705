package peft

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of this package, wrapped with the field, module or tensor at fault.
var (
	// ErrConfig marks an adapter_config.json that is malformed or contradictory.
	ErrConfig = errors.New("peft: bad adapter config")
	// ErrUnsupported marks a PEFT feature that cannot be served.
	ErrUnsupported = errors.New("peft: unsupported adapter")
	// ErrTarget marks target modules that the base lacks or the limits forbid.
	ErrTarget = errors.New("peft: target modules")
	// ErrUnmatched marks tensors that belong to no target module.
	ErrUnmatched = errors.New("peft: tensors match no target module")
	// ErrMissing marks target modules whose tensors are not in the file.
	ErrMissing = errors.New("peft: tensors are missing")
	// ErrDuplicate marks two tensors that name the same place.
	ErrDuplicate = errors.New("peft: duplicate tensor")
	// ErrNonFinite marks a NaN or infinity.
	ErrNonFinite = errors.New("peft: not finite")
	// ErrShape marks a tensor whose shape does not fit its module.
	ErrShape = errors.New("peft: shape mismatch")
	// ErrRank marks a rank above the limit.
	ErrRank = errors.New("peft: rank above the limit")
)

const (
	listed  = 3   // names that an error about many spells out
	maxName = 200 // bytes of a foreign name in an error
)

// some formats the first few of many names and says how many there are.
func some(names []string) string {
	var b strings.Builder
	for i, n := range names[:min(len(names), listed)] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(n))
	}
	if more := len(names) - listed; more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	return b.String()
}

// quote quotes a foreign name, cut to a readable length.
func quote(s string) string {
	if len(s) > maxName {
		return fmt.Sprintf("%q…", s[:maxName])
	}
	return fmt.Sprintf("%q", s)
}
