//go:build !unix

package mapfile

import (
	"io"
	"os"
)

// mapped reads the file where mmap is not at hand.
func mapped(file *os.File, size int) ([]byte, error) {
	b := make([]byte, size)
	_, err := io.ReadFull(file, b)
	return b, err
}

func unmap([]byte) error { return nil }
