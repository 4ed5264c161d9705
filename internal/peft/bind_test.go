package peft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chorale/internal/safetensors"
)

// zeros makes a tensor of zeros.
func zeros(name string, d safetensors.DType, shape ...int) safetensors.Tensor {
	n := d.Size()
	for _, s := range shape {
		n *= s
	}
	return safetensors.Tensor{Name: name, DType: d, Shape: shape, Data: make([]byte, n)}
}

const (
	q0 = keyPrefix + "model.layers.0.self_attn.q_proj"
	v0 = keyPrefix + "model.layers.0.self_attn.v_proj"
	em = keyPrefix + "model.embed_tokens"
	hd = keyPrefix + "lm_head"
)

// whole is an adapter for q_proj and v_proj of layers(1).
func whole() map[string]safetensors.Tensor {
	m := map[string]safetensors.Tensor{}
	put(m, zeros(q0+".lora_A.weight", safetensors.BF16, 4, 16))
	put(m, zeros(q0+".lora_B.weight", safetensors.BF16, 16, 4))
	put(m, zeros(v0+".lora_A.weight", safetensors.F32, 4, 16))
	put(m, zeros(v0+".lora_B.weight", safetensors.F32, 8, 4))
	return m
}

func put(m map[string]safetensors.Tensor, t safetensors.Tensor) { m[t.Name] = t }

// embedded is an adapter for embedding and head.
func embedded() map[string]safetensors.Tensor {
	m := map[string]safetensors.Tensor{}
	put(m, zeros(em+".lora_embedding_A", safetensors.BF16, 4, 20))
	put(m, zeros(em+".lora_embedding_B", safetensors.BF16, 16, 4))
	put(m, zeros(hd+".lora_A.weight", safetensors.BF16, 4, 16))
	put(m, zeros(hd+".lora_B.weight", safetensors.BF16, 20, 4))
	return m
}

func rename(m map[string]safetensors.Tensor, from, to string) {
	t := m[from]
	delete(m, from)
	t.Name = to
	put(m, t)
}

type bindCase struct {
	name   string
	conf   string // more config members
	edit   func(m map[string]safetensors.Tensor)
	limits Limits
	want   error
	text   string
}

