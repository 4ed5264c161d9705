package testkit

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"chorale/internal/gguf"
)

// ShallowLayers is how many layers Shallow has; lower of them are the model's first,
// the others its last, which make words of what there is.
const (
	ShallowLayers = 8
	lower         = 4
)

// Shallow is the small real model without the layers in the middle: the same tokenizer, template
// and widths, in a third of the time. What it says makes no sense, and differs by
// prompt and adapter all the same. It is made once.
func Shallow(t testing.TB) string {
	t.Helper()
	from := Model(t)
	to := filepath.Join(filepath.Dir(from), fmt.Sprintf("shallow-%d.gguf", ShallowLayers))
	if _, err := os.Stat(to); err == nil {
		return to
	}
	f, err := gguf.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var meta []gguf.KeyValue
	for _, k := range f.Keys() {
		v, _ := f.Value(k)
		// Arrays are written by their type.
		if ints, ok := f.Int32s(k); ok {
			v = ints
		} else if floats, ok := f.Float32s(k); ok {
			v = floats
		}
		if strings.HasSuffix(k, ".block_count") {
			v = uint32(ShallowLayers)
		}
		meta = append(meta, gguf.KeyValue{Key: k, Value: v})
	}
	var tensors []gguf.Tensor
	for _, name := range f.Names() {
		x, _ := f.Tensor(name)
		if rest, inLayer := strings.CutPrefix(name, "blk."); inLayer {
			number, what, _ := strings.Cut(rest, ".")
			l, err := strconv.Atoi(number)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if l >= lower && l < SmolLM2.Layers-(ShallowLayers-lower) {
				continue
			}
			if l >= lower {
				x.Name = fmt.Sprintf("blk.%d.%s", l-(SmolLM2.Layers-ShallowLayers), what)
			}
		}
		tensors = append(tensors, x)
	}
	// Tests of several packages may be here at once: each writes its own.
	tmp, err := os.CreateTemp(filepath.Dir(to), "shallow-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(tmp.Name())
	if err := gguf.Write(tmp, meta, tensors); err != nil {
		t.Fatal(err)
	}
	if err := tmp.Chmod(0o644); err != nil {
		t.Fatal(err)
	}
	if err := tmp.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp.Name(), to); err != nil {
		t.Fatal(err)
	}
	return to
}
