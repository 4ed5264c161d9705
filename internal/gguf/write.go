package gguf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"slices"
)

// KeyValue is one metadata entry for Write. Value is a bool, string, sized
// integer or float, a slice of one of these, or []any of slices (an array of
// arrays).
type KeyValue struct {
	Key   string
	Value any
}

// Write writes a version 3 file. Tensors come in the given order and with
// Data already encoded (see NewTensor), aligned to general.alignment if meta
// sets it, else 32. Bad values are ErrUnsupported, data that does not fit its
// shape ErrShape, names or keys given twice ErrFormat.
func Write(w io.Writer, meta []KeyValue, tensors []Tensor) error {
	var b bytes.Buffer
	b.WriteString(magic)
	put(&b, uint32(3))
	put(&b, uint64(len(tensors)))
	put(&b, uint64(len(meta)))
	alignment, seen := defaultAlignment, map[string]bool{}
	for _, kv := range meta {
		if seen[kv.Key] {
			return fmt.Errorf("%w: metadata %q appears twice", ErrFormat, kv.Key)
		}
		seen[kv.Key] = true
		if n, ok := kv.Value.(uint32); ok && kv.Key == alignmentKey && bits.OnesCount32(n) == 1 {
			alignment = int(n)
		}
		putString(&b, kv.Key)
		if err := putValue(&b, kv.Value, true); err != nil {
			return fmt.Errorf("metadata %q: %w", kv.Key, err)
		}
	}
	if err := putInfos(&b, tensors, alignment); err != nil {
		return err
	}
	pad(&b, alignment)
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("gguf: write: %w", err)
	}
	for _, t := range tensors {
		padded := slices.Concat(t.Data, make([]byte, alignUp(len(t.Data), alignment)-len(t.Data)))
		if _, err := w.Write(padded); err != nil {
			return fmt.Errorf("gguf: write tensor %q: %w", t.Name, err)
		}
	}
	return nil
}

func putInfos(b *bytes.Buffer, tensors []Tensor, alignment int) error {
	offset, seen := 0, map[string]bool{}
	for _, t := range tensors {
		k := kinds[t.Type]
		if k.block == 0 {
			return &TypeError{t.Name, t.Type}
		}
		if t.Cols()%k.block != 0 || t.Len()/k.block*k.size != len(t.Data) || len(t.Shape) > maxDims {
			return fmt.Errorf("%w: tensor %q: shape %v of %v with %d bytes", ErrShape, t.Name, t.Shape, t.Type, len(t.Data))
		}
		if seen[t.Name] {
			return fmt.Errorf("%w: tensor %q appears twice", ErrFormat, t.Name)
		}
		seen[t.Name] = true
		putString(b, t.Name)
		put(b, uint32(len(t.Shape)))
		for _, d := range slices.Backward(t.Shape) {
			put(b, uint64(d))
		}
		put(b, uint32(t.Type))
		put(b, uint64(offset))
		offset += alignUp(len(t.Data), alignment)
	}
	return nil
}

// put appends a fixed-size value; writing those to a Buffer cannot fail.
func put(b *bytes.Buffer, v any) { _ = binary.Write(b, binary.LittleEndian, v) }

func putString(b *bytes.Buffer, s string) {
	put(b, uint64(len(s)))
	b.WriteString(s)
}

func pad(b *bytes.Buffer, alignment int) {
	b.Write(make([]byte, alignUp(b.Len(), alignment)-b.Len()))
}

// putValue appends v, preceded by its type where the format wants it (not for
// the elements of an array).
func putValue(b *bytes.Buffer, v any, typed bool) error {
	typ, elem, n := typeOf(v)
	if typed {
		put(b, uint32(typ))
	}
	switch {
	case typ == TypeString:
		putString(b, v.(string))
	case typ != TypeArray:
		if uint32(typ) >= uint32(len(valueTypes)) {
			return fmt.Errorf("%w: metadata of Go type %T", ErrUnsupported, v)
		}
		put(b, v)
	default:
		put(b, uint32(elem))
		put(b, uint64(n))
		return putElements(b, v)
	}
	return nil
}

func putElements(b *bytes.Buffer, v any) error {
	switch v := v.(type) {
	case []string:
		for _, s := range v {
			putString(b, s)
		}
	case []any:
		for _, e := range v {
			if typ, _, _ := typeOf(e); typ != TypeArray {
				return fmt.Errorf("%w: %T in an array of arrays", ErrUnsupported, e)
			}
			if err := putValue(b, e, false); err != nil {
				return err
			}
		}
	default:
		put(b, v)
	}
	return nil
}

// typeOf returns the metadata type of v and, for a slice, its elements' type
// and number; an unknown Go type gives an invalid ValueType.
func typeOf(v any) (typ, elem ValueType, n int) {
	switch v := v.(type) {
	case uint8:
		return TypeUint8, 0, 0
	case int8:
		return TypeInt8, 0, 0
	case uint16:
		return TypeUint16, 0, 0
	case int16:
		return TypeInt16, 0, 0
	case uint32:
		return TypeUint32, 0, 0
	case int32:
		return TypeInt32, 0, 0
	case uint64:
		return TypeUint64, 0, 0
	case int64:
		return TypeInt64, 0, 0
	case float32:
		return TypeFloat32, 0, 0
	case float64:
		return TypeFloat64, 0, 0
	case bool:
		return TypeBool, 0, 0
	case string:
		return TypeString, 0, 0
	case []uint8:
		return TypeArray, TypeUint8, len(v)
	case []int8:
		return TypeArray, TypeInt8, len(v)
	case []uint16:
		return TypeArray, TypeUint16, len(v)
	case []int16:
		return TypeArray, TypeInt16, len(v)
	case []uint32:
		return TypeArray, TypeUint32, len(v)
	case []int32:
		return TypeArray, TypeInt32, len(v)
	case []uint64:
		return TypeArray, TypeUint64, len(v)
	case []int64:
		return TypeArray, TypeInt64, len(v)
	case []float32:
		return TypeArray, TypeFloat32, len(v)
	case []float64:
		return TypeArray, TypeFloat64, len(v)
	case []bool:
		return TypeArray, TypeBool, len(v)
	case []string:
		return TypeArray, TypeString, len(v)
	case []any:
		return TypeArray, TypeArray, len(v)
	}
	return ValueType(len(valueTypes)), 0, 0
}