func TestBind(t *testing.T) {
	const targets = `"target_modules":["q_proj","v_proj"],"r":4`
	tests := []bindCase{
		{name: "as saved", conf: targets},
		{name: "adapter name in the keys", conf: targets, edit: func(m map[string]safetensors.Tensor) {
			rename(m, q0+".lora_A.weight", q0+".lora_A.default.weight")
			rename(m, q0+".lora_B.weight", q0+".lora_B.other.weight")
		}},
		{
			name: "missing B", conf: targets, edit: func(m map[string]safetensors.Tensor) { delete(m, v0+".lora_B.weight") },
			want: ErrMissing, text: v0 + ".lora_B.weight",
		},
		{
			name: "many missing", conf: targets, edit: func(m map[string]safetensors.Tensor) { clear(m) },
			want: ErrMissing, text: "and 1 more",
		},
		{
			name: "missing bias of B", conf: targets + `,"lora_bias":true`, want: ErrMissing, text: q0 + ".lora_B.bias",
		},
		{
			name: "module that is no target", conf: `"r":4`, want: ErrUnmatched, text: v0 + ".lora_A.weight",
		},
		{
			name: "many unmatched", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				for i := range 10 {
					put(m, zeros(fmt.Sprintf("x%d", i), safetensors.F32, 1))
				}
			}, want: ErrUnmatched, text: `"x0", "x1", "x2" and 7 more`,
		},
		{
			name: "no prefix", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				rename(m, q0+".lora_A.weight", "model.layers.0.self_attn.q_proj.lora_A.weight")
			}, want: ErrUnmatched, text: `"model.layers.0`,
		},
		{
			name: "odd suffix", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				rename(m, q0+".lora_A.weight", q0+".lora_A.a.b.weight")
			}, want: ErrUnmatched, text: "lora_A.a.b",
		},
		{
			name: "AdaLoRA's tensor", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(q0+".lora_E", safetensors.F32, 4, 1))
			}, want: ErrUnmatched, text: "lora_E",
		},
		{
			name: "same place twice", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(q0+".lora_A.default.weight", safetensors.F32, 4, 16))
			}, want: ErrDuplicate, text: q0 + ".lora_A.weight",
		},
		{
			name: "A transposed", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(v0+".lora_A.weight", safetensors.F32, 16, 4))
			}, want: ErrShape, text: v0 + `.lora_A.weight" is [16 4], want [4 16]`,
		},
		{
			name: "B of another base", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(v0+".lora_B.weight", safetensors.F32, 12, 4))
			}, want: ErrShape, text: `is [12 4], want [8 4]`,
		},
		{
			name: "rank unlike the config's", conf: targets + `,"rank_pattern":{"q_proj":2}`, want: ErrShape, text: `is [4 16], want [2 16]`,
		},
		{
			name: "integers", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(v0+".lora_B.weight", safetensors.I32, 8, 4))
			}, want: ErrUnsupported, text: "I32",
		},
		{name: "rank at the limit", conf: targets, limits: Limits{MaxRank: 4}},
		{name: "rank above", conf: targets, limits: Limits{MaxRank: 3}, want: ErrRank, text: `q_proj" has rank 4, at most 3`},
		{name: "allowed modules", conf: targets, limits: Limits{TargetModules: []string{"q_proj", "model.layers.0.self_attn.v_proj"}}},
		{name: "forbidden module", conf: targets, limits: Limits{TargetModules: []string{"q_proj"}}, want: ErrTarget, text: "v_proj"},
		{
			name: "DoRA in the tensors", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(q0+".lora_magnitude_vector", safetensors.F32, 16))
			}, want: ErrUnsupported, text: "lora_magnitude_vector",
		},
		{
			name: "saved module in the tensors", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(hd+".modules_to_save.weight", safetensors.F32, 20, 16))
			}, want: ErrUnsupported, text: "modules_to_save",
		},
		{
			name: "trained tokens in the tensors", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(em+".token_adapter.trainable_tokens_delta", safetensors.F32, 2, 16))
			}, want: ErrUnsupported, text: "token_adapter",
		},
		{
			name: "bias that the config denies", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(v0+".base_layer.bias", safetensors.F32, 8))
			}, want: ErrUnmatched, text: "bias",
		},
		{name: "bias", conf: targets + `,"bias":"lora_only"`, edit: func(m map[string]safetensors.Tensor) {
			put(m, zeros(v0+".base_layer.bias", safetensors.F32, 8))
		}},
		{
			name: "bias where the base has none", conf: targets + `,"bias":"all"`, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(q0+".base_layer.bias", safetensors.F32, 16))
			}, want: ErrUnmatched, text: "q_proj",
		},
		{
			name: "bias twice", conf: targets + `,"bias":"all"`, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(v0+".base_layer.bias", safetensors.F32, 8))
				put(m, zeros(v0+".bias", safetensors.F32, 8))
			}, want: ErrDuplicate, text: v0 + ".bias",
		},
		{
			name: "bias shape", conf: targets + `,"bias":"all"`, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(v0+".bias", safetensors.F32, 16))
			}, want: ErrShape, text: "want [8]",
		},
		{
			name: "full weight of a linear layer", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				put(m, zeros(q0+".base_layer.weight", safetensors.F32, 16, 16))
			}, want: ErrUnmatched, text: "base_layer.weight",
		},
		{
			name: "embedding LoRA on a linear layer", conf: targets, edit: func(m map[string]safetensors.Tensor) {
				rename(m, q0+".lora_A.weight", q0+".lora_embedding_A")
			}, want: ErrUnmatched, text: "lora_embedding_A",
		},
	}
	runBind(t, tests, whole)
}

func TestBindEmbedding(t *testing.T) {
	const targets = `"target_modules":["embed_tokens","lm_head"],"r":4`
	full := func(rows, cols int) func(m map[string]safetensors.Tensor) {
		return func(m map[string]safetensors.Tensor) {
			put(m, zeros(em+".base_layer.weight", safetensors.BF16, rows, cols))
			put(m, zeros(hd+".weight", safetensors.BF16, 20, 16))
		}
	}
	tests := []bindCase{
		{name: "as saved", conf: targets},
		{name: "with adapter name", conf: targets, edit: func(m map[string]safetensors.Tensor) {
			rename(m, em+".lora_embedding_A", em+".lora_embedding_A.default")
		}},
		{name: "saved in full", conf: targets, edit: full(20, 16)},
		{name: "more tokens", conf: targets, edit: full(22, 16), want: ErrUnsupported, text: "adds tokens to the vocabulary of 20"},
		{name: "fewer tokens", conf: targets, edit: full(18, 16), want: ErrShape, text: "want [20 16]"},
		{name: "other width", conf: targets, edit: full(20, 8), want: ErrShape, text: "want [20 16]"},
		{name: "saved twice", conf: targets, edit: func(m map[string]safetensors.Tensor) {
			full(20, 16)(m)
			put(m, zeros(hd+".base_layer.weight", safetensors.BF16, 20, 16))
		}, want: ErrDuplicate, text: "lm_head"},
		{name: "linear LoRA on the embedding", conf: targets, edit: func(m map[string]safetensors.Tensor) {
			put(m, zeros(em+".lora_A.weight", safetensors.BF16, 4, 20))
		}, want: ErrUnmatched, text: "lora_A"},
		{name: "transposed", conf: targets, edit: func(m map[string]safetensors.Tensor) {
			put(m, zeros(em+".lora_embedding_A", safetensors.BF16, 20, 4))
		}, want: ErrShape, text: "want [4 20]"},
	}
	runBind(t, tests, embedded)
}

