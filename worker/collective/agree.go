package collective

import (
	"errors"
	"fmt"
)

// ErrDisagree: ranks that should have computed the same have not. The error is a
// *DisagreeError.
var ErrDisagree = errors.New("ranks disagree")

// DisagreeError reports what every rank had.
type DisagreeError struct {
	What    string
	Digests []uint64 // by rank
}

func (e *DisagreeError) Error() string {
	return fmt.Sprintf("ranks disagree about %s: by rank %x", e.What, e.Digests)
}

// Is makes it an ErrDisagree.
func (e *DisagreeError) Is(target error) bool { return target == ErrDisagree }

// Agree checks that all ranks have the same digest of something, with one
// AllGather of 8 bytes. If not, the group is over: by a DisagreeError, or, where
// another rank was faster, by an AbortError that says the same.
func Agree(g Group, what string, digest uint64) error {
	all := make([]uint64, g.Size())
	if err := g.AllGather(Bytes(all), Bytes([]uint64{digest})); err != nil {
		return err
	}
	for _, d := range all {
		if d != all[0] {
			err := &DisagreeError{what, all}
			g.Abort(err.Error())
			return err
		}
	}
	return nil
}
