package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func written(t testing.TB, meta []KeyValue, tensors ...Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, meta, tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// file builds raw bytes: strings get a length, other values go as they are.
func file(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			putString(&b, p)
		case []byte:
			b.Write(p)
		default:
			put(&b, p)
		}
	}
	return b.Bytes()
}

func header(version uint32, tensors, values uint64) []byte {
	return file([]byte(magic), version, tensors, values)
}

func u8(name string, offset uint64) []byte {
	return file(name, uint32(1), uint64(8), uint32(I8), offset)
}

func TestParseRefuses(t *testing.T) {
	const many = uint64(1) << 60
	data := make([]byte, 256)
	tests := []struct {
		name string
		in   []byte
		want error
		text string
	}{
		{"empty", nil, ErrFormat, "GGUF"},
		{"other magic", []byte("GGML0000"), ErrFormat, "GGUF"},
		{"cut in the version", []byte("GGUF\x03"), ErrFormat, "truncated"},
		{"version 1", header(1, 0, 0), ErrUnsupported, "version 1"},
		{"version 4", header(4, 0, 0), ErrUnsupported, "version 4"},
		{"big endian", file([]byte(magic), uint32(3<<24), uint64(0), uint64(0)), ErrUnsupported, "big endian file (version 3)"},
		{"no counts", header(3, 0, 0)[:10], ErrFormat, "truncated"},
		{"absurd values", header(3, 0, many), ErrFormat, "cannot fit"},
		{"absurd tensors", header(3, many, 0), ErrFormat, "cannot fit"},
		{"absurd key", file(header(3, 0, 1), many, uint64(0)), ErrFormat, "truncated"},
		{"key too long", file(header(3, 0, 1), strings.Repeat("k", 65536), uint32(7), true), ErrFormat, "65536"},
		{"unknown value type", file(header(3, 0, 1), "k", uint32(13), uint64(0)), ErrFormat, `"k": gguf: malformed: unknown metadata type 13`},
		{"huge value type", file(header(3, 0, 1), "k", uint32(math.MaxUint32), uint64(0)), ErrFormat, `"k"`},
		{"absurd string", file(header(3, 0, 1), "k", uint32(TypeString), many), ErrFormat, `"k"`},
		{"absurd array", file(header(3, 0, 1), "k", uint32(TypeArray), uint32(TypeInt32), many), ErrFormat, "cannot fit"},
		{"array count wraps", file(header(3, 0, 1), "k", uint32(TypeArray), uint32(TypeUint64), uint64(1)<<61), ErrFormat, "cannot fit"},
		{"array of nothing known", file(header(3, 0, 1), "k", uint32(TypeArray), uint32(99), uint64(0)), ErrFormat, "array of type 99"},
		{"array nested too deep", file(header(3, 0, 1), "k", uint32(TypeArray), bytes.Repeat(file(uint32(TypeArray), uint64(1)), 9)), ErrFormat, "depth"},
		{"string in array cut", file(header(3, 0, 1), "k", uint32(TypeArray), uint32(TypeString), uint64(1), uint64(5), []byte("abc")), ErrFormat, `"k"`},
		{"key twice", file(header(3, 0, 2), "k", uint32(TypeBool), true, "k", uint32(TypeBool), true), ErrFormat, `"k" appears twice`},
		{"alignment type", written(t, []KeyValue{{alignmentKey, uint64(32)}}), ErrFormat, alignmentKey},
		{"alignment zero", written(t, []KeyValue{{alignmentKey, uint32(0)}}), ErrFormat, alignmentKey},
		{"alignment odd", written(t, []KeyValue{{alignmentKey, uint32(48)}}), ErrFormat, alignmentKey},
		{"alignment huge", file(header(3, 0, 1), alignmentKey, uint32(TypeUint32), uint32(1<<31)), ErrFormat, alignmentKey},
		{"info cut", file(header(3, 1, 0), u8("a", 0)[:20], data[:8]), ErrFormat, "truncated"},
		{"dimensions", file(header(3, 1, 0), "a", uint32(5), data), ErrFormat, `"a": 5 dimensions`},
		{"dimension zero", file(header(3, 1, 0), "a", uint32(1), uint64(0), uint32(F32), uint64(0), data), ErrFormat, `"a": dimension 0`},
		{"shape overflows", file(header(3, 1, 0), "a", uint32(2), uint64(1)<<40, uint64(1)<<40, uint32(F32), uint64(0), data), ErrFormat, `"a"`},
		{"bytes overflow", file(header(3, 1, 0), "a", uint32(1), uint64(1)<<62, uint32(F32), uint64(0), data), ErrFormat, "overflows"},
		{"unknown tensor type", file(header(3, 1, 0), "a", uint32(1), uint64(8), uint32(4), uint64(0), data), ErrUnsupported, `"a": type 4`},
		{"row is no block", file(header(3, 1, 0), "a", uint32(1), uint64(33), uint32(Q8_0), uint64(0), data), ErrFormat, `"a": rows of 33`},
		{"unaligned", file(header(3, 1, 0), u8("a", 16), data), ErrFormat, `"a": offset 16`},
		{"past the end", file(header(3, 1, 0), u8("a", 1<<20), data), ErrFormat, `truncated: tensor "a"`},
		{"offset wraps", file(header(3, 1, 0), u8("a", math.MaxUint64-31), data), ErrFormat, `truncated: tensor "a"`},
		{"tensor twice", file(header(3, 2, 0), u8("a", 0), u8("a", 32), data), ErrFormat, `"a" appears twice`},
		{"overlap", file(header(3, 2, 0), u8("a", 0), u8("b", 0), data), ErrFormat, "lies inside"},
		{"no data at all", file(header(3, 1, 0), u8("a", 0)), ErrFormat, "truncated"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Parse(tt.in)
			if f != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	// Version 2, odd alignment, a scalar, a hole between tensors, nested arrays.
	f, err := Parse(file(header(2, 2, 2),
		alignmentKey, uint32(TypeUint32), uint32(8),
		"nested", uint32(TypeArray), uint32(TypeArray), uint64(2),
		uint32(TypeInt16), uint64(2), int16(-1), int16(2), uint32(TypeString), uint64(1), "x",
		"b", uint32(0), uint32(F32), uint64(64), u8("a", 8),
		make([]byte, 7+80)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Version() != 2 || f.Alignment() != 8 {
		t.Errorf("version %d, alignment %d", f.Version(), f.Alignment())
	}
	if diff := cmp.Diff([]string{"b", "a"}, f.Names()); diff != "" {
		t.Error(diff)
	}
	got, _ := f.Value("nested")
	if diff := cmp.Diff([]any{[]any{int16(-1), int16(2)}, []string{"x"}}, got); diff != "" {
		t.Error(diff)
	}
	b, _ := f.Tensor("b")
	if b.Len() != 1 || b.Cols() != 1 || b.NumRows() != 1 || b.Rows(make([]float32, 1), 0, 1) != nil {
		t.Errorf("scalar: %+v", b)
	}
	if _, ok := f.Value("none"); ok {
		t.Error("found a key that is not there")
	}
	if f, err := Parse(header(3, 0, 0)); err != nil || len(f.Names()) != 0 {
		t.Error("empty file:", err)
	}
}

func TestGetters(t *testing.T) {
	f, err := Parse(written(t, []KeyValue{
		{"u8", uint8(7)},
		{"i64", int64(-3)},
		{"u64", uint64(math.MaxUint64)},
		{"f32", float32(0.5)},
		{"f64", 0.25},
		{"s", "x"},
		{"b", true},
		{"big", int64(1) << 40},
		{"u64s", []uint64{1, math.MaxUint64}},
		{"i8s", []int8{-1, 1}},
		{"u32s", []uint32{1, math.MaxUint32}},
		{"i32s", []int32{-1}},
		{"f64s", []float64{0.5}},
		{"u16s", []uint16{65535}},
		{"bools", []bool{true}},
		{"nested", []any{[]string{"a"}, []int32{}}},
		{"empty", []string{}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	type r struct {
		V  any
		OK bool
	}
	of := func(v any, ok bool) r {
		if !ok {
			v = nil // what comes with ok = false means nothing
		}
		return r{v, ok}
	}
	got, want := map[string]r{}, map[string]r{}
	check := func(name string, v any, ok bool, w any) {
		got[name] = of(v, ok)
		want[name] = r{w, w != nil}
	}
	for key, w := range map[string]any{"u8": uint32(7), "i64": nil, "u64": nil, "f32": nil, "s": nil, "none": nil, "i8s": nil, "big": nil} {
		v, ok := f.Uint32(key)
		check("Uint32 "+key, v, ok, w)
	}
	for key, w := range map[string]any{"u8": int32(7), "i64": int32(-3), "big": nil, "b": nil} {
		v, ok := f.Int32(key)
		check("Int32 "+key, v, ok, w)
	}
	for key, w := range map[string]any{"u64": uint64(math.MaxUint64), "i64": nil, "big": uint64(1) << 40} {
		v, ok := f.Uint64(key)
		check("Uint64 "+key, v, ok, w)
	}
	for key, w := range map[string]any{"u64": nil, "i64": int64(-3)} {
		v, ok := f.Int64(key)
		check("Int64 "+key, v, ok, w)
	}
	for key, w := range map[string]any{"f32": float32(0.5), "f64": float32(0.25), "u8": nil, "none": nil} {
		v, ok := f.Float32(key)
		check("Float32 "+key, v, ok, w)
	}
	for key, w := range map[string]any{"b": true, "u8": nil} {
		v, ok := f.Bool(key)
		check("Bool "+key, v, ok, w)
	}
	for key, w := range map[string]any{"s": "x", "b": nil} {
		v, ok := f.String(key)
		check("String "+key, v, ok, w)
	}
	for key, w := range map[string]any{"empty": []string{}, "i8s": nil, "s": nil} {
		v, ok := f.Strings(key)
		check("Strings "+key, v, ok, w)
	}
	for key, w := range map[string]any{"i8s": []int32{-1, 1}, "u32s": nil, "i32s": []int32{-1}, "u64s": nil, "bools": nil, "u8": nil, "u16s": []int32{65535}} {
		v, ok := f.Int32s(key)
		check("Int32s "+key, v, ok, w)
	}
	for key, w := range map[string]any{"i8s": nil, "u32s": []uint32{1, math.MaxUint32}, "i32s": nil, "u64s": nil} {
		v, ok := f.Uint32s(key)
		check("Uint32s "+key, v, ok, w)
	}
	for key, w := range map[string]any{"f64s": []float32{0.5}, "f64": nil, "i8s": nil} {
		v, ok := f.Float32s(key)
		check("Float32s "+key, v, ok, w)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	nested, _ := f.Value("nested")
	if diff := cmp.Diff([]any{[]string{"a"}, []any{}}, nested); diff != "" {
		t.Error(diff)
	}
}

func TestRowsRefuses(t *testing.T) {
	plain, err := NewTensor("w", Q8_0, []int{2, 3, 32}, make([]float32, 192))
	if err != nil {
		t.Fatal(err)
	}
	if plain.NumRows() != 6 || plain.Cols() != 32 {
		t.Errorf("%d rows of %d", plain.NumRows(), plain.Cols())
	}
	for _, tt := range []struct{ dst, row0, n int }{{32, 6, 1}, {64, 5, 2}, {31, 0, 1}, {32, -1, 1}, {0, 0, -1}, {0, 7, 0}} {
		if err := plain.Rows(make([]float32, tt.dst), tt.row0, tt.n); !errors.Is(err, ErrShape) || !strings.Contains(err.Error(), `"w"`) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if err := plain.Rows(nil, 6, 0); err != nil {
		t.Errorf("no rows at the end: %v", err)
	}
	if err := (Tensor{Name: "w", Type: F32, Shape: []int{2}}).Rows(make([]float32, 2), 0, 1); !errors.Is(err, ErrShape) {
		t.Errorf("missing data: %v", err)
	}
	err = (Tensor{Name: "w", Type: Type(16), Shape: []int{256}, Data: make([]byte, 66)}).Rows(make([]float32, 256), 0, 1)
	var te *TypeError
	if !errors.As(err, &te) || te.Type.String() != "IQ2_XXS" || !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), `"w": IQ2_XXS`) {
		t.Errorf("undecodable type: %v", err)
	}
}

func TestPermuteLlamaRows(t *testing.T) {
	// Forward, as llama.cpp's converter does: [heads, 2, D/2] -> [heads, D/2, 2].
	const heads, dim, cols = 3, 8, 2
	hf, packed := make([]int, heads*dim*cols), make([]int, heads*dim*cols)
	for i := range hf {
		hf[i] = i
	}
	for h := range heads {
		for j := range 2 {
			for i := range dim / 2 {
				for c := range cols {
					packed[(h*dim+2*i+j)*cols+c] = hf[(h*dim+j*dim/2+i)*cols+c]
				}
			}
		}
	}
	got := make([]int, len(hf))
	if err := PermuteLlamaRows(got, packed, heads, dim, cols); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(hf, got); diff != "" {
		t.Error(diff)
	}
	if r := LlamaRow(64+32+5, 64); r != 64+11 {
		t.Errorf("LlamaRow = %d", r)
	}
	for _, bad := range [][3]int{{0, 8, 2}, {3, 7, 2}, {3, 8, 0}, {2, 8, 2}, {3, 8, 3}, {3, -2, 1}} {
		if err := PermuteLlamaRows(got, packed, bad[0], bad[1], bad[2]); !errors.Is(err, ErrShape) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestVocabRefuses(t *testing.T) {
	tokens := KeyValue{"tokenizer.ggml.tokens", []string{"a", "b"}}
	tests := []struct {
		name string
		meta []KeyValue
		want error
		text string
	}{
		{"nothing", nil, ErrMissing, "tokens"},
		{"empty", []KeyValue{{"tokenizer.ggml.tokens", []string{}}}, ErrMissing, "tokens"},
		{"tokens not strings", []KeyValue{{"tokenizer.ggml.tokens", []int32{1}}}, ErrFormat, "tokens"},
		{"model not a string", []KeyValue{tokens, {"tokenizer.ggml.model", true}}, ErrFormat, "model"},
		{"flag not a bool", []KeyValue{tokens, {"tokenizer.ggml.add_bos_token", uint8(1)}}, ErrFormat, "add_bos_token"},
		{"types too few", []KeyValue{tokens, {"tokenizer.ggml.token_type", []int32{1}}}, ErrFormat, "token_type"},
		{"scores too many", []KeyValue{tokens, {"tokenizer.ggml.scores", []float32{1, 2, 3}}}, ErrFormat, "scores"},
		{"id too large", []KeyValue{tokens, {"tokenizer.ggml.bos_token_id", uint32(2)}}, ErrFormat, "bos_token_id"},
		{"id negative", []KeyValue{tokens, {"tokenizer.ggml.eos_token_id", int32(-2)}}, ErrFormat, "eos_token_id"},
		{"id not an integer", []KeyValue{tokens, {"tokenizer.ggml.eot_token_id", "x"}}, ErrFormat, "eot_token_id"},
	}
	for _, tt := range tests {
		f, err := Parse(written(t, tt.meta))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Vocab(); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %v with %q", tt.name, err, tt.want, tt.text)
		}
	}
	f, err := Parse(written(t, []KeyValue{tokens, {"tokenizer.ggml.padding_token_id", uint32(math.MaxUint32)}, {"tokenizer.ggml.unknown_token_id", int32(-1)}}))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := f.Vocab(); err != nil || v.PAD != -1 || v.UNK != -1 || v.AddBOS != nil {
		t.Errorf("ids spelled as none: %+v, %v", v, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	one := Tensor{Name: "a", Type: F32, Shape: []int{1}, Data: make([]byte, 4)}
	tests := []struct {
		name    string
		meta    []KeyValue
		tensors []Tensor
		want    error
	}{
		{"Go type", []KeyValue{{"k", struct{}{}}}, nil, ErrUnsupported},
		{"scalar among arrays", []KeyValue{{"k", []any{1}}}, nil, ErrUnsupported},
		{"key twice", []KeyValue{{"k", true}, {"k", true}}, nil, ErrFormat},
		{"tensor twice", nil, []Tensor{one, one}, ErrFormat},
		{"length", nil, []Tensor{{Name: "a", Type: F32, Shape: []int{2}, Data: make([]byte, 4)}}, ErrShape},
		{"block", nil, []Tensor{{Name: "a", Type: Q8_0, Shape: []int{2, 16}, Data: make([]byte, 34)}}, ErrShape},
		{"type", nil, []Tensor{{Name: "a", Type: 5}}, ErrUnsupported},
	}
	for _, tt := range tests {
		if err := Write(io.Discard, tt.meta, tt.tensors); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := Write(failing{}, nil, nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("failing writer: %v", err)
	}
	for _, v := range [][]float32{make([]float32, 31), append(make([]float32, 31), float32(math.NaN())), append(make([]float32, 31), float32(math.Inf(1)))} {
		if _, err := Quantize(Q4_0, v); !errors.Is(err, ErrShape) {
			t.Errorf("quantize %v: %v", v, err)
		}
	}
	if _, err := Quantize(Q6_K, make([]float32, 256)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("quantize to Q6_K: %v", err)
	}
	if _, err := NewTensor("a", Q8_0, []int{2, 16}, make([]float32, 32)); !errors.Is(err, ErrShape) {
		t.Errorf("rows smaller than a block: %v", err)
	}
	if _, err := NewTensor("a", F32, []int{2, 16}, make([]float32, 31)); !errors.Is(err, ErrShape) {
		t.Errorf("too few values: %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestF16RoundTrip(t *testing.T) {
	var b, c [2]byte
	for h := range 1 << 16 {
		binary.LittleEndian.PutUint16(b[:], uint16(h))
		v := f16(b[:])
		if v != v {
			continue
		}
		putF16(c[:], v)
		if b != c {
			t.Fatalf("%#x -> %v -> %x", h, v, c)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.gguf")
	whole, err := os.ReadFile(filepath.Join("testdata", "types.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 3, 24, 700, 3000, len(whole) - 500} {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		for _, opts := range [][]Option{nil, {InMemory()}} {
			if _, err := Open(path, opts...); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), path) {
				t.Errorf("cut at %d: %v", n, err)
			}
		}
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("folder: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func FuzzGGUF(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "types.gguf"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	small, err := NewTensor("w", Q4_1, []int{2, 32}, make([]float32, 64))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(written(f, []KeyValue{
		{"tokenizer.ggml.tokens", []string{"a"}}, {"n", []any{[]int32{1}, []string{"x"}}}, {alignmentKey, uint32(64)},
	}, small))
	f.Add(file(header(2, 2, 0), u8("a", 0), "b", uint32(0), uint32(F32), uint64(32), make([]byte, 96)))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		for _, k := range file.Keys() {
			if _, ok := file.Value(k); !ok || !file.Has(k) {
				t.Fatalf("key %q has no value", k)
			}
			file.Uint32(k)
			file.Uint64(k)
			file.Float32(k)
			file.Bool(k)
			file.String(k)
			file.Strings(k)
			file.Int32s(k)
			file.Uint32s(k)
			file.Float32s(k)
		}
		if _, err := file.Vocab(); err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrMissing) {
			t.Fatal(err)
		}
		for _, n := range file.Names() {
			tensor, _ := file.Tensor(n)
			dst := make([]float32, tensor.Cols())
			for r := range tensor.NumRows() {
				if err := tensor.Rows(dst, r, 1); err != nil && !errors.Is(err, ErrUnsupported) {
					t.Fatal(err)
				}
			}
		}
	})
}