func runBind(t *testing.T, tests []bindCase, start func() map[string]safetensors.Tensor) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseConfig([]byte(conf(tt.conf)))
			if err != nil {
				t.Fatal(err)
			}
			m := start()
			if tt.edit != nil {
				tt.edit(m)
			}
			a, err := Bind(c, fileOf(t, m), layers(1), tt.limits)
			if tt.want == nil {
				if err != nil || len(a.LoRAs) != 2 || a.MaxRank() != 4 || len(m) != 4+len(a.Biases)+len(a.FullEmbeddings) {
					t.Fatalf("%+v, %v", a, err)
				}
				return
			}
			if a != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

// TestBindNonFinite puts every kind of bad value at every place of a tensor,
// and checks that the largest finite ones pass.
func TestBindNonFinite(t *testing.T) {
	tests := []struct {
		dtype    safetensors.DType
		bad, top []uint64
	}{
		{safetensors.F32, []uint64{0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff, 0x7f800001}, []uint64{0x7f7fffff, 0xff7fffff, 0}},
		{safetensors.F16, []uint64{0x7c00, 0xfc00, 0x7e00, 0xffff, 0x7c01}, []uint64{0x7bff, 0xfbff, 0x8000}},
		{safetensors.BF16, []uint64{0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7f81}, []uint64{0x7f7f, 0xff7f, 0x8000}},
		{safetensors.F64, []uint64{math.Float64bits(math.Inf(1)), math.Float64bits(math.NaN()), math.Float64bits(1e300)}, []uint64{math.Float64bits(3e38)}},
		{safetensors.F8E4M3, []uint64{0x7f, 0xff}, []uint64{0x7e, 0xfe, 0x78}},
		{safetensors.F8E5M2, []uint64{0x7c, 0xfd}, []uint64{0x7b, 0xfb}},
	}
	for _, tt := range tests {
		size := tt.dtype.Size()
		set := func(x safetensors.Tensor, i int, v uint64) {
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], v)
			copy(x.Data[i*size:(i+1)*size], b[:])
		}
		for n := 1; n < 12; n++ {
			x := zeros("x", tt.dtype, n)
			for i := range n {
				for _, v := range tt.top {
					set(x, i, v)
					if err := checkFinite(x); err != nil {
						t.Errorf("%v: %#x refused: %v", tt.dtype, v, err)
					}
				}
			}
			for i := range n {
				for _, v := range tt.bad {
					set(x, i, v)
					err := checkFinite(x)
					if !errors.Is(err, ErrNonFinite) || !strings.Contains(err.Error(), fmt.Sprintf(`"x": element %d of [%d]`, i, n)) {
						t.Errorf("%v: %#x at %d of %d: %v", tt.dtype, v, i, n, err)
					}
					set(x, i, tt.top[0])
				}
			}
		}
	}

	c, err := ParseConfig([]byte(conf(`"target_modules":["q_proj","v_proj"],"r":4`)))
	if err != nil {
		t.Fatal(err)
	}
	m := whole()
	binary.LittleEndian.PutUint16(m[q0+".lora_B.weight"].Data[6:], 0x7fc0)
	if _, err := Bind(c, fileOf(t, m), layers(1), Limits{}); !errors.Is(err, ErrNonFinite) || !strings.Contains(err.Error(), q0+".lora_B.weight") {
		t.Errorf("bind: %v", err)
	}
}

