//go:build !unix

package supervise

import (
	"errors"
	"os"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return nil }

// pair has no meaning without unix sockets.
func pair() (ours, theirs *os.File, err error) {
	return nil, nil, errors.New("rank processes need a unix system")
}
