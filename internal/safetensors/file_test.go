package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chorale/internal/bf16"
)

// raw builds a file from header text and data, right or wrong.
func raw(header string, data ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func TestParseRefuses(t *testing.T) {
	huge := fmt.Sprintf(`{"a":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,4]}}`, 1<<40, 1<<40)
	wraps := fmt.Sprintf(`{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,0]}}`, 1<<62)
	tests := []struct {
		name string
		in   []byte
		want error
		text string // must be in the message
	}{
		{"empty", nil, ErrFormat, "shorter than the length field"},
		{"short", []byte{1, 2, 3}, ErrFormat, "3 bytes"},
		{"header beyond the file", raw(`{}`)[:9], ErrFormat, "truncated"},
		{"header over the cap", binary.LittleEndian.AppendUint64(nil, maxHeader+1), ErrFormat, "allows"},
		{"header length overflows", binary.LittleEndian.AppendUint64(nil, math.MaxUint64), ErrFormat, "allows"},
		{"no header", raw(``), ErrFormat, "'{'"},
		{"leading space", raw(` {}`), ErrFormat, "'{'"},
		{"not JSON", raw(`{a}`), ErrFormat, "byte 1"},
		{"JSON cut", raw(`{"a":{"dtype":"F32"`), ErrFormat, "ends where"},
		{"text behind", raw(`{} {}`), ErrFormat, "after the value"},
		{"not UTF-8", raw("{\"\xff\":1}"), ErrFormat, "UTF-8"},
		{"control character", raw("{\"a\nb\":1}"), ErrFormat, "control"},
		{"bad escape", raw(`{"\q":1}`), ErrFormat, "string"},
		{"no dtype", raw(`{"a":{"shape":[],"data_offsets":[0,0]}}`), ErrFormat, `"a": safetensors: malformed: no "dtype"`},
		{"no shape", raw(`{"a":{"dtype":"F32","data_offsets":[0,0]}}`), ErrFormat, `no "shape"`},
		{"no offsets", raw(`{"a":{"dtype":"F32","shape":[]}}`), ErrFormat, `no "data_offsets"`},
		{"field twice", raw(`{"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}`, 1), ErrFormat, `"dtype" appears twice`},
		{"unknown dtype", raw(`{"a":{"dtype":"F31","shape":[],"data_offsets":[0,4]}}`), ErrFormat, `"F31"`},
		{"four bit dtype", raw(`{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}`, 1), ErrUnsupported, "F4"},
		{"float in shape", raw(`{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}`, 1), ErrFormat, "integer"},
		{"negative in shape", raw(`{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1), ErrFormat, "integer"},
		{"leading zero", raw(`{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}`, 1), ErrFormat, "integer"},
		{"number beyond int", raw(`{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]}}`, 1), ErrFormat, "too large"},
		{"shape overflows", raw(huge, 0, 0, 0, 0), ErrFormat, "overflows"},
		{"shape wraps to zero", raw(wraps), ErrFormat, "overflows"},
		{"offsets reversed", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}`, 1), ErrFormat, "[1 0]"},
		{"three offsets", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}`, 1), ErrFormat, "[0 1 1]"},
		{"shape against offsets", raw(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 0, 0, 0, 0), ErrFormat, "takes 8 bytes"},
		{"past the end", raw(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 1, 2), ErrFormat, `tensor "a" ends at 4`},
		{"tail", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1, 2), ErrFormat, "1 bytes after"},
		{"hole", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 1, 2, 3), ErrFormat, `tensor "b": starts at 2, leaving a hole`},
		{"overlap", raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 1, 2, 3), ErrFormat, `tensor "b": starts at 1, inside`},
		{"tensor twice", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 1, 2), ErrFormat, `"a" appears twice`},
		{"metadata twice", raw(`{"__metadata__":{},"__metadata__":{}}`), ErrFormat, "appears twice"},
		{"metadata key twice", raw(`{"__metadata__":{"k":"1","k":"2"}}`), ErrFormat, `"k" appears twice`},
		{"metadata not a string", raw(`{"__metadata__":{"k":1}}`), ErrFormat, `"k"`},
		{"deep nesting", raw(`{"a":{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`), ErrFormat, "deeper"},
		{"bad skipped value", raw(`{"a":{"x":nul}}`), ErrFormat, "not a value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.in)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	b := raw(`{ "b" : {"data_offsets":[4,4],"shape":[0, 3],"dtype":"F32","extra":{"x":[1e3,null,"]"]}},
		"__metadata__":{"format":"pt","k\"":"\u00e9"}, "a":{"dtype":"I32","shape":[],"data_offsets":[0,4]} }   `, 1, 0, 0, 0)
	f, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, f.Names()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"format": "pt", `k"`: "é"}, f.Metadata()); diff != "" {
		t.Error(diff)
	}
	a, ok := f.Tensor("a")
	if diff := cmp.Diff(Tensor{"a", I32, []int{}, []byte{1, 0, 0, 0}}, a); !ok || diff != "" {
		t.Error(ok, diff)
	}
	if a.Len() != 1 {
		t.Errorf("a scalar has %d elements", a.Len())
	}
	if e, _ := f.Tensor("b"); e.Len() != 0 || len(e.Data) != 0 {
		t.Errorf("empty tensor: %+v", e)
	}
	if _, ok := f.Tensor("c"); ok {
		t.Error("found a tensor that is not there")
	}
	if empty, err := Parse(raw(`{}`)); err != nil || len(empty.Names()) != 0 {
		t.Error("no tensors at all:", err)
	}
}

// TestReference compares with values from ml_dtypes in a file written by the
// reference implementation (testdata/make_golden.py), and our writer with it.
func TestReference(t *testing.T) {
	path := filepath.Join("testdata", "floats.safetensors")
	for _, opts := range [][]Option{nil, {InMemory()}} {
		f, err := Open(path, opts...)
		if err != nil {
			t.Fatal(err)
		}
		checkFloats(t, f)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal("second Close:", err)
		}
	}

	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []Tensor
	for _, name := range f.Names() {
		tensor, _ := f.Tensor(name)
		tensors = append(tensors, tensor)
	}
	var out bytes.Buffer
	if err := Write(&out, tensors, f.Metadata()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, out.Bytes()) {
		t.Errorf("written bytes differ from the reference writer's:\n%q\n%q", b[:800], out.Bytes()[:800])
	}
}

