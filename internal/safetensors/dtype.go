package safetensors

import "fmt"

// DType is the element type of a tensor. The zero value is invalid.
type DType uint8

// The element types of the format that hold whole bytes. Their order is the
// one in which the reference writer lays tensors out (largest first).
const (
	invalid DType = iota
	BOOL
	U8
	I8
	F8E5M2 // IEEE-like: 5 exponent bits, with infinities
	F8E4M3 // the "FN" variant: no infinities, 0x7F and 0xFF are NaN
	F8E8M0 // a power of two, 2^(x-127), 0xFF is NaN; used for block scales
	I16
	U16
	F16
	BF16
	I32
	U32
	F32
	C64
	F64
	I64
	U64
)

var dtypes = [...]struct {
	name string
	size int
}{
	BOOL: {"BOOL", 1}, U8: {"U8", 1}, I8: {"I8", 1},
	F8E5M2: {"F8_E5M2", 1}, F8E4M3: {"F8_E4M3", 1}, F8E8M0: {"F8_E8M0", 1},
	I16: {"I16", 2}, U16: {"U16", 2}, F16: {"F16", 2}, BF16: {"BF16", 2},
	I32: {"I32", 4}, U32: {"U32", 4}, F32: {"F32", 4},
	C64: {"C64", 8}, F64: {"F64", 8}, I64: {"I64", 8}, U64: {"U64", 8},
}

// String returns the format's name of d, for instance "BF16" or "F8_E4M3".
func (d DType) String() string {
	if d == invalid || int(d) >= len(dtypes) {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Size returns the bytes that one element takes, 0 for an invalid DType.
func (d DType) Size() int {
	if int(d) >= len(dtypes) {
		return 0
	}
	return dtypes[d].size
}

// IsFloat reports whether Tensor.Float32 can convert elements of type d.
func (d DType) IsFloat() bool {
	switch d {
	case F64, F32, F16, BF16, F8E4M3, F8E5M2, F8E8M0:
		return true
	}
	return false
}

// parseDType maps the format's name to a DType. The sub-byte types of newer
// files (F4, F6_*) are ErrUnsupported, anything else unknown is ErrFormat.
func parseDType(name []byte) (DType, error) {
	for d := BOOL; int(d) < len(dtypes); d++ {
		if string(name) == dtypes[d].name {
			return d, nil
		}
	}
	switch string(name) {
	case "F4", "F6_E2M3", "F6_E3M2":
		return invalid, fmt.Errorf("%w: dtype %s", ErrUnsupported, name)
	}
	return invalid, fmt.Errorf("%w: unknown dtype %q", ErrFormat, name)
}
