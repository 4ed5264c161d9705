package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

const (
	magic            = "GGUF"
	alignmentKey     = "general.alignment"
	defaultAlignment = 32
	maxDims          = 4     // GGML_MAX_DIMS
	maxKey           = 65535 // the format's limit on key length, in bytes
	maxDepth         = 4     // of arrays in arrays; files in use have none

	// The fewest bytes that an entry can take, to check counts against.
	minKeyValue = 8 + 4 + 1
	minInfo     = 8 + 4 + 4 + 8
)

// Parse checks the file held in b, which the result aliases and which must not
// change while it is in use. Close does nothing to b.
func Parse(b []byte) (*File, error) {
	c := &cursor{b: b}
	version, err := parseVersion(c)
	if err != nil {
		return nil, err
	}
	nTensors := c.count(c.u64, "tensors", 0)
	nValues := c.count(c.u64, "metadata entries", minKeyValue)
	f := &File{version: version, alignment: defaultAlignment, values: map[string]value{}, tensors: map[string]Tensor{}}
	for range nValues {
		if err := f.parseKeyValue(c); err != nil {
			return nil, err
		}
	}
	if err := f.setAlignment(); err != nil {
		return nil, err
	}
	c.need(nTensors, minInfo, "tensors")
	if c.err != nil {
		return nil, c.err
	}
	var infos []info // grows with what is really there, not with the count
	for range nTensors {
		in, err := parseInfo(c)
		if err != nil {
			return nil, err
		}
		infos = append(infos, in)
	}
	if err := f.place(infos, c); err != nil {
		return nil, err
	}
	return f, nil
}

func parseVersion(c *cursor) (uint32, error) {
	if m := c.take(4); c.err != nil || string(m) != magic {
		return 0, fmt.Errorf("%w: does not start with %q", ErrFormat, magic)
	}
	v := c.u32()
	switch {
	case c.err != nil:
		return 0, c.err
	case v == 2 || v == 3:
		return v, nil
	case v&0xffff == 0 && v != 0:
		return 0, fmt.Errorf("%w: big endian file (version %d)", ErrUnsupported, bits.ReverseBytes32(v))
	}
	return 0, fmt.Errorf("%w: version %d, readable are 2 and 3", ErrUnsupported, v)
}

func (f *File) parseKeyValue(c *cursor) error {
	key := c.str()
	if len(key) > maxKey {
		return fmt.Errorf("%w: key of %d bytes, the format allows %d", ErrFormat, len(key), maxKey)
	}
	k := string(key)
	v := c.value(ValueType(c.u32()), 0)
	if c.err != nil {
		return fmt.Errorf("metadata %q: %w", k, c.err)
	}
	if _, dup := f.values[k]; dup {
		return fmt.Errorf("%w: metadata %q appears twice", ErrFormat, k)
	}
	f.keys = append(f.keys, k)
	f.values[k] = v
	return nil
}

func (f *File) setAlignment() error {
	v, ok := f.values[alignmentKey]
	if !ok {
		return nil
	}
	n, ok := f.Uint32(alignmentKey)
	if v.typ != TypeUint32 || !ok || bits.OnesCount32(n) != 1 || n > math.MaxInt32 {
		return fmt.Errorf("%w: %s is not a power of two of type uint32", ErrFormat, alignmentKey)
	}
	f.alignment = int(n)
	return nil
}

// info is a tensor's description with its offset in the data section.
type info struct {
	Tensor
	offset uint64
	bytes  uint64
}

