package decoder

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"chorale/internal/bf16"
	"chorale/worker/collective"
	"chorale/worker/nn"
	"chorale/worker/tensor"
)

// shelf is a backend that only takes weights in. It reads every row, in pieces
// of an odd size, as packing does.
type shelf struct {
	tensor.Backend
	live     int
	matrices [][]float32
	fail     int // the n-th allocation fails; 0: none
	made     int
	group    ranks
}

// ranks is one rank of a group of which only that is known.
type ranks struct {
	collective.Solo
	rank, size int
}

func (r *ranks) Rank() int { return r.rank }
func (r *ranks) Size() int { return max(r.size, 1) }

func (s *shelf) Group() collective.Group { return &s.group }

var errFull = errors.New("no memory")

func (s *shelf) alloc() error {
	if s.made++; s.made == s.fail {
		return errFull
	}
	s.live++
	return nil
}

type item struct {
	tensor.Matrix
	s     *shelf
	n     int
	freed bool
}

func (m *item) Bytes() int64 { return int64(m.n) }
func (m *item) Len() int     { return m.n }
func (m *item) Free() {
	if m.freed {
		panic("freed twice")
	}
	m.freed = true
	m.s.live--
}

func (s *shelf) NewMatrix(out, in int, rows tensor.Rows) (tensor.Matrix, error) {
	if err := s.alloc(); err != nil {
		return nil, err
	}
	all := make([]float32, out*in)
	for r := 0; r < out; r += 3 {
		n := min(3, out-r)
		if err := rows(all[r*in:(r+n)*in], r, n); err != nil {
			s.live--
			return nil, err
		}
	}
	s.matrices = append(s.matrices, all)
	return &item{s: s, n: out * in}, nil
}

func (s *shelf) NewVector(v []float32) (tensor.Vector, error) {
	if err := s.alloc(); err != nil {
		return nil, err
	}
	return &item{s: s, n: len(v)}, nil
}

// store is a checkpoint in memory.
type store map[string]stored

type stored struct {
	shape []int
	err   error
}

func (w store) Names() []string { return slices.Sorted(maps.Keys(w)) }

// Tensor gives rows whose values tell tensor, row and column.
func (w store) Tensor(name string) ([]int, tensor.Rows, bool) {
	t, ok := w[name]
	if !ok {
		return nil, nil, false
	}
	cols := t.shape[len(t.shape)-1]
	return t.shape, func(dst []float32, row, n int) error {
		if t.err != nil {
			return t.err
		}
		if len(dst) != n*cols {
			return fmt.Errorf("%s: %d values for %d rows of %d", name, len(dst), n, cols)
		}
		for i := range dst {
			dst[i] = value(name, row+i/cols, i%cols)
		}
		return nil
	}, true
}

func value(name string, row, col int) float32 {
	h := 0
	for _, c := range name {
		h = (h*31 + int(c)) % 1000
	}
	return float32(h) + float32(row)/10 + float32(col)/1000
}

func smallSpec() Spec {
	return Spec{
		Vocab: 10, Hidden: 8, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 2, FFN: 5, Context: 16, Eps: 1e-5,
		QKVBias: true, QKNorm: true, Windows: []int{0, 0}, Rope: tensor.RopeSpec{InvFreq: []float32{1}, Scale: 1},
	}
}

// complete is every tensor that smallSpec needs.
func complete() store {
	w := store{
		"model.embed_tokens.weight": {shape: []int{10, 8}}, "model.norm.weight": {shape: []int{8}}, "lm_head.weight": {shape: []int{10, 8}},
	}
	for l := range 2 {
		p := fmt.Sprintf("model.layers.%d.", l)
		for n, shape := range map[string][]int{
			"input_layernorm.weight": {8}, "post_attention_layernorm.weight": {8},
			"self_attn.q_proj.weight": {8, 8}, "self_attn.k_proj.weight": {4, 8}, "self_attn.v_proj.weight": {4, 8}, "self_attn.o_proj.weight": {8, 8},
			"self_attn.q_proj.bias": {8}, "self_attn.k_proj.bias": {4}, "self_attn.v_proj.bias": {4},
			"self_attn.q_norm.weight": {2}, "self_attn.k_norm.weight": {2},
			"mlp.gate_proj.weight": {5, 8}, "mlp.up_proj.weight": {5, 8}, "mlp.down_proj.weight": {8, 5},
		} {
			w[p+n] = stored{shape: shape}
		}
	}
	return w
}

