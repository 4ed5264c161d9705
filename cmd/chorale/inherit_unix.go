//go:build unix

package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// acceptLimit is how long accept waits on a socket that blocks.
const acceptLimit = 100_000 // µs

// blockless makes a file of a socket that blocks, and then makes the socket not
// block.
func blockless(socket int, name string) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(socket), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	f := os.NewFile(uintptr(fd), name)
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: acceptLimit})
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		f.Close()
		return nil, os.NewSyscallError("listener", err)
	}
	return f, nil
}