func parseInfo(c *cursor) (info, error) {
	var in info
	in.Name = string(c.str())
	nDims := c.u32()
	if c.err == nil && nDims > maxDims {
		return in, fmt.Errorf("%w: tensor %q: %d dimensions, at most %d", ErrFormat, in.Name, nDims, maxDims)
	}
	in.Shape = make([]int, 0, maxDims)
	elements := uint64(1)
	for range nDims {
		d := c.u64()
		hi, lo := bits.Mul64(elements, d)
		if c.err == nil && (d == 0 || hi != 0 || lo > math.MaxInt) {
			return in, fmt.Errorf("%w: tensor %q: dimension %d is zero or overflows", ErrFormat, in.Name, d)
		}
		elements = lo
		in.Shape = append(in.Shape, int(d))
	}
	slices.Reverse(in.Shape)
	in.Type = Type(c.u32())
	in.offset = c.u64()
	if c.err != nil {
		return in, fmt.Errorf("tensor %q: %w", in.Name, c.err)
	}
	k, ok := kinds[in.Type]
	if !ok {
		return in, &TypeError{in.Name, in.Type}
	}
	if in.Cols()%k.block != 0 {
		return in, fmt.Errorf("%w: tensor %q: rows of %d elements are no multiple of %v's blocks of %d",
			ErrFormat, in.Name, in.Cols(), in.Type, k.block)
	}
	hi, lo := bits.Mul64(elements/uint64(k.block), uint64(k.size))
	if hi != 0 || lo > math.MaxInt {
		return in, fmt.Errorf("%w: tensor %q: shape %v overflows", ErrFormat, in.Name, in.Shape)
	}
	in.bytes = lo
	return in, nil
}

// place gives every tensor its bytes: aligned, inside the file, not shared.
func (f *File) place(infos []info, c *cursor) error {
	start := alignUp(c.pos, f.alignment)
	data := c.b[min(start, len(c.b)):]
	f.names = make([]string, 0, len(infos))
	for _, in := range infos {
		if in.offset%uint64(f.alignment) != 0 {
			return fmt.Errorf("%w: tensor %q: offset %d is not aligned to %d",
				ErrFormat, in.Name, in.offset, f.alignment)
		}
		if in.offset > uint64(len(data)) || in.bytes > uint64(len(data))-in.offset {
			return fmt.Errorf("%w: truncated: tensor %q takes %d bytes at %d, file holds %d bytes of data",
				ErrFormat, in.Name, in.bytes, in.offset, len(data))
		}
		if _, dup := f.tensors[in.Name]; dup {
			return fmt.Errorf("%w: tensor %q appears twice", ErrFormat, in.Name)
		}
		end := in.offset + in.bytes
		in.Data = data[in.offset:end:end]
		f.names = append(f.names, in.Name)
		f.tensors[in.Name] = in.Tensor
	}
	return checkOverlap(infos)
}

func checkOverlap(infos []info) error {
	byOffset := slices.Clone(infos)
	slices.SortFunc(byOffset, func(a, b info) int {
		if a.offset < b.offset {
			return -1
		}
		return int(min(a.offset-b.offset, 1))
	})
	for i := 1; i < len(byOffset); i++ {
		a, b := byOffset[i-1], byOffset[i]
		if a.offset+a.bytes > b.offset {
			return fmt.Errorf("%w: tensor %q at %d lies inside tensor %q", ErrFormat, b.Name, b.offset, a.Name)
		}
	}
	return nil
}

func alignUp(n, alignment int) int { return (n + alignment - 1) &^ (alignment - 1) }

// cursor reads forward through b and keeps its first error, after which every
// read returns zero.
type cursor struct {
	b   []byte
	pos int
	err error
}

func (c *cursor) left() uint64 { return uint64(len(c.b) - c.pos) }

// take returns the next n bytes, aliasing b.
func (c *cursor) take(n uint64) []byte {
	if c.err == nil && n > c.left() {
		c.err = fmt.Errorf("%w: truncated: %d bytes wanted at %d, file ends at %d", ErrFormat, n, c.pos, len(c.b))
	}
	if c.err != nil {
		return nil
	}
	b := c.b[c.pos : c.pos+int(n)]
	c.pos += int(n)
	return b
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// str reads a length and that many bytes.
func (c *cursor) str() []byte { return c.take(c.u64()) }

// count reads a count of entries that take at least size bytes each.
func (c *cursor) count(read func() uint64, what string, size uint64) uint64 {
	n := read()
	c.need(n, size, what)
	if c.err != nil {
		return 0
	}
	return n
}

// need fails unless n entries of at least size bytes can follow.
func (c *cursor) need(n, size uint64, what string) {
	hi, lo := bits.Mul64(n, size)
	if c.err == nil && (hi != 0 || lo > c.left()) {
		c.err = fmt.Errorf("%w: %d %s cannot fit in the %d bytes left at %d", ErrFormat, n, what, c.left(), c.pos)
	}
}
