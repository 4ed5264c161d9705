package safetensors

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"unicode/utf8"
)

const (
	// maxHeader is the format's own cap on the JSON header, in bytes.
	maxHeader = 100_000_000
	// metadataKey is the one header key that does not name a tensor.
	metadataKey = "__metadata__"
)

// entry is a tensor as the header describes it, before its range is checked.
type entry struct {
	tensor     Tensor
	begin, end int // in the data section
}

func parse(b []byte) (*File, error) {
	header, data, err := split(b)
	if err != nil {
		return nil, err
	}
	entries, meta, err := parseHeader(header)
	if err != nil {
		return nil, err
	}
	if err := checkRanges(entries, len(data)); err != nil {
		return nil, err
	}
	f := &File{tensors: make(map[string]Tensor, len(entries)), meta: meta}
	for _, e := range entries {
		e.tensor.Data = data[e.begin:e.end:e.end]
		f.tensors[e.tensor.Name] = e.tensor
	}
	f.names = sortedNames(f.tensors)
	return f, nil
}

// split cuts b into the JSON header and the data section.
func split(b []byte) (header, data []byte, err error) {
	if len(b) < 8 {
		return nil, nil, fmt.Errorf("%w: %d bytes, shorter than the length field", ErrFormat, len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	if n > maxHeader {
		return nil, nil, fmt.Errorf("%w: header of %d bytes, the format allows %d", ErrFormat, n, maxHeader)
	}
	if n > uint64(len(b)-8) {
		return nil, nil, fmt.Errorf("%w: truncated: header of %d bytes, file holds %d", ErrFormat, n, len(b)-8)
	}
	header, data = b[8:8+n], b[8+n:]
	if len(header) == 0 || header[0] != '{' {
		return nil, nil, fmt.Errorf("%w: header does not start with '{'", ErrFormat)
	}
	if !utf8.Valid(header) {
		return nil, nil, fmt.Errorf("%w: header is not UTF-8", ErrFormat)
	}
	return header, data, nil
}

func parseHeader(header []byte) ([]entry, map[string]string, error) {
	var (
		s       = &scanner{b: header}
		entries []entry
		meta    map[string]string
		seen    = map[string]bool{}
	)
	err := s.object(func(key []byte) error {
		name := string(key)
		if seen[name] {
			return fmt.Errorf("%w: %q appears twice", ErrFormat, name)
		}
		seen[name] = true
		if name == metadataKey {
			var err error
			meta, err = parseMetadata(s)
			return err
		}
		e, err := parseEntry(s)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		e.tensor.Name = name
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return entries, meta, s.end()
}

func parseMetadata(s *scanner) (map[string]string, error) {
	meta := map[string]string{}
	err := s.object(func(key []byte) error {
		k := string(key)
		if _, dup := meta[k]; dup {
			return fmt.Errorf("%w: metadata key %q appears twice", ErrFormat, k)
		}
		v, err := s.str()
		if err != nil {
			return fmt.Errorf("metadata key %q: %w", k, err)
		}
		meta[k] = string(v)
		return nil
	})
	return meta, err
}

// fields are the keys that every tensor's entry must have.
var fields = [3]string{"dtype", "shape", "data_offsets"}

// parseEntry reads {"dtype": …, "shape": […], "data_offsets": [begin, end]}.
// Other fields are ignored, as the reference implementation does.
func parseEntry(s *scanner) (entry, error) {
	var (
		e       entry
		offsets []int
		seen    [3]bool
	)
	err := s.object(func(key []byte) error {
		field := slices.Index(fields[:], string(key))
		if field < 0 {
			return s.skip(0)
		}
		if seen[field] {
			return fmt.Errorf("%w: %q appears twice", ErrFormat, key)
		}
		seen[field] = true
		var err error
		switch fields[field] {
		case "dtype":
			var name []byte
			if name, err = s.str(); err == nil {
				e.tensor.DType, err = parseDType(name)
			}
		case "shape":
			e.tensor.Shape, err = s.sizes()
		case "data_offsets":
			offsets, err = s.sizes()
		}
		return err
	})
	if err != nil {
		return entry{}, err
	}
	for i, name := range fields {
		if !seen[i] {
			return entry{}, fmt.Errorf("%w: no %q", ErrFormat, name)
		}
	}
	if len(offsets) != 2 || offsets[0] > offsets[1] {
		return entry{}, fmt.Errorf("%w: data_offsets %v are not [begin, end]", ErrFormat, offsets)
	}
	e.begin, e.end = offsets[0], offsets[1]
	return e, checkShape(e)
}

// sizes reads an array of non-negative integers.
func (s *scanner) sizes() ([]int, error) {
	v := []int{}
	err := s.array(func() error {
		n, err := s.size()
		v = append(v, n)
		return err
	})
	return v, err
}

// checkShape compares shape × dtype with the length of the entry's range.
func checkShape(e entry) error {
	want, ok := byteLen(e.tensor.Shape, e.tensor.DType)
	if !ok {
		return fmt.Errorf("%w: shape %v of %v overflows", ErrFormat, e.tensor.Shape, e.tensor.DType)
	}
	if got := e.end - e.begin; got != want {
		return fmt.Errorf("%w: shape %v of %v takes %d bytes, data_offsets span %d",
			ErrFormat, e.tensor.Shape, e.tensor.DType, want, got)
	}
	return nil
}

// byteLen returns the bytes that a tensor takes; ok is false when they
// overflow an int.
func byteLen(shape []int, d DType) (n int, ok bool) {
	const maxInt = 1<<(bits.UintSize-1) - 1
	total := uint64(d.Size())
	for _, dim := range shape {
		hi, lo := bits.Mul64(total, uint64(dim))
		if dim < 0 || hi != 0 || lo > maxInt {
			return 0, false
		}
		total = lo
	}
	return int(total), true
}

// checkRanges demands that the entries, ordered by offset, tile the data
// section: no overlap, no hole, nothing behind the last. It sorts entries.
func checkRanges(entries []entry, size int) error {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end),
			cmp.Compare(a.tensor.Name, b.tensor.Name))
	})
	pos := 0
	for _, e := range entries {
		switch {
		case e.begin < pos:
			return fmt.Errorf("%w: tensor %q: starts at %d, inside the tensor before it (ends at %d)",
				ErrFormat, e.tensor.Name, e.begin, pos)
		case e.begin > pos:
			return fmt.Errorf("%w: tensor %q: starts at %d, leaving a hole after %d",
				ErrFormat, e.tensor.Name, e.begin, pos)
		case e.end > size:
			return fmt.Errorf("%w: truncated: tensor %q ends at %d, file holds %d bytes of data",
				ErrFormat, e.tensor.Name, e.end, size)
		}
		pos = e.end
	}
	if pos != size {
		return fmt.Errorf("%w: %d bytes after the last tensor", ErrFormat, size-pos)
	}
	return nil
}
