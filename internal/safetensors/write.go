package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Write writes tensors and, if not empty, meta as one file. As in the reference
// implementation, wider types come first and equal types are ordered by name,
// and the header is padded with spaces to a multiple of eight bytes, so every
// tensor's data is aligned to its own type. The output depends only on the
// arguments. A name that is reserved, empty or given twice is ErrFormat, Data
// that does not fit the shape is ErrShape; both name the tensor.
func Write(w io.Writer, tensors []Tensor, meta map[string]string) error {
	sorted := slices.Clone(tensors)
	slices.SortStableFunc(sorted, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(b.DType, a.DType), cmp.Compare(a.Name, b.Name))
	})
	header, err := buildHeader(sorted, meta)
	if err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return fmt.Errorf("safetensors: write: %w", err)
	}
	for _, t := range sorted {
		if _, err := w.Write(t.Data); err != nil {
			return fmt.Errorf("safetensors: write tensor %q: %w", t.Name, err)
		}
	}
	return nil
}

// buildHeader returns the length field and the padded JSON.
func buildHeader(tensors []Tensor, meta map[string]string) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 8, 256+128*len(tensors)))
	b.WriteByte('{')
	if len(meta) > 0 {
		writeJSON(b, metadataKey)
		b.WriteByte(':')
		writeJSON(b, meta) // encoding/json sorts the keys
	}
	seen, pos := make(map[string]bool, len(tensors)), 0
	for i, t := range tensors {
		if t.Name == "" || t.Name == metadataKey || seen[t.Name] {
			return nil, fmt.Errorf("%w: tensor %q: name is reserved, empty or used twice", ErrFormat, t.Name)
		}
		seen[t.Name] = true
		if n, ok := byteLen(t.Shape, t.DType); !ok || n != len(t.Data) || t.DType.Size() == 0 {
			return nil, fmt.Errorf("%w: tensor %q: shape %v of %v with %d bytes",
				ErrShape, t.Name, t.Shape, t.DType, len(t.Data))
		}
		if i > 0 || len(meta) > 0 {
			b.WriteByte(',')
		}
		writeJSON(b, t.Name)
		b.WriteByte(':')
		writeJSON(b, struct {
			DType   string `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}{t.DType.String(), append([]int{}, t.Shape...), [2]int{pos, pos + len(t.Data)}})
		pos += len(t.Data)
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	n := b.Len() - 8
	if n > maxHeader {
		return nil, fmt.Errorf("%w: header of %d bytes, the format allows %d", ErrFormat, n, maxHeader)
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(n))
	return b.Bytes(), nil
}

// writeJSON appends v as compact JSON. The values passed here always encode.
func writeJSON(b *bytes.Buffer, v any) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	b.Truncate(b.Len() - 1) // Encode ends with a newline
}