// TestBindOrder: tensors go to the module whose name they bear, modules come
// in the base's order.
func TestBindOrder(t *testing.T) {
	c, err := ParseConfig([]byte(conf(`"target_modules":["v_proj","q_proj"],"r":4,"bias":"all","lora_bias":true`)))
	if err != nil {
		t.Fatal(err)
	}
	m := whole()
	put(m, zeros(q0+".lora_B.bias", safetensors.F32, 16))
	put(m, zeros(v0+".lora_B.bias", safetensors.F32, 8))
	put(m, zeros(v0+".base_layer.bias", safetensors.F32, 8))
	a, err := Bind(c, fileOf(t, m), layers(1), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range a.LoRAs {
		names = append(names, l.Module.Name, l.A.Name, l.B.Name, l.BBias.Name)
	}
	names = append(names, a.Biases[0].Module.Name, a.Biases[0].Value.Name)
	q, v := "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
	want := []string{
		q, q0 + ".lora_A.weight", q0 + ".lora_B.weight", q0 + ".lora_B.bias",
		v, v0 + ".lora_A.weight", v0 + ".lora_B.weight", v0 + ".lora_B.bias", v, v0 + ".base_layer.bias",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

// FuzzBind renames one tensor of a whole adapter and changes its dtype, shape
// and bytes; whatever comes out must be consistent or a typed error.
func FuzzBind(f *testing.F) {
	known := []error{ErrConfig, ErrUnsupported, ErrTarget, ErrUnmatched, ErrMissing, ErrDuplicate, ErrNonFinite, ErrShape, ErrRank}
	for _, c := range loadGoldens(f).Cases {
		for name := range c.Tensors {
			f.Add([]byte(c.Config), name, uint8(safetensors.F32), 4, 16, uint16(0))
			break
		}
	}
	f.Add([]byte(conf(`"r":4,"target_modules":["q_proj","v_proj"],"bias":"all"`)), v0+".bias", uint8(safetensors.BF16), 8, 1, uint16(0x7f80))
	f.Add([]byte(conf(`"r":4,"target_modules":["q_proj","v_proj"]`)), hd+".weight", uint8(safetensors.BF16), 21, 16, uint16(1))
	f.Fuzz(func(t *testing.T, config []byte, name string, dtype uint8, rows, cols int, fill uint16) {
		c, err := ParseConfig(config)
		if err != nil {
			return
		}
		m := whole()
		d := safetensors.DType(dtype)
		if d.Size() > 0 && name != "" && name != "__metadata__" && rows >= 0 && rows < 64 && cols >= 0 && cols < 64 {
			x := zeros(strings.ToValidUTF8(name, "?"), d, rows, cols)
			for i := range x.Data {
				x.Data[i] = byte(fill >> (8 * (i % 2)))
			}
			put(m, x)
		}
		a, err := Bind(c, fileOf(t, m), layers(1), Limits{MaxRank: 64})
		if err != nil {
			for _, k := range known {
				if errors.Is(err, k) {
					return
				}
			}
			t.Fatalf("untyped error %v", err)
		}
		bound := len(a.Biases) + len(a.FullEmbeddings)
		for _, l := range a.LoRAs {
			bound += 2
			if l.BBias.Name != "" {
				bound++
			}
			if l.A.Len() != l.R*l.Module.In || l.B.Len() != l.R*l.Module.Out {
				t.Fatalf("%+v", l)
			}
		}
		if bound != len(m) {
			t.Fatalf("%d of %d tensors bound", bound, len(m))
		}
	})
}

func BenchmarkBind(b *testing.B) {
	// Rank 16 on seven modules of 32 layers of width 1024: 22 MB in bf16.
	var base []Module
	m := map[string]safetensors.Tensor{}
	for i := range 32 {
		for _, p := range []string{"q", "k", "v", "o", "gate", "up", "down"} {
			mod := Module{Name: fmt.Sprintf("model.layers.%d.%s_proj", i, p), In: 1536, Out: 1536}
			base = append(base, mod)
			put(m, zeros(keyPrefix+mod.Name+".lora_A.weight", safetensors.BF16, 16, 1536))
			put(m, zeros(keyPrefix+mod.Name+".lora_B.weight", safetensors.BF16, 1536, 16))
		}
	}
	f := fileOf(b, m)
	c, err := ParseConfig([]byte(conf(`"r":16,"target_modules":"all-linear"`)))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(m) * 16 * 1536 * 2))
	for b.Loop() {
		if _, err := Bind(c, f, base, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
