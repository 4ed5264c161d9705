package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// ValueType is the type of a metadata value; the values are the file's.
type ValueType uint32

// The metadata types.
const (
	TypeUint8   ValueType = 0
	TypeInt8    ValueType = 1
	TypeUint16  ValueType = 2
	TypeInt16   ValueType = 3
	TypeUint32  ValueType = 4
	TypeInt32   ValueType = 5
	TypeFloat32 ValueType = 6
	TypeBool    ValueType = 7
	TypeString  ValueType = 8
	TypeArray   ValueType = 9
	TypeUint64  ValueType = 10
	TypeInt64   ValueType = 11
	TypeFloat64 ValueType = 12
)

var valueTypes = [...]struct {
	name string
	size uint64 // of a scalar, in bytes; 0: varies
}{
	{"uint8", 1},
	{"int8", 1},
	{"uint16", 2},
	{"int16", 2},
	{"uint32", 4},
	{"int32", 4},
	{"float32", 4},
	{"bool", 1},
	{"string", 0},
	{"array", 0},
	{"uint64", 8},
	{"int64", 8},
	{"float64", 8},
}

// String returns the type's name, for instance "uint32".
func (t ValueType) String() string {
	if int64(t) >= int64(len(valueTypes)) {
		return fmt.Sprintf("type %d", uint32(t))
	}
	return valueTypes[t].name
}

// value is a metadata value, left in the file's bytes and checked to be whole.
type value struct {
	typ  ValueType
	elem ValueType // of an array
	n    int       // elements of an array
	raw  []byte    // a scalar's, a string's, or all elements' bytes
}

// value reads a value of type t, as far as finding its end needs.
func (c *cursor) value(t ValueType, depth int) value {
	v := value{typ: t}
	switch {
	case c.err != nil:
	case int64(t) >= int64(len(valueTypes)):
		c.err = fmt.Errorf("%w: unknown metadata type %d", ErrFormat, uint32(t))
	case t == TypeString:
		v.raw = c.str()
	case t == TypeArray:
		c.array(&v, depth+1)
	default:
		v.raw = c.take(valueTypes[t].size)
	}
	return v
}

func (c *cursor) array(v *value, depth int) {
	v.elem = ValueType(c.u32())
	if c.err == nil && (depth > maxDepth || int64(v.elem) >= int64(len(valueTypes))) {
		c.err = fmt.Errorf("%w: array of %v at depth %d", ErrFormat, v.elem, depth)
	}
	if c.err != nil {
		return
	}
	size := valueTypes[v.elem].size
	switch v.elem {
	case TypeString:
		size = 8
	case TypeArray:
		size = 4 + 8
	}
	n := c.count(c.u64, "array elements", size)
	v.n = int(n)
	start := c.pos
	switch v.elem {
	case TypeString:
		for i := uint64(0); i < n && c.err == nil; i++ {
			c.str()
		}
	case TypeArray:
		for i := uint64(0); i < n && c.err == nil; i++ {
			c.value(TypeArray, depth)
		}
	default:
		c.take(n * size)
	}
	v.raw = c.b[start:c.pos]
}

