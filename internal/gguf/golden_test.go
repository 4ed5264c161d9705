package gguf

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func openGolden(t *testing.T, opts ...Option) *File {
	t.Helper()
	f, err := Open(filepath.Join("testdata", "types.gguf"), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// TestDequantReference demands bit-equal results with Python's
// gguf.quants.dequantize (tools/oracle/gguf), whole and row by row.
func TestDequantReference(t *testing.T) {
	f := openGolden(t)
	b, err := os.ReadFile(filepath.Join("testdata", "types.f32"))
	if err != nil {
		t.Fatal(err)
	}
	tested := map[Type]bool{}
	for _, name := range f.Names() {
		if !strings.HasPrefix(name, "dequant.") {
			continue
		}
		tensor, _ := f.Tensor(name)
		if "dequant."+tensor.Type.String() != name {
			t.Errorf("%s has type %v", name, tensor.Type)
		}
		tested[tensor.Type] = true
		if diff := cmp.Diff([]int{2, 512}, tensor.Shape); diff != "" {
			t.Fatal(name, diff)
		}
		want := make([]float32, tensor.Len())
		decodeF32(want, b)
		b = b[4*len(want):]

		got := make([]float32, len(want))
		if err := tensor.Rows(got, 0, 2); err != nil {
			t.Fatal(err)
		}
		byRow := make([]float32, len(want))
		if err := errors.Join(tensor.Rows(byRow[:512], 0, 1), tensor.Rows(byRow[512:], 1, 1)); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) || math.Float32bits(byRow[i]) != math.Float32bits(want[i]) {
				t.Errorf("%s[%d] = %v (by row %v), want %v", name, i, got[i], byRow[i], want[i])
				break
			}
		}
	}
	if len(b) != 0 {
		t.Errorf("%d golden bytes left", len(b))
	}
	for typ := range kinds {
		if typ.CanDequantize() && !tested[typ] && typ != F64 {
			t.Errorf("%v is not covered", typ)
		}
	}
}

// TestQuantizeReference demands the bytes of gguf.quants.quantize.
func TestQuantizeReference(t *testing.T) {
	f := openGolden(t)
	in, _ := f.Tensor("quantize.input")
	x := make([]float32, in.Len())
	if err := in.Rows(x, 0, in.NumRows()); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []Type{F32, F16, BF16, Q8_0, Q4_0, Q4_1} {
		want, ok := f.Tensor("quantize." + typ.String())
		if typ == F32 {
			want, ok = in, true
		}
		if !ok {
			t.Fatalf("no golden for %v", typ)
		}
		got, err := NewTensor(want.Name, typ, want.Shape, x)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", typ, diff)
		}
	}
}

func TestMetadataReference(t *testing.T) {
	for _, opts := range [][]Option{nil, {InMemory()}} {
		f := openGolden(t, opts...)
		want := map[string]any{
			"t.uint8": uint8(200), "t.int8": int8(-100), "t.uint16": uint16(60000), "t.int16": int16(-30000),
			"t.uint32": uint32(4000000000), "t.int32": int32(-2000000000), "t.uint64": uint64(1) << 63,
			"t.int64": int64(-1) << 62, "t.float32": float32(1.5), "t.float64": 0.1, "t.true": true, "t.false": false,
			"t.string": "naïve ☃", "t.strings": []string{"a", "", "ü"}, "t.ints": []any{int32(1), int32(-2), int32(3)},
			"t.floats": []any{float32(0.5), float32(-0.25)}, "t.bools": []any{true, false},
		}
		for key, w := range want {
			got, ok := f.Value(key)
			if diff := cmp.Diff(w, got); !ok || diff != "" {
				t.Error(key, ok, diff)
			}
			if !slices.Contains(f.Keys(), key) {
				t.Errorf("%s is not among the keys", key)
			}
		}
		if f.Version() != 3 || f.Alignment() != 32 {
			t.Errorf("version %d, alignment %d", f.Version(), f.Alignment())
		}
	}
}

// TestWriterReference: what Python's writer wrote, ours writes alike.
func TestWriterReference(t *testing.T) {
	f := openGolden(t)
	var meta []KeyValue
	for _, k := range f.Keys() {
		v, _ := f.Value(k)
		// Value returns arrays of scalars as []any; the writer wants them typed.
		switch k {
		case "t.ints", "tokenizer.ggml.token_type":
			v, _ = f.Int32s(k)
		case "t.floats", "tokenizer.ggml.scores":
			v, _ = f.Float32s(k)
		case "t.bools":
			v = []bool{true, false}
		}
		meta = append(meta, KeyValue{k, v})
	}
	var tensors []Tensor
	for _, n := range f.Names() {
		tensor, _ := f.Tensor(n)
		tensors = append(tensors, tensor)
	}
	var out bytes.Buffer
	if err := Write(&out, meta, tensors); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "types.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, out.Bytes()) {
		t.Errorf("%d bytes written differ from the reference's %d", out.Len(), len(want))
	}
}

func TestVocabReference(t *testing.T) {
	v, err := openGolden(t).Vocab()
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	want := Vocab{
		Model: "gpt2", Pre: "smollm", Tokens: []string{"<s>", "</s>", "a", "b", "ab"}, Types: []int32{3, 3, 1, 1, 1},
		Scores: []float32{0, 0, -1, -2, -3.5}, Merges: []string{"a b"}, BOS: 0, EOS: 1, EOT: -1, UNK: -1, PAD: -1,
		AddBOS: &no, AddSpacePrefix: &yes, ChatTemplate: "{{ messages }}",
	}
	if diff := cmp.Diff(want, v); diff != "" {
		t.Error(diff)
	}
}
