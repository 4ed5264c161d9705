package decoder

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"chorale/worker/nn"
	"chorale/worker/tensor"
)

// ErrWeights reports tensors that are missing, unused or of a wrong shape.
var ErrWeights = errors.New("model weights do not fit its configuration")

// Weights gives a checkpoint's tensors by Hugging Face's names.
type Weights interface {
	// Tensor gives shape and rows; a vector has one dimension and is read as
	// one row. ok is false when there is no such tensor.
	Tensor(name string) (shape []int, rows tensor.Rows, ok bool)
	// Names lists all tensors.
	Names() []string
}

// WeightsColumns is what Weights may have beside: parts of rows, without reading
// the rest.
type WeightsColumns interface {
	// TensorColumns gives n columns from `from` on of a matrix that Tensor has
	// found, in both forms.
	TensorColumns(name string, from, n int) (rows tensor.Rows, rows16 tensor.Rows16, ok bool)
}

// Weights16 is what Weights may have beside: rows as bfloat16.
type Weights16 interface {
	// Tensor16 gives the rows of a matrix that Tensor has found.
	Tensor16(name string) (rows tensor.Rows16, ok bool)
}

type layer struct {
	inNorm, postNorm tensor.Vector
	qNorm, kNorm     tensor.Vector
	qkv, o, gu, down nn.Linear
}

// Model is a model's weights on a backend.
type Model struct {
	Spec    Spec
	share   *Share
	backend tensor.Backend
	embed   nn.Embedding
	head    nn.Linear
	norm    tensor.Vector
	layers  []layer
	// biases holds the base's biases by module number, for adapters that
	// bring their own.
	biases map[int][]float32
	free   []func()
	bytes  int64
}

// Bytes is the device memory of the weights.
func (m *Model) Bytes() int64 { return m.bytes }

// Parameters counts the weights, a tied head once.
func (s *Spec) Parameters() int64 {
	var n int64
	for _, mod := range s.Modules() {
		if mod.Kind == HeadModule && s.Tied {
			continue
		}
		n += int64(mod.In) * int64(mod.Out)
		if mod.HasBias {
			n += int64(mod.Out)
		}
	}
	n += int64(s.Hidden) * int64(2*s.Layers+1)
	if s.QKNorm {
		n += int64(2 * s.HeadDim * s.Layers)
	}
	return n
}

// Load binds a checkpoint's tensors by name. Missing, unused and mis-shaped
// tensors are errors. In a group of ranks, it reads this rank's part of them.
func Load(b tensor.Backend, spec Spec, w Weights) (*Model, error) {
	if err := spec.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWeights, err)
	}
	m := &Model{Spec: spec, backend: b, biases: map[int][]float32{}}
	var err error
	if m.share, err = Shard(&m.Spec, b.Group().Rank(), b.Group().Size()); err != nil {
		return nil, err
	}
	ld := &loader{m: m, w: w, used: map[string]bool{}}
	ld.load()
	ld.checkUnused()
	if ld.err != nil {
		ld.m.Free()
		return nil, fmt.Errorf("%w: %w", ErrWeights, ld.err)
	}
	return ld.m, nil
}

// Free gives the device memory back.
func (m *Model) Free() {
	for _, f := range m.free {
		f()
	}
	m.free = nil
}

// loader keeps its first error; later calls do nothing.
type loader struct {
	m    *Model
	w    Weights
	used map[string]bool
	err  error
}

func (ld *loader) load() {
	m, s := ld.m, &ld.m.Spec
	vocab := m.share.vocab()
	m.embed = nn.Embedding{Table: ld.matrix([]piece{{"model.embed_tokens.weight", tensor.All(s.Hidden), vocab, s.Hidden, s.Vocab}}), Module: s.embedModule()}
	m.norm = ld.vector("model.norm.weight", s.Hidden)
	m.head = nn.Linear{W: m.embed.Table, Parts: []nn.Part{{Module: s.headModule()}}}
	if s.Tied {
		ld.used["lm_head.weight"] = true // some checkpoints store the tied copy too
	} else {
		m.head.W = ld.matrix([]piece{{"lm_head.weight", tensor.All(s.Hidden), vocab, s.Hidden, s.Vocab}})
	}
	m.layers = make([]layer, s.Layers)
	for l := range m.layers {
		if ld.err != nil {
			return
		}
		ld.layer(l)
	}
}

