// Package mapfile gives the bytes of a whole file, mapped read-only or copied,
// for the readers of large binary formats.
package mapfile

import (
	"fmt"
	"os"
)

// File holds the bytes of one file.
type File struct {
	// Data is read-only and invalid after Close.
	Data   []byte
	mapped bool
}

// Open maps the regular file at path, or reads it into memory of its own when
// inMemory is set. A file that shrinks while it is mapped raises SIGBUS on the
// pages that are gone; one that is replaced by rename does not.
func Open(path string, inMemory bool) (*File, error) {
	if inMemory {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		return &File{Data: b}, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the mapping outlives the descriptor
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	size := st.Size()
	if size == 0 {
		return &File{}, nil // mmap refuses length 0; the parser names the fault
	}
	if size != int64(int(size)) {
		return nil, fmt.Errorf("%s: %d bytes do not fit the address space", path, size)
	}
	data, err := mapped(file, int(size))
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", path, err)
	}
	return &File{Data: data, mapped: true}, nil
}

// Close releases the bytes. A second Close does nothing.
func (f *File) Close() error {
	data := f.Data
	f.Data = nil
	if !f.mapped || data == nil {
		return nil
	}
	return unmap(data)
}
