package gguf

import (
	"errors"
	"fmt"

	"chorale/internal/mapfile"
)

// File is an open GGUF file.
type File struct {
	version   uint32
	alignment int
	keys      []string
	values    map[string]value
	names     []string
	tensors   map[string]Tensor
	mem       *mapfile.File // nil when the bytes belong to the caller
}

// Option changes how Open reads a file.
type Option func(*options)

type options struct{ inMemory bool }

// InMemory reads the whole file into private memory instead of mapping it, for
// files that another process may shrink or rewrite in place while open.
func InMemory() Option { return func(o *options) { o.inMemory = true } }

// Open opens and checks the file at path. The caller closes it.
func Open(path string, opts ...Option) (*File, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	m, err := mapfile.Open(path, o.inMemory)
	if err != nil {
		return nil, fmt.Errorf("gguf: open: %w", err)
	}
	f, err := Parse(m.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, errors.Join(err, m.Close()))
	}
	f.mem = m
	return f, nil
}

// Version returns the file's format version, 2 or 3.
func (f *File) Version() int { return int(f.version) }

// Alignment returns the data section's alignment in bytes.
func (f *File) Alignment() int { return f.alignment }

// Names returns the tensors' names in file order; do not modify the slice.
func (f *File) Names() []string { return f.names }

// Tensor returns the tensor of that name.
func (f *File) Tensor(name string) (Tensor, bool) {
	t, ok := f.tensors[name]
	return t, ok
}

// Close releases the mapping; every Tensor.Data of the file becomes invalid
// and the file has neither tensors nor metadata any more. A second Close does
// nothing.
func (f *File) Close() error {
	f.keys, f.values, f.names, f.tensors = nil, nil, nil, nil
	if f.mem == nil {
		return nil
	}
	m := f.mem
	f.mem = nil
	return m.Close()
}