func (ld *loader) layer(l int) {
	s := &ld.m.Spec
	y := &ld.m.layers[l]
	prefix := fmt.Sprintf("model.layers.%d.", l)
	y.inNorm = ld.vector(prefix+"input_layernorm.weight", s.Hidden)
	y.postNorm = ld.vector(prefix+"post_attention_layernorm.weight", s.Hidden)
	if s.QKNorm {
		y.qNorm = ld.vector(prefix+"self_attn.q_norm.weight", s.HeadDim)
		y.kNorm = ld.vector(prefix+"self_attn.k_norm.weight", s.HeadDim)
	}
	q, kv := s.qWidth(), s.kvWidth()
	base := l * modPerLayer
	y.qkv = ld.linear(prefix+"self_attn.", []string{"q_proj", "k_proj", "v_proj"}, base+modQ, s.Hidden, []int{q, kv, kv}, s.QKVBias)
	y.o = ld.linear(prefix+"self_attn.", []string{"o_proj"}, base+modO, q, []int{s.Hidden}, s.OBias)
	y.gu = ld.linear(prefix+"mlp.", []string{"gate_proj", "up_proj"}, base+modGate, s.Hidden, []int{s.FFN, s.FFN}, s.MLPBias)
	y.down = ld.linear(prefix+"mlp.", []string{"down_proj"}, base+modDown, s.FFN, []int{s.Hidden}, s.MLPBias)
}

// linear loads this rank's part of modules that are fused along their outputs;
// module is the number of the first, in and outs are the whole modules'.
func (ld *loader) linear(prefix string, names []string, module, in int, outs []int, bias bool) nn.Linear {
	lin := nn.Linear{}
	pieces := make([]piece, len(names))
	offset := 0
	var all []float32
	for i, n := range names {
		ms := ld.m.share.Module(module + i)
		pieces[i] = piece{prefix + n + ".weight", ms.In, ms.Out, in, outs[i]}
		lin.Parts = append(lin.Parts, nn.Part{Module: module + i, Offset: offset})
		lin.Sum = ms.Sum
		offset += ms.Out.Len
		if bias {
			v := ld.values(prefix+n+".bias", outs[i])
			ld.m.biases[module+i] = v
			if ld.err == nil {
				all = append(all, ms.Values(v, ld.m.share.Rank)...)
			}
		}
	}
	lin.W = ld.matrix(pieces)
	if len(all) > 0 {
		lin.Bias = ld.newVector(prefix+names[0]+".bias", all)
	}
	return lin
}

// rows finds a tensor and checks its shape.
func (ld *loader) rows(name string, want ...int) tensor.Rows {
	if ld.err != nil {
		return nil
	}
	shape, rows, ok := ld.w.Tensor(name)
	if !ok {
		ld.err = fmt.Errorf("tensor %s is missing", name)
		return nil
	}
	ld.used[name] = true
	if !slices.Equal(shape, want) {
		ld.err = fmt.Errorf("tensor %s has shape %v, want %v", name, shape, want)
	}
	return rows
}

// piece is what a rank has of a tensor [height, width].
type piece struct {
	name          string
	cols, rows    tensor.Span
	width, height int
}

// matrix packs the pieces one below the other.
func (ld *loader) matrix(pieces []piece) tensor.Matrix {
	parts, halves := make([]tensor.Rows, len(pieces)), make([]tensor.Rows16, len(pieces))
	outs := make([]int, len(pieces))
	in, total, both := pieces[0].cols.Len, 0, true
	for i := range pieces {
		parts[i], halves[i] = ld.cut(&pieces[i])
		outs[i] = pieces[i].rows.Len
		total += outs[i]
		both = both && halves[i] != nil
	}
	if ld.err != nil {
		return nil
	}
	var mat tensor.Matrix
	var err error
	if both {
		mat, err = ld.m.backend.NewMatrix16(total, in, stack(parts, outs, in), stack(halves, outs, in))
	} else {
		mat, err = ld.m.backend.NewMatrix(total, in, stack(parts, outs, in))
	}
	if err != nil {
		ld.err = fmt.Errorf("tensor %s: %w", pieces[0].name, err)
		return nil
	}
	ld.m.free = append(ld.m.free, mat.Free)
	ld.m.bytes += mat.Bytes()
	return mat
}