func TestLoad(t *testing.T) {
	s, w := &shelf{}, complete()
	w["model.layers.0.self_attn.rotary_emb.inv_freq"] = stored{shape: []int{1}} // of old checkpoints
	spec := smallSpec()
	m, err := Load(s, spec, w)
	if err != nil {
		t.Fatal(err)
	}
	if m.Backend() != tensor.Backend(s) || !slices.Equal(m.Bias(modK), []float32{value("model.layers.0.self_attn.k_proj.bias", 0, 0), value("model.layers.0.self_attn.k_proj.bias", 0, 1), value("model.layers.0.self_attn.k_proj.bias", 0, 2), value("model.layers.0.self_attn.k_proj.bias", 0, 3)}) || m.Bias(modO) != nil {
		t.Errorf("biases of k: %v, of o: %v", m.Bias(modK), m.Bias(modO))
	}
	var params int64
	for n, st := range w {
		size := int64(1)
		for _, d := range st.shape {
			size *= int64(d)
		}
		if !strings.HasSuffix(n, "inv_freq") {
			params += size
		}
	}
	if got := spec.Parameters(); got != params {
		t.Errorf("%d parameters, the tensors have %d", got, params)
	}
	if len(spec.Modules()) != 2*modPerLayer+2 || spec.Modules()[spec.headModule()].Name != "lm_head" || spec.Modules()[spec.embedModule()].Kind != EmbeddingModule {
		t.Errorf("modules %v", spec.Modules())
	}
	m.Free()
	m.Free()
	if s.live != 0 {
		t.Errorf("%d weights are left on the device", s.live)
	}
}

// TestFused: q, k and v lie one below the other in one matrix, and so do gate
// and up, whatever pieces the rows are read in.
func TestFused(t *testing.T) {
	s := &shelf{}
	m, err := Load(s, smallSpec(), complete())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Free()
	qkv := s.matrices[2] // after embedding and head
	row := 0
	for _, p := range []struct {
		name string
		rows int
	}{{"q_proj", 8}, {"k_proj", 4}, {"v_proj", 4}} {
		for r := range p.rows {
			for c := range 8 {
				if got, want := qkv[row*8+c], value("model.layers.0.self_attn."+p.name+".weight", r, c); got != want {
					t.Fatalf("%s row %d column %d is %v, want %v", p.name, r, c, got, want)
				}
			}
			row++
		}
	}
	want := []nn.Part{{Module: modPerLayer + modGate}, {Module: modPerLayer + modUp, Offset: 5}}
	if got := m.layers[1].gu.Parts; !slices.Equal(got, want) {
		t.Errorf("gate and up are %v, want %v", got, want)
	}
}

// TestStack reads every range of a stack.
func TestStack(t *testing.T) {
	w := store{"a": {shape: []int{3, 2}}, "b": {shape: []int{1, 2}}, "c": {shape: []int{4, 2}}}
	var parts []tensor.Rows
	var want []float32
	outs := []int{3, 1, 4}
	for i, n := range []string{"a", "b", "c"} {
		_, rows, _ := w.Tensor(n)
		parts = append(parts, rows)
		for r := range outs[i] {
			want = append(want, value(n, r, 0), value(n, r, 1))
		}
	}
	read := stack(parts, outs, 2)
	for row := range 8 {
		for n := range 8 - row + 1 {
			dst := make([]float32, n*2)
			if err := read(dst, row, n); err != nil || !slices.Equal(dst, want[row*2:(row+n)*2]) {
				t.Errorf("rows %d to %d: %v, %v", row, row+n, dst, err)
			}
		}
	}
}

// TestLoadErrors: whatever is wrong is named, and nothing stays allocated.
func TestLoadErrors(t *testing.T) {
	broken := errors.New("disk on fire")
	check := func(what string, spec Spec, w store, s *shelf, want ...string) {
		t.Helper()
		m, err := Load(s, spec, w)
		if m != nil || !errors.Is(err, ErrWeights) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want a word about %s", what, err, part)
			}
		}
		if s.live != 0 {
			t.Errorf("%s: %d weights are left on the device", what, s.live)
		}
	}
	for name, st := range complete() {
		w := complete()
		delete(w, name)
		check("missing", smallSpec(), w, &shelf{}, name, "missing")
		for _, shape := range [][]int{append(slices.Clone(st.shape), 1), slices.Insert(slices.Clone(st.shape), 0, 2), {st.shape[0] + 1}, {}} {
			if len(shape) == 0 {
				shape = []int{0}
			}
			w = complete()
			w[name] = stored{shape: shape}
			check("mis-shaped", smallSpec(), w, &shelf{}, name, fmt.Sprint(shape), fmt.Sprint(st.shape))
		}
		w = complete()
		w[name] = stored{shape: st.shape, err: broken}
		check("unreadable", smallSpec(), w, &shelf{}, broken.Error())
	}
	w := complete()
	w["model.layers.2.mlp.up_proj.weight"], w["extra"] = stored{shape: []int{1}}, stored{shape: []int{1}}
	check("unused", smallSpec(), w, &shelf{}, "2 tensors", "extra", "model.layers.2.mlp.up_proj.weight")
	spec := smallSpec()
	spec.QKVBias = false
	check("biases that the configuration lacks", spec, complete(), &shelf{}, "k_proj.bias")
	spec = smallSpec()
	spec.KVHeads = 3
	check("a spec that contradicts itself", spec, complete(), &shelf{}, "num_key_value_heads")
	full := &shelf{}
	if m, err := Load(full, smallSpec(), complete()); err == nil {
		m.Free()
	}
	for n := 1; n <= full.made; n++ {
		check(fmt.Sprintf("allocation %d of %d", n, full.made), smallSpec(), complete(), &shelf{fail: n}, errFull.Error())
	}
}