func checkFloats(t *testing.T, f *File) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "floats.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string][]uint32
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) < 9 {
		t.Fatalf("only %d golden tensors", len(want))
	}
	for name, bits := range want {
		tensor, ok := f.Tensor(name)
		if !ok {
			t.Fatalf("no tensor %q", name)
		}
		got := make([]float32, tensor.Len())
		if err := tensor.Float32(got); err != nil {
			t.Fatal(err)
		}
		half := make([]uint16, tensor.Len())
		if err := tensor.BF16(half); err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			if half[i] != bf16.Of(v) {
				t.Errorf("%s[%d] = %v is %#x as bfloat16, want %#x", name, i, v, half[i], bf16.Of(v))
			}
		}
		if len(got) != len(bits) {
			t.Fatalf("%s: %d values, want %d", name, len(got), len(bits))
		}
		for i, w := range bits {
			g := math.Float32bits(got[i])
			if g != w && !(got[i] != got[i] && math.IsNaN(float64(math.Float32frombits(w)))) {
				t.Errorf("%s[%d] = %#x (%v), want %#x", name, i, g, got[i], w)
			}
		}
	}
}

func TestFloat32Refuses(t *testing.T) {
	f, err := Open(filepath.Join("testdata", "floats.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	i64, _ := f.Tensor("i64")
	if err := i64.Float32(make([]float32, 6)); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "i64") {
		t.Errorf("integers: %v", err)
	}
	if err := i64.BF16(make([]uint16, 6)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("integers as bfloat16: %v", err)
	}
	for _, name := range []string{"f16", "bf16", "f32"} {
		x, _ := f.Tensor(name)
		if err := x.BF16(make([]uint16, x.Len()+1)); !errors.Is(err, ErrShape) {
			t.Errorf("%s, long dst: %v", name, err)
		}
	}
	f16, _ := f.Tensor("f16")
	if err := f16.Float32(make([]float32, f16.Len()-1)); !errors.Is(err, ErrShape) {
		t.Errorf("short dst: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	empty, cut := filepath.Join(dir, "empty"), filepath.Join(dir, "cut")
	whole, err := os.ReadFile(filepath.Join("testdata", "floats.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, empty, nil)
	for _, n := range []int{1, 8, 100, len(whole) - 1} {
		write(t, cut, whole[:n])
		for _, opts := range [][]Option{nil, {InMemory()}} {
			if _, err := Open(cut, opts...); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), cut) {
				t.Errorf("cut at %d: %v", n, err)
			}
		}
	}
	if _, err := Open(empty); !errors.Is(err, ErrFormat) {
		t.Errorf("empty: %v", err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("folder: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	one := []byte{1}
	tests := []struct {
		name    string
		tensors []Tensor
		want    error
	}{
		{"twice", []Tensor{{"a", U8, []int{1}, one}, {"a", I8, []int{1}, one}}, ErrFormat},
		{"reserved", []Tensor{{metadataKey, U8, []int{1}, one}}, ErrFormat},
		{"unnamed", []Tensor{{"", U8, []int{1}, one}}, ErrFormat},
		{"length", []Tensor{{"a", F32, []int{1}, one}}, ErrShape},
		{"negative", []Tensor{{"a", U8, []int{-1}, one}}, ErrShape},
		{"invalid dtype", []Tensor{{"a", 0, nil, nil}}, ErrShape},
	}
	for _, tt := range tests {
		if err := Write(&bytes.Buffer{}, tt.tensors, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := Write(failing{}, nil, nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("failing writer: %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestDTypeNames(t *testing.T) {
	for d := BOOL; int(d) < len(dtypes); d++ {
		if got, err := parseDType([]byte(d.String())); got != d || err != nil || d.Size() == 0 {
			t.Errorf("%v: %v, %v, size %d", d, got, err, d.Size())
		}
	}
	if DType(0).Size() != 0 || DType(99).Size() != 0 || DType(99).String() != "DType(99)" {
		t.Error("invalid dtypes")
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzSafetensors(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "floats.safetensors"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(raw(`{}`))
	f.Add(raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[{"y":null}]},"__metadata__":{"k":"v"}}  `, 1))
	f.Add(raw(`{"weight_map":{"a":"model-1-of-1.safetensors"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 8 {
			_, _ = parseIndex(b[8:]) // the other parser of foreign bytes here
		}
		file, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		var tensors []Tensor
		for _, name := range file.Names() {
			tensor, ok := file.Tensor(name)
			if !ok || tensor.Len()*tensor.DType.Size() != len(tensor.Data) {
				t.Fatalf("tensor %q: %+v", name, tensor)
			}
			if tensor.DType.IsFloat() {
				if err := tensor.Float32(make([]float32, tensor.Len())); err != nil {
					t.Fatal(err)
				}
			}
			if name != "" {
				tensors = append(tensors, tensor)
			}
		}
		var out bytes.Buffer
		if err := Write(&out, tensors, file.Metadata()); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out.Bytes())
		if err != nil || len(again.Names()) != len(tensors) {
			t.Fatalf("written file does not read back: %v", err)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	// 600 tensors as in a 7B model's shard; the data section stays sparse.
	var tensors []Tensor
	for i := range 600 {
		tensors = append(tensors, Tensor{fmt.Sprintf("model.layers.%d.mlp.w%d.weight", i/7, i%7), BF16, []int{1024, 1024}, make([]byte, 2<<20)})
	}
	header, err := buildHeader(tensors, nil)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "big.safetensors")
	if err := os.WriteFile(path, header, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(header))+600<<21); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFloat32(b *testing.B) {
	for _, d := range []DType{F32, BF16, F16, F8E4M3} {
		b.Run(d.String(), func(b *testing.B) {
			t := Tensor{"a", d, []int{1 << 16}, make([]byte, d.Size()<<16)}
			for i := range t.Data {
				t.Data[i] = byte(i * 37)
			}
			dst := make([]float32, 1<<16)
			b.SetBytes(int64(len(t.Data)))
			for b.Loop() {
				if err := t.Float32(dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
