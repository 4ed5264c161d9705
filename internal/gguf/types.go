package gguf

import (
	"errors"
	"fmt"
)

// Errors of this package; every returned error wraps one of them or an error
// of the operating system.
var (
	// ErrFormat marks bytes that are not a valid GGUF file.
	ErrFormat = errors.New("gguf: malformed")
	// ErrUnsupported marks a valid file that this package cannot read: another
	// version or byte order, or a tensor type.
	ErrUnsupported = errors.New("gguf: unsupported")
	// ErrShape marks a destination, row range or tensor that does not fit.
	ErrShape = errors.New("gguf: shape mismatch")
	// ErrMissing marks metadata that the file should have but lacks.
	ErrMissing = errors.New("gguf: missing metadata")
)

// Type is the element encoding of a tensor; the values are the file's.
type Type uint32

// The tensor types, as ggml numbers them.
const (
	F32    Type = 0
	F16    Type = 1
	Q4_0   Type = 2
	Q4_1   Type = 3
	Q5_0   Type = 6
	Q5_1   Type = 7
	Q8_0   Type = 8
	Q8_1   Type = 9
	Q2_K   Type = 10
	Q3_K   Type = 11
	Q4_K   Type = 12
	Q5_K   Type = 13
	Q6_K   Type = 14
	Q8_K   Type = 15
	IQ4_NL Type = 20
	IQ4_XS Type = 23
	I8     Type = 24
	I16    Type = 25
	I32    Type = 26
	I64    Type = 27
	F64    Type = 28
	BF16   Type = 30
	MXFP4  Type = 39
)

// traits says how a type is stored: block elements take size bytes.
type traits struct {
	name        string
	block, size int
	decode      func(dst []float32, src []byte) // whole blocks; nil: not supported
}

// kinds holds every type whose size is known, so that files with tensors that
// cannot be dequantised still open.
var kinds = map[Type]traits{
	F32:    {"F32", 1, 4, decodeF32},
	F16:    {"F16", 1, 2, decodeF16},
	F64:    {"F64", 1, 8, decodeF64},
	BF16:   {"BF16", 1, 2, decodeBF16},
	Q4_0:   {"Q4_0", 32, 18, decodeQ4_0},
	Q4_1:   {"Q4_1", 32, 20, decodeQ4_1},
	Q5_0:   {"Q5_0", 32, 22, decodeQ5_0},
	Q5_1:   {"Q5_1", 32, 24, decodeQ5_1},
	Q8_0:   {"Q8_0", 32, 34, decodeQ8_0},
	Q8_1:   {"Q8_1", 32, 36, nil},
	Q2_K:   {"Q2_K", 256, 84, decodeQ2K},
	Q3_K:   {"Q3_K", 256, 110, decodeQ3K},
	Q4_K:   {"Q4_K", 256, 144, decodeQ4K},
	Q5_K:   {"Q5_K", 256, 176, decodeQ5K},
	Q6_K:   {"Q6_K", 256, 210, decodeQ6K},
	Q8_K:   {"Q8_K", 256, 292, decodeQ8K},
	IQ4_NL: {"IQ4_NL", 32, 18, decodeIQ4NL},
	IQ4_XS: {"IQ4_XS", 256, 136, decodeIQ4XS},
	MXFP4:  {"MXFP4", 32, 17, decodeMXFP4},
	I8:     {"I8", 1, 1, nil},
	I16:    {"I16", 1, 2, nil},
	I32:    {"I32", 1, 4, nil},
	I64:    {"I64", 1, 8, nil},
	16:     {"IQ2_XXS", 256, 66, nil},
	17:     {"IQ2_XS", 256, 74, nil},
	18:     {"IQ3_XXS", 256, 98, nil},
	19:     {"IQ1_S", 256, 50, nil},
	21:     {"IQ3_S", 256, 110, nil},
	22:     {"IQ2_S", 256, 82, nil},
	29:     {"IQ1_M", 256, 56, nil},
	34:     {"TQ1_0", 256, 56, nil},
	35:     {"TQ2_0", 256, 66, nil},
	40:     {"NVFP4", 64, 36, nil},
	41:     {"Q1_0", 128, 18, nil},
}

// String returns ggml's name of t, for instance "Q4_K".
func (t Type) String() string {
	if k, ok := kinds[t]; ok {
		return k.name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// BlockSize returns how many elements one block encodes (1 for plain types,
// 0 for unknown types); a row is always a whole number of blocks.
func (t Type) BlockSize() int { return kinds[t].block }

// BlockBytes returns the bytes of one block, 0 for unknown types.
func (t Type) BlockBytes() int { return kinds[t].size }

// CanDequantize reports whether Tensor.Rows can decode t.
func (t Type) CanDequantize() bool { return kinds[t].decode != nil }

// TypeError says that a tensor's type cannot be read. It is ErrUnsupported.
type TypeError struct {
	Tensor string
	Type   Type
}

// Error names the tensor and its type.
func (e *TypeError) Error() string {
	return fmt.Sprintf("%v: tensor %q: %v", ErrUnsupported, e.Tensor, e.Type)
}

// Is makes every TypeError an ErrUnsupported.
func (e *TypeError) Is(target error) bool { return target == ErrUnsupported }