// TestTied: a tied head is the embedding, whether a copy is stored or not.
func TestTied(t *testing.T) {
	spec := smallSpec()
	spec.Tied = true
	for _, copied := range []bool{true, false} {
		w := complete()
		if !copied {
			delete(w, "lm_head.weight")
		}
		m, err := Load(&shelf{}, spec, w)
		if err != nil {
			t.Fatal(err)
		}
		if m.head.W != m.embed.Table {
			t.Error("the head is not the embedding")
		}
		m.Free()
	}
}

func TestCheck(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"vocab_size":              func(s *Spec) { s.Vocab = 0 },
		"hidden_size":             func(s *Spec) { s.Hidden = 1 << 25 },
		"num_hidden_layers":       func(s *Spec) { s.Layers = -1 },
		"num_attention_heads":     func(s *Spec) { s.Heads = 3 },
		"num_key_value_heads":     func(s *Spec) { s.KVHeads = 0 },
		"head_dim":                func(s *Spec) { s.HeadDim = 3 },
		"intermediate_size":       func(s *Spec) { s.FFN = 0 },
		"max_position_embeddings": func(s *Spec) { s.Context = 0 },
		"windows":                 func(s *Spec) { s.Windows = nil },
		"rotary":                  func(s *Spec) { s.Rope.InvFreq = nil },
	} {
		s := smallSpec()
		change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestClip cuts segments to a window of rows.
func TestClip(t *testing.T) {
	a, b := &nn.Adapter{}, &nn.Adapter{}
	segs := []nn.Segment{{Start: 0, End: 3, Adapter: a}, {Start: 5, End: 9, Adapter: b}}
	for _, tt := range []struct {
		from, to int
		want     []nn.Segment
	}{
		{0, 9, segs},
		{2, 6, []nn.Segment{{Start: 0, End: 1, Adapter: a}, {Start: 3, End: 4, Adapter: b}}},
		{3, 5, nil},
		{6, 8, []nn.Segment{{Start: 0, End: 2, Adapter: b}}},
	} {
		if got := clip(segs, tt.from, tt.to); !slices.Equal(got, tt.want) {
			t.Errorf("rows %d to %d: %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

// halfShelf keeps bfloat16, and takes such rows where there are any.
type halfShelf struct {
	shelf
	halves int
}

func (s *halfShelf) NewMatrix16(out, in int, rows tensor.Rows, rows16 tensor.Rows16) (tensor.Matrix, error) {
	s.halves++
	return s.NewMatrix(out, in, func(dst []float32, row, n int) error {
		half, wide := make([]uint16, len(dst)), make([]float32, len(dst))
		if err := errors.Join(rows16(half, row, n), rows(wide, row, n)); err != nil {
			return err
		}
		bf16.Widen(dst, half)
		for i, v := range wide {
			if bf16.Of(v) != half[i] {
				return fmt.Errorf("rows of both forms differ: %v and %v", v, dst[i])
			}
		}
		return nil
	})
}

// halfStore has bfloat16 rows of everything but lm_head.
type halfStore struct{ store }

func (w halfStore) Tensor16(name string) (tensor.Rows16, bool) {
	shape, rows, ok := w.Tensor(name)
	return func(dst []uint16, row, n int) error {
		wide := make([]float32, n*shape[len(shape)-1])
		if err := rows(wide, row, n); err != nil {
			return err
		}
		bf16.Round(dst, wide)
		return nil
	}, ok && name != "lm_head.weight"
}

// TestHalves: bfloat16 rows are taken where they are, fused like the others.
func TestHalves(t *testing.T) {
	want, got := &shelf{}, &halfShelf{}
	one, err := Load(want, smallSpec(), complete())
	if err != nil {
		t.Fatal(err)
	}
	defer one.Free()
	two, err := Load(got, smallSpec(), halfStore{complete()})
	if err != nil {
		t.Fatal(err)
	}
	defer two.Free()
	if got.halves != len(want.matrices)-1 || len(got.matrices) != len(want.matrices) {
		t.Fatalf("%d of %d matrices were read as bfloat16, want all but one of %d", got.halves, len(got.matrices), len(want.matrices))
	}
	for i, m := range want.matrices {
		for j, v := range m {
			if i != 1 { // lm_head
				v = bf16.Float32(bf16.Of(v))
			}
			if got.matrices[i][j] != v {
				t.Fatalf("matrix %d value %d is %v, want %v", i, j, got.matrices[i][j], v)
			}
		}
	}
}
