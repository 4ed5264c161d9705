//go:build unix

package mapfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// mapped maps the first size bytes of file read-only and shared.
func mapped(file *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
}

func unmap(b []byte) error { return unix.Munmap(b) }
