package model

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

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

// Image is an adapter in host memory, ready for the model's backend.
type Image struct {
	image   tensor.Image
	modules int
	share   *decoder.Share
	// pairs and biases are the modules' numbers, in the order of the image.
	pairs, biases []int
}

// numbers finds modules' numbers by name.
func numbers(m *decoder.Model) map[string]int {
	mods := m.Spec.Modules()
	out := make(map[string]int, len(mods))
	for i, mod := range mods {
		out[mod.Name] = i
	}
	return out
}

// NewImage lays an adapter, or what a rank needs of it, out in host memory. The
// tensors of a are not needed afterwards.
func NewImage(m *decoder.Model, a *peft.Adapter) (*Image, error) {
	number := numbers(m)
	out := &Image{modules: len(number), share: m.Share()}
	specs := make([]tensor.LoRASpec, len(a.LoRAs))
	for i := range a.LoRAs {
		n := number[a.LoRAs[i].Module.Name]
		specs[i] = pairOf(&a.LoRAs[i], m.Share().Adapter(n, a.LoRAs[i].R))
		out.pairs = append(out.pairs, n)
	}
	deltas, err := biasDeltas(m, a, number)
	if err != nil {
		return nil, err
	}
	var vectors [][]float32
	for _, n := range slices.Sorted(maps.Keys(deltas)) {
		as := m.Share().Adapter(n, 1)
		if v := as.Values(deltas[n], m.Share().Rank); v != nil {
			out.biases, vectors = append(out.biases, n), append(vectors, v)
		}
	}
	if out.image, err = m.Backend().NewImage(specs, vectors); err != nil {
		return nil, err
	}
	return out, nil
}

// pairOf is a rank's part of an adapted module.
func pairOf(l *peft.LoRA, as decoder.AdapterShare) tensor.LoRASpec {
	a, a16 := rowsOf(l.A, as.In)
	b, b16 := rowsOf(l.B, tensor.All(l.R))
	if as.Ranks != tensor.All(l.R) {
		a, a16 = tensor.CutRows(a, as.Ranks, as.In.Len), tensor.CutRows(a16, as.Ranks, as.In.Len)
	}
	if as.Out != tensor.All(l.Module.Out) {
		b, b16 = tensor.CutRows(b, as.Out, l.R), tensor.CutRows(b16, as.Out, l.R)
	}
	return tensor.LoRASpec{
		Rank: l.R, In: as.In.Len, Out: as.Out.Len, Scale: float32(l.Scale), Embedding: l.Module.Kind == peft.Embedding, Cut: as.Cut,
		A: a, B: b, A16: a16, B16: b16,
	}
}

// biasDeltas are the differences to the base's biases, by module number.
func biasDeltas(m *decoder.Model, a *peft.Adapter, number map[string]int) (map[int][]float32, error) {
	out := map[int][]float32{}
	var err error
	for i := range a.LoRAs {
		l := &a.LoRAs[i]
		if l.BBias.Data == nil {
			continue
		}
		if out[number[l.Module.Name]], err = scaled(l.BBias, l.Scale); err != nil {
			return nil, err
		}
	}
	for _, b := range a.Biases {
		n := number[b.Module.Name]
		delta, err := scaled(b.Value, 1)
		if err != nil {
			return nil, err
		}
		for i, base := range m.Bias(n) {
			delta[i] -= base
		}
		for i, v := range out[n] {
			delta[i] += v
		}
		out[n] = delta
	}
	return out, nil
}

// Bytes is the host memory that the image occupies.
func (i *Image) Bytes() int64 { return i.image.Bytes() }

// DeviceBytes is the device memory that Load takes.
func (i *Image) DeviceBytes() int64 { return i.image.DeviceBytes() }

// Load brings the adapter onto the device and returns when it is there.
func (i *Image) Load() (lora.Packed, error) {
	l, err := i.image.Load()
	if err != nil {
		return lora.Packed{}, err
	}
	a := &nn.Adapter{Deltas: make([]nn.Delta, i.modules)}
	for k, n := range i.pairs {
		a.Deltas[n].Pair = l.Pairs[k]
	}
	for k, n := range i.biases {
		a.Deltas[n].Bias = l.Vectors[k]
	}
	for n := range a.Deltas {
		as := i.share.Adapter(n, 1)
		a.Deltas[n].Offset = as.Offset()
	}
	return lora.Packed{Adapter: a, Bytes: i.image.DeviceBytes(), Free: l.Free}, nil
}

// Free gives the host memory back; nothing that was loaded may be in use.
func (i *Image) Free() { i.image.Free() }

// ImageBytes tells, within a few percent, how much host memory an adapter's
// image will take, on this rank.
func ImageBytes(m *decoder.Model, a *peft.Adapter) int64 {
	number := numbers(m)
	values, size := int64(0), int64(2)
	if m.Backend().Precision() == tensor.F32 {
		size = 4
	}
	for i := range a.LoRAs {
		l := &a.LoRAs[i]
		as := m.Share().Adapter(number[l.Module.Name], l.R)
		values += int64(as.Ranks.Len)*int64(as.In.Len) + int64(l.R)*int64(as.Out.Len)
	}
	return values * size
}

// Pack brings an adapter onto the model's backend by way of an image of its own,
// which goes with it.
func Pack(m *decoder.Model, a *peft.Adapter) (lora.Packed, error) {
	im, err := NewImage(m, a)
	if err != nil {
		return lora.Packed{}, err
	}
	p, err := im.Load()
	if err != nil {
		im.Free()
		return lora.Packed{}, err
	}
	free := p.Free
	p.Free = func() {
		free()
		im.Free()
	}
	return p, nil
}

// rowsOf reads a matrix's rows, of each the columns of a span.
func rowsOf(t safetensors.Tensor, s tensor.Span) (tensor.Rows, tensor.Rows16) {
	rows := func(dst []float32, row, n int) error {
		return t.Float32Block(dst, safetensors.Block{Row: row, N: n, Col: s.From, Cols: s.Have})
	}
	rows16 := func(dst []uint16, row, n int) error {
		return t.BF16Block(dst, safetensors.Block{Row: row, N: n, Col: s.From, Cols: s.Have})
	}
	return tensor.PadCols(tensor.Rows(rows), s), tensor.PadCols(tensor.Rows16(rows16), s)
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
	read, _ := rowsOf(t, tensor.All(cols))
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
