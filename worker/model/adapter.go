package model

import (
	"errors"
	"fmt"
	"math"

	"chorale/internal/checkpoint"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/lora"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/tensor"
)

// ErrBaseChanged reports an adapter that was saved with base weights other
// than this model's.
var ErrBaseChanged = errors.New("adapter comes with base weights that differ from this model's")

// Modules lists a model's adaptable modules as PEFT names them, in the order
// of their numbers.
func Modules(s *decoder.Spec) []peft.Module {
	kinds := map[decoder.ModuleKind]peft.ModuleKind{
		decoder.LinearModule: peft.Linear, decoder.EmbeddingModule: peft.Embedding, decoder.HeadModule: peft.Head,
	}
	ms := s.Modules()
	out := make([]peft.Module, len(ms))
	for i, m := range ms {
		out[i] = peft.Module{Name: m.Name, In: m.In, Out: m.Out, Kind: kinds[m.Kind], HasBias: m.HasBias}
	}
	return out
}

// Pack brings an adapter onto the model's backend. Whatever fails, nothing
// stays allocated.
func Pack(m *decoder.Model, a *peft.Adapter) (lora.Packed, error) {
	p := &packer{m: m, number: map[string]int{}}
	for i, mod := range m.Spec.Modules() {
		p.number[mod.Name] = i
	}
	p.out.Deltas = make([]nn.Delta, len(p.number))
	if err := p.pack(a); err != nil {
		p.release()
		return lora.Packed{}, err
	}
	return lora.Packed{Adapter: &p.out, Bytes: p.bytes, Free: p.release}, nil
}

type packer struct {
	m      *decoder.Model
	number map[string]int
	out    nn.Adapter
	bytes  int64
	free   []func()
}

func (p *packer) release() {
	for _, f := range p.free {
		f()
	}
	p.free = nil
}

func (p *packer) pack(a *peft.Adapter) error {
	biases := map[int][]float32{} // differences to the base, by module number
	for i := range a.LoRAs {
		l := &a.LoRAs[i]
		n := p.number[l.Module.Name]
		pair, err := p.pair(l)
		if err != nil {
			return fmt.Errorf("module %s: %w", l.Module.Name, err)
		}
		p.out.Deltas[n].Pair = pair
		p.bytes += pair.Bytes()
		p.free = append(p.free, pair.Free)
		if l.BBias.Data != nil {
			if biases[n], err = scaled(l.BBias, l.Scale); err != nil {
				return err
			}
		}
	}
	for _, b := range a.Biases {
		n := p.number[b.Module.Name]
		delta, err := scaled(b.Value, 1)
		if err != nil {
			return err
		}
		for i, base := range p.m.Bias(n) {
			delta[i] -= base
		}
		for i, v := range biases[n] {
			delta[i] += v
		}
		biases[n] = delta
	}
	for n, v := range biases {
		vec, err := p.m.Backend().NewVector(v)
		if err != nil {
			return err
		}
		p.out.Deltas[n].Bias = vec
		p.bytes += int64(4 * len(v))
		p.free = append(p.free, vec.Free)
	}
	return nil
}

func (p *packer) pair(l *peft.LoRA) (tensor.LoRAPair, error) {
	b, s := p.m.Backend(), float32(l.Scale)
	if l.Module.Kind == peft.Embedding {
		return b.NewEmbeddingLoRA(l.R, l.Module.In, l.Module.Out, s, rowsOf(l.A), rowsOf(l.B))
	}
	return b.NewLoRA(l.R, l.Module.In, l.Module.Out, s, rowsOf(l.A), rowsOf(l.B))
}

// rowsOf reads a matrix's rows.
func rowsOf(t safetensors.Tensor) tensor.Rows {
	cols := t.Shape[len(t.Shape)-1]
	size := cols * t.DType.Size()
	return func(dst []float32, row, n int) error {
		part := t
		part.Shape = []int{n, cols}
		part.Data = t.Data[row*size : (row+n)*size]
		return part.Float32(dst)
	}
}

func scaled(t safetensors.Tensor, scale float64) ([]float32, error) {
	v := make([]float32, t.Len())
	if err := t.Float32(v); err != nil {
		return nil, err
	}
	if scale != 1 {
		for i := range v {
			v[i] = float32(float64(v[i]) * scale)
		}
	}
	return v, nil
}

// CheckFullEmbeddings compares base weights that PEFT saved with an adapter
// with the checkpoint's own. Serving one base to all, Chorale can take such an
// adapter only if they are the same, up to the rounding of their formats.
func CheckFullEmbeddings(c *checkpoint.Checkpoint, a *peft.Adapter) error {
	for _, fe := range a.FullEmbeddings {
		name := fe.Module.Name + ".weight"
		base, ok := c.Tensor(name)
		if !ok && fe.Module.Kind == peft.Head { // a tied head is the embedding
			base, ok = c.Tensor("model.embed_tokens.weight")
		}
		if !ok {
			return fmt.Errorf("%w: the model has no %s", ErrBaseChanged, name)
		}
		if err := sameRows(base, fe.Weight); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func sameRows(base checkpoint.Tensor, t safetensors.Tensor) error {
	rows, cols := t.Shape[0], t.Shape[1]
	read := rowsOf(t)
	want, got := make([]float32, cols), make([]float32, cols)
	for r := range rows {
		if err := base.Rows(want, r, 1); err != nil {
			return err
		}
		if err := read(got, r, 1); err != nil {
			return err
		}
		for i := range want {
			// bfloat16 keeps 8 bits: half a unit in the last place on either side.
			tol := max(math.Abs(float64(want[i])), math.Abs(float64(got[i])))/128 + 1e-6
			if math.Abs(float64(want[i])-float64(got[i])) > tol {
				return fmt.Errorf("%w: row %d, column %d is %v, here %v", ErrBaseChanged, r, i, got[i], want[i])
			}
		}
	}
	return nil
}
