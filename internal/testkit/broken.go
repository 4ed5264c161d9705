package testkit

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chorale/internal/safetensors"
)

// Broken is a way in which an adapter may be broken.
type Broken struct {
	Name string
	// Says is a part of the message that must tell what is wrong: a tensor, a
	// field, a feature.
	Says  []string
	write func(t testing.TB, dir string)
}

// Write writes the broken adapter into a folder.
func (b Broken) Write(t testing.TB, dir string) { b.write(t, dir) }

// whole is what is broken: one layer, so that it is small.
var whole = Adapter{Rank: 4, Modules: []string{"q_proj", "v_proj"}, Layers: 1, Seed: 7}

const (
	someA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
	someB = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
)

// config breaks the configuration.
func config(change func(c map[string]any)) func(testing.TB, string) {
	return func(t testing.TB, dir string) {
		t.Helper()
		c := whole.Config()
		change(c)
		write(t, dir, c, weights(t, whole.Tensors()))
	}
}

// tensors breaks the tensors.
func tensors(change func(ts map[string]safetensors.Tensor)) func(testing.TB, string) {
	return func(t testing.TB, dir string) {
		t.Helper()
		ts := whole.Tensors()
		change(ts)
		write(t, dir, whole.Config(), weights(t, ts))
	}
}

// bytesOf breaks the weights file.
func bytesOf(change func(b []byte) []byte) func(testing.TB, string) {
	return func(t testing.TB, dir string) {
		t.Helper()
		write(t, dir, whole.Config(), change(weights(t, whole.Tensors())))
	}
}

// value overwrites one number of a tensor.
func value(ts map[string]safetensors.Tensor, name string, v float64) {
	x := ts[name]
	binary.LittleEndian.PutUint16(x.Data[100:], uint16(math.Float32bits(float32(v))>>16))
}

// header replaces the safetensors header by another text.
func header(text string) func(b []byte) []byte {
	return func(b []byte) []byte {
		n := binary.LittleEndian.Uint64(b)
		out := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
		return append(append(out, text...), b[8+n:]...)
	}
}

// BrokenAdapters are adapters that must be refused, each with what the refusal
// must say.
func BrokenAdapters() []Broken {
	return append(append(brokenConfigs(), brokenTensors()...), brokenFiles()...)
}

