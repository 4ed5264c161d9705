package decoder

import (
	"fmt"

	"chorale/worker/tensor"
)

// Spec says everything about a model's shape.
type Spec struct {
	Vocab, Hidden, Layers   int
	Heads, KVHeads, HeadDim int
	FFN                     int
	Context                 int // most positions
	Eps                     float32
	Tied                    bool // the head is the embedding table
	QKVBias, OBias, MLPBias bool
	QKNorm                  bool  // RMS norm per head on q and k before the rotation
	Windows                 []int // sliding window of each layer, 0 for none
	Rope                    tensor.RopeSpec
}

// Check reports the first contradiction in the spec.
func (s *Spec) Check() error {
	for _, d := range []struct {
		name string
		v    int
	}{
		{"vocab_size", s.Vocab},
		{"hidden_size", s.Hidden},
		{"num_hidden_layers", s.Layers},
		{"num_attention_heads", s.Heads},
		{"num_key_value_heads", s.KVHeads},
		{"head_dim", s.HeadDim},
		{"intermediate_size", s.FFN},
		{"max_position_embeddings", s.Context},
	} {
		if d.v <= 0 || d.v > 1<<24 {
			return fmt.Errorf("%s is %d", d.name, d.v)
		}
	}
	if s.Heads%s.KVHeads != 0 {
		return fmt.Errorf("num_attention_heads %d is no multiple of num_key_value_heads %d", s.Heads, s.KVHeads)
	}
	if s.HeadDim%2 != 0 {
		return fmt.Errorf("head_dim %d is odd", s.HeadDim)
	}
	if len(s.Windows) != s.Layers {
		return fmt.Errorf("%d layer windows for %d layers", len(s.Windows), s.Layers)
	}
	if len(s.Rope.InvFreq) != s.HeadDim/2 {
		return fmt.Errorf("%d rotary frequencies for head_dim %d", len(s.Rope.InvFreq), s.HeadDim)
	}
	return nil
}

// qkv and the other widths of fused projections.
func (s *Spec) qWidth() int  { return s.Heads * s.HeadDim }
func (s *Spec) kvWidth() int { return s.KVHeads * s.HeadDim }

// ModuleKind tells where a module stands in the model.
type ModuleKind uint8

// The kinds of module that adapters may target.
const (
	LinearModule ModuleKind = iota
	EmbeddingModule
	HeadModule
)

// Module is a part of the model that an adapter may target. Its position in
// Spec.Modules is its number.
type Module struct {
	// Name is PEFT's name for it, such as "model.layers.3.self_attn.q_proj".
	Name    string
	In, Out int
	Kind    ModuleKind
	HasBias bool
}

// The modules of a layer, in the order of their numbers.
const (
	modQ = iota
	modK
	modV
	modO
	modGate
	modUp
	modDown
	modPerLayer
)

// Modules lists the adaptable modules: seven per layer, the embedding, the head.
func (s *Spec) Modules() []Module {
	out := make([]Module, 0, s.Layers*modPerLayer+2)
	for l := range s.Layers {
		add := func(name string, in, outW int, bias bool) {
			out = append(out, Module{Name: fmt.Sprintf("model.layers.%d.%s", l, name), In: in, Out: outW, HasBias: bias})
		}
		add("self_attn.q_proj", s.Hidden, s.qWidth(), s.QKVBias)
		add("self_attn.k_proj", s.Hidden, s.kvWidth(), s.QKVBias)
		add("self_attn.v_proj", s.Hidden, s.kvWidth(), s.QKVBias)
		add("self_attn.o_proj", s.qWidth(), s.Hidden, s.OBias)
		add("mlp.gate_proj", s.Hidden, s.FFN, s.MLPBias)
		add("mlp.up_proj", s.Hidden, s.FFN, s.MLPBias)
		add("mlp.down_proj", s.FFN, s.Hidden, s.MLPBias)
	}
	return append(out,
		Module{Name: "model.embed_tokens", In: s.Vocab, Out: s.Hidden, Kind: EmbeddingModule},
		Module{Name: "lm_head", In: s.Hidden, Out: s.Vocab, Kind: HeadModule})
}

func (s *Spec) embedModule() int { return s.Layers * modPerLayer }
func (s *Spec) headModule() int  { return s.Layers*modPerLayer + 1 }
