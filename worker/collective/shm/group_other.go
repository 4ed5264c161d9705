//go:build !linux

package shm

import (
	"fmt"
	"os"

	"chorale/worker/collective"
)

// Member is an end of a group of this machine's processes.
type Member interface {
	collective.Member
	Blame(rank int, reason string)
}

var errLinux = fmt.Errorf("shm: groups over shared memory need Linux; use TCP: %w", collective.ErrUnsupported)

// Create needs Linux.
func Create(int, collective.Options) (*os.File, error) { return nil, errLinux }

// Open needs Linux.
func Open(*os.File, int, collective.Options) (Member, error) { return nil, errLinux }