// scalar decodes the element at the start of b, of a type with a fixed size.
func scalar(t ValueType, b []byte) any {
	switch t {
	case TypeUint8:
		return b[0]
	case TypeInt8:
		return int8(b[0])
	case TypeUint16:
		return binary.LittleEndian.Uint16(b)
	case TypeInt16:
		return int16(binary.LittleEndian.Uint16(b))
	case TypeUint32:
		return binary.LittleEndian.Uint32(b)
	case TypeInt32:
		return int32(binary.LittleEndian.Uint32(b))
	case TypeFloat32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	case TypeBool:
		return b[0] != 0
	case TypeUint64:
		return binary.LittleEndian.Uint64(b)
	case TypeInt64:
		return int64(binary.LittleEndian.Uint64(b))
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}

// integer decodes an integer of any width; ok is false for other types and
// for uint64 values beyond int64.
func integer(t ValueType, b []byte) (n int64, ok bool) {
	switch v := scalar(t, b).(type) {
	case uint8:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case int16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case int32:
		return int64(v), true
	case uint64:
		return int64(v), v <= math.MaxInt64
	case int64:
		return v, true
	}
	return 0, false
}

// decode returns the value as Go data; see File.Value.
func (v value) decode() any {
	switch v.typ {
	case TypeString:
		return string(v.raw)
	case TypeArray:
	default:
		return scalar(v.typ, v.raw)
	}
	if v.elem == TypeString {
		return v.strings()
	}
	out := make([]any, 0, v.n)
	if v.elem == TypeArray {
		c := &cursor{b: v.raw}
		for range v.n {
			out = append(out, c.value(TypeArray, 0).decode())
		}
		return out
	}
	size := int(valueTypes[v.elem].size)
	for i := range v.n {
		out = append(out, scalar(v.elem, v.raw[i*size:]))
	}
	return out
}

// strings copies all elements of an array of strings with two allocations.
func (v value) strings() []string {
	all := string(v.raw)
	out := make([]string, v.n)
	for i, pos := 0, 0; i < v.n; i++ {
		n := int(binary.LittleEndian.Uint64(v.raw[pos:]))
		out[i] = all[pos+8 : pos+8+n]
		pos += 8 + n
	}
	return out
}

// Keys returns the metadata keys in file order; do not modify the slice.
func (f *File) Keys() []string { return f.keys }

// Has reports whether the file has the key, whatever its type.
func (f *File) Has(key string) bool {
	_, ok := f.values[key]
	return ok
}

// Value returns the metadata value of key as Go data: a scalar of its own
// type, a string, []string, or []any for other arrays (nested for arrays of
// arrays).
func (f *File) Value(key string) (any, bool) {
	v, ok := f.values[key]
	if !ok {
		return nil, false
	}
	return v.decode(), true
}

// The integer getters accept every integer type whose value fits the result;
// writers disagree on widths. ok is false when the key is absent, of another
// kind, or does not fit.

// Uint32 returns an integer in [0, 2^32).
func (f *File) Uint32(key string) (v uint32, ok bool) {
	n, ok := f.Int64(key)
	return uint32(n), ok && n >= 0 && n <= math.MaxUint32
}

// Int32 returns an integer in [-2^31, 2^31).
func (f *File) Int32(key string) (v int32, ok bool) {
	n, ok := f.Int64(key)
	return int32(n), ok && n >= math.MinInt32 && n <= math.MaxInt32
}

// Uint64 returns an integer in [0, 2^64).
func (f *File) Uint64(key string) (v uint64, ok bool) {
	if m, ok := f.values[key]; ok && m.typ == TypeUint64 {
		return binary.LittleEndian.Uint64(m.raw), true
	}
	n, ok := f.Int64(key)
	return uint64(n), ok && n >= 0
}

// Int64 returns an integer in [-2^63, 2^63).
func (f *File) Int64(key string) (v int64, ok bool) {
	m, ok := f.values[key]
	if !ok || m.typ == TypeString || m.typ == TypeArray {
		return 0, false
	}
	return integer(m.typ, m.raw)
}

// Float32 returns a float32, or a float64 rounded.
func (f *File) Float32(key string) (v float32, ok bool) {
	d, ok := f.Float64(key)
	return float32(d), ok
}

// Float64 returns a float of either width.
func (f *File) Float64(key string) (v float64, ok bool) {
	m := f.values[key]
	switch m.typ {
	case TypeFloat32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(m.raw))), true
	case TypeFloat64:
		return math.Float64frombits(binary.LittleEndian.Uint64(m.raw)), true
	}
	return 0, false
}

// Bool returns a bool.
func (f *File) Bool(key string) (v, ok bool) {
	m, ok := f.values[key]
	if !ok || m.typ != TypeBool {
		return false, false
	}
	return m.raw[0] != 0, true
}

// String returns a string.
func (f *File) String(key string) (v string, ok bool) {
	m, ok := f.values[key]
	if !ok || m.typ != TypeString {
		return "", false
	}
	return string(m.raw), true
}

// Strings returns an array of strings.
func (f *File) Strings(key string) (v []string, ok bool) {
	m, ok := f.values[key]
	if !ok || m.typ != TypeArray || m.elem != TypeString {
		return nil, false
	}
	return m.strings(), true
}

// Int32s returns an array of integers that all fit an int32.
func (f *File) Int32s(key string) (v []int32, ok bool) {
	return integers[int32](f.values[key])
}

// Uint32s returns an array of integers that all fit a uint32.
func (f *File) Uint32s(key string) (v []uint32, ok bool) {
	return integers[uint32](f.values[key])
}

// integers decodes an integer array element by element into T.
func integers[T int32 | uint32](m value) ([]T, bool) {
	wide := []ValueType{TypeUint8, TypeInt8, TypeUint16, TypeInt16, TypeUint32, TypeInt32, TypeUint64, TypeInt64}
	if m.typ != TypeArray || !slices.Contains(wide, m.elem) {
		return nil, false
	}
	out := make([]T, m.n)
	if m.elem == TypeInt32 || m.elem == TypeUint32 { // the common case, without boxing
		for i := range out {
			bits := binary.LittleEndian.Uint32(m.raw[4*i:])
			out[i] = T(bits)
			if (out[i] < 0) != (m.elem == TypeInt32 && int32(bits) < 0) {
				return nil, false
			}
		}
		return out, true
	}
	size := int(valueTypes[m.elem].size)
	for i := range out {
		n, ok := integer(m.elem, m.raw[i*size:])
		if !ok || int64(T(n)) != n {
			return nil, false
		}
		out[i] = T(n)
	}
	return out, true
}

// Float32s returns an array of float32, or of float64 rounded.
func (f *File) Float32s(key string) (v []float32, ok bool) {
	m, ok := f.values[key]
	if !ok || m.typ != TypeArray {
		return nil, false
	}
	switch m.elem {
	case TypeFloat32:
		v = make([]float32, m.n)
		decodeF32(v, m.raw)
		return v, true
	case TypeFloat64:
		v = make([]float32, m.n)
		decodeF64(v, m.raw)
		return v, true
	}
	return nil, false
}