func brokenConfigs() []Broken {
	set := func(field string, v any) func(testing.TB, string) {
		return config(func(c map[string]any) { c[field] = v })
	}
	return []Broken{
		{"dora", []string{"DoRA"}, set("use_dora", true)},
		{"modules-to-save", []string{"modules_to_save"}, set("modules_to_save", []string{"lm_head"})},
		{"other-kind", []string{"peft_type", "IA3"}, set("peft_type", "IA3")},
		{"rank-zero", []string{"r", "positive"}, set("r", 0)},
		{"rank-text", []string{"r"}, set("r", "four")},
		{"unknown-module", []string{"x_proj"}, set("target_modules", []string{"x_proj"})},
		{"no-modules", []string{"target_modules"}, set("target_modules", nil)},
		{"config-json", []string{"adapter config", "byte 29"}, func(t testing.TB, dir string) {
			t.Helper()
			write(t, dir, `{"peft_type": "LORA", "r": 4,`, weights(t, whole.Tensors()))
		}},
		{"no-config", []string{ConfigFile}, func(t testing.TB, dir string) {
			t.Helper()
			write(t, dir, nil, weights(t, whole.Tensors()))
		}},
		{"rank-limit", []string{"513", "512", "incompatible"}, func(t testing.TB, dir string) {
			t.Helper()
			a := whole
			a.Rank, a.Modules = 513, []string{"k_proj"}
			a.Write(t, dir)
		}},
		{"added-tokens", []string{"added"}, func(t testing.TB, dir string) {
			t.Helper()
			whole.Write(t, dir)
			if err := os.WriteFile(filepath.Join(dir, "added_tokens.json"), []byte(`{"<voice>": 49152}`), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

func brokenTensors() []Broken {
	return []Broken{
		{"shape", []string{"q_proj", "incompatible"}, tensors(func(ts map[string]safetensors.Tensor) {
			x := ts[someA]
			x.Shape, x.Data = []int{4, 575}, x.Data[:2*4*575]
			ts[someA] = x
		})},
		{"rank-differs", []string{"q_proj"}, tensors(func(ts map[string]safetensors.Tensor) {
			x := ts[someB]
			x.Shape = []int{1152, 2}
			ts[someB] = x
		})},
		{"missing", []string{"q_proj", "lora_B"}, tensors(func(ts map[string]safetensors.Tensor) { delete(ts, someB) })},
		{"nan", []string{someA}, tensors(func(ts map[string]safetensors.Tensor) { value(ts, someA, math.NaN()) })},
		{"infinite", []string{someB}, tensors(func(ts map[string]safetensors.Tensor) { value(ts, someB, math.Inf(-1)) })},
		{"unmatched", []string{"layers.7"}, tensors(func(ts map[string]safetensors.Tensor) {
			x := ts[someA]
			x.Name = strings.Replace(someA, "layers.0", "layers.7", 1)
			ts[x.Name] = x
		})},
		{"no-tensors", []string{"q_proj"}, tensors(func(ts map[string]safetensors.Tensor) { clear(ts) })},
		{"duplicate", []string{"q_proj"}, tensors(func(ts map[string]safetensors.Tensor) {
			x := ts[someA]
			x.Name = strings.Replace(someA, "lora_A.weight", "lora_A.default.weight", 1)
			ts[x.Name] = x
		})},
		{"integers", []string{someA}, tensors(func(ts map[string]safetensors.Tensor) {
			x := ts[someA]
			x.DType = safetensors.I16
			ts[someA] = x
		})},
		{"other-base", []string{"incompatible"}, func(t testing.TB, dir string) {
			t.Helper()
			a := whole
			a.Base = NewBase("other/model", 1, 2048, 32, 8, 5632)
			a.Write(t, dir)
		}},
	}
}

func brokenFiles() []Broken {
	pickle := func(t testing.TB, dir string) {
		t.Helper()
		write(t, dir, whole.Config(), nil)
		if err := os.WriteFile(filepath.Join(dir, "adapter_model.bin"), []byte("PK\x03\x04"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	absurd := `{"` + someA + `":{"dtype":"BF16","shape":[1099511627776,1048576],"data_offsets":[0,2305843009213693952]}}`
	return []Broken{
		{"truncated", []string{WeightsFile}, bytesOf(func(b []byte) []byte { return b[:len(b)-1000] })},
		{"truncated-header", []string{WeightsFile}, bytesOf(func(b []byte) []byte { return b[:60] })},
		{"empty-file", []string{WeightsFile}, bytesOf(func([]byte) []byte { return []byte{} })},
		{"lying-header", []string{WeightsFile}, bytesOf(func(b []byte) []byte {
			binary.LittleEndian.PutUint64(b, 1<<62)
			return b
		})},
		{"absurd-shape", []string{someA}, bytesOf(header(absurd))},
		{"offsets-outside", []string{someA}, bytesOf(header(`{"` + someA + `":{"dtype":"BF16","shape":[4,576],"data_offsets":[99000000,99004608]}}`))},
		{"header-json", []string{WeightsFile}, bytesOf(header(`{"x":`))},
		{"pickle-inside", []string{WeightsFile}, bytesOf(func([]byte) []byte { return []byte("\x80\x02}q\x00(X\x04\x00\x00\x00") })},
		{"pickle-only", []string{"pickle"}, pickle},
		{"no-weights", []string{WeightsFile}, func(t testing.TB, dir string) {
			t.Helper()
			write(t, dir, whole.Config(), nil)
		}},
	}
}
