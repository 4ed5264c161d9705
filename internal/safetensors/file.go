package safetensors

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"chorale/internal/mapfile"
)

// Errors of this package; every returned error wraps one of them or an error
// of the operating system.
var (
	// ErrFormat marks bytes that are not a valid safetensors file or index.
	ErrFormat = errors.New("safetensors: malformed")
	// ErrUnsupported marks a valid file that uses a dtype this package cannot read.
	ErrUnsupported = errors.New("safetensors: unsupported")
	// ErrShape marks a destination or a tensor whose length does not fit its shape.
	ErrShape = errors.New("safetensors: shape mismatch")
)

// Tensor is one tensor of a file.
type Tensor struct {
	Name  string
	DType DType
	// Shape holds the dimensions, outermost first; empty for a scalar.
	// Shared between copies of the Tensor: do not modify.
	Shape []int
	// Data holds the elements, little-endian and row-major, without padding.
	// It aliases the file's mapping: read-only, and invalid after Close.
	// Its start has no particular alignment.
	Data []byte
}

// Len returns the number of elements.
func (t Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// File is an open safetensors file.
type File struct {
	tensors map[string]Tensor
	names   []string
	meta    map[string]string
	mem     *mapfile.File // nil when the bytes belong to the caller
}

// Option changes how Open and OpenIndex read a file.
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
		return nil, fmt.Errorf("safetensors: open: %w", err)
	}
	f, err := Parse(m.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, errors.Join(err, m.Close()))
	}
	f.mem = m
	return f, nil
}

// Parse checks the file held in b, which the result aliases and which must not
// change while it is in use. Close does nothing to b.
func Parse(b []byte) (*File, error) {
	return parse(b)
}

// Names returns the tensors' names in sorted order. The slice is shared: do
// not modify it.
func (f *File) Names() []string { return f.names }

// Tensor returns the tensor of that name.
func (f *File) Tensor(name string) (Tensor, bool) {
	t, ok := f.tensors[name]
	return t, ok
}

// Metadata returns a copy of the header's free-form "__metadata__" strings.
func (f *File) Metadata() map[string]string { return maps.Clone(f.meta) }

// Close releases the mapping; every Tensor.Data of the file becomes invalid.
// A second Close does nothing.
func (f *File) Close() error {
	f.tensors, f.names = nil, nil
	if f.mem == nil {
		return nil
	}
	m := f.mem
	f.mem = nil
	return m.Close()
}

func sortedNames(m map[string]Tensor) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
