//go:build !unix

package gguf

import (
	"io"
	"os"
)

// mapFile reads the file where mmap is not at hand.
func mapFile(file *os.File, size int) ([]byte, error) {
	b := make([]byte, size)
	_, err := io.ReadFull(file, b)
	return b, err
}

func unmap([]byte) error { return nil }