// cut reads a piece, and as bfloat16 where the checkpoint can do that.
func (ld *loader) cut(p *piece) (tensor.Rows, tensor.Rows16) {
	rows := ld.rows(p.name, p.height, p.width)
	if ld.err != nil {
		return nil, nil
	}
	var half tensor.Rows16
	if w, ok := ld.w.(Weights16); ok {
		if half, ok = w.Tensor16(p.name); !ok {
			half = nil
		}
	}
	if p.cols != tensor.All(p.width) {
		rows, half = ld.cutColumns(p, rows, half)
	}
	if p.rows != tensor.All(p.height) {
		rows = tensor.CutRows(rows, p.rows, p.cols.Len)
		if half != nil {
			half = tensor.CutRows(half, p.rows, p.cols.Len)
		}
	}
	return rows, half
}

// cutColumns reads the piece's columns, by way of whole rows only if the
// checkpoint has no other.
func (ld *loader) cutColumns(p *piece, rows tensor.Rows, half tensor.Rows16) (tensor.Rows, tensor.Rows16) {
	if w, ok := ld.w.(WeightsColumns); ok {
		if r, h, ok := w.TensorColumns(p.name, p.cols.From, p.cols.Have); ok {
			return tensor.PadCols(r, p.cols), tensor.PadCols(h, p.cols)
		}
	}
	if half != nil {
		half = tensor.CutCols(half, p.cols, p.width)
	}
	return tensor.CutCols(rows, p.cols, p.width), half
}

// stack reads parts of outs[i] rows as one matrix.
func stack[V float32 | uint16, R ~func(dst []V, row, n int) error](parts []R, outs []int, in int) R {
	if len(parts) == 1 {
		return parts[0]
	}
	return func(dst []V, row, n int) error {
		start := 0
		for i, p := range parts {
			lo, hi := max(row, start), min(row+n, start+outs[i])
			if lo < hi {
				if err := p(dst[(lo-row)*in:(hi-row)*in], lo-start, hi-lo); err != nil {
					return err
				}
			}
			start += outs[i]
		}
		return nil
	}
}

func (ld *loader) values(name string, n int) []float32 {
	rows := ld.rows(name, n)
	if ld.err != nil {
		return nil
	}
	v := make([]float32, n)
	if err := rows(v, 0, 1); err != nil {
		ld.err = fmt.Errorf("tensor %s: %w", name, err)
	}
	return v
}

func (ld *loader) vector(name string, n int) tensor.Vector {
	return ld.newVector(name, ld.values(name, n))
}

func (ld *loader) newVector(name string, v []float32) tensor.Vector {
	if ld.err != nil {
		return nil
	}
	vec, err := ld.m.backend.NewVector(v)
	if err != nil {
		ld.err = fmt.Errorf("tensor %s: %w", name, err)
		return nil
	}
	ld.m.free = append(ld.m.free, vec.Free)
	ld.m.bytes += int64(4 * len(v))
	return vec
}

// checkUnused refuses tensors that nothing bound: a model that silently drops
// weights is a wrong model.
func (ld *loader) checkUnused() {
	if ld.err != nil {
		return
	}
	var unused []string
	for _, n := range ld.w.Names() {
		// Old checkpoints store the rotary table, which follows from the config.
		if !ld.used[n] && !strings.HasSuffix(n, "rotary_emb.inv_freq") {
			unused = append(unused, n)
		}
	}
	if len(unused) > 0 {
		slices.Sort(unused)
		ld.err = fmt.Errorf("%d tensors are not part of this architecture, first %s", len(unused), strings.Join(unused[:min(3, len(unused))], ", "))
	}
}

// Share is this rank's part of the model.
func (m *Model) Share() *Share { return m.share }

// KVLayout describes a cache for this rank's heads, of so many pages.
func (m *Model) KVLayout(pageSize, pages int) tensor.KVLayout {
	return tensor.KVLayout{Layers: m.Spec.Layers, KVHeads: m.share.KVHeads, HeadDim: m.Spec.HeadDim, PageSize: pageSize, Pages: pages}
}

// Backend is where the weights are.
func (m *Model) Backend() tensor.Backend { return m.backend }

// Bias gives the base's whole bias of a module, nil when it has none.
func (m *Model) Bias(module int) []float32 { return m.biases[module] }
