package decoder

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chorale/worker/tensor"
)

// evenSpec is smallSpec with sizes that many ranks share.
func evenSpec() Spec {
	s := smallSpec()
	s.Vocab, s.FFN, s.OBias, s.MLPBias = 70, 8, true, true
	return s
}

// TestShardRefuses: what does not divide is named, with the arithmetic and the
// numbers of ranks that would do.
func TestShardRefuses(t *testing.T) {
	for _, tt := range []struct {
		heads, kv, ffn, size int
		want                 string // empty: works
	}{
		{9, 3, 1536, 3, ""},
		{9, 3, 1536, 1, ""},
		{9, 3, 1536, 2, "9 query heads do not divide by 2 ranks (9 = 4·2 + 1); this model runs on 1 or 3 ranks"},
		{32, 8, 14336, 8, ""},
		{32, 8, 14336, 16, ""},
		{32, 8, 14336, 32, ""},
		{32, 8, 14336, 64, "32 query heads do not divide by 64 ranks (32 = 0·64 + 32); this model runs on 1, 2, 4, 8, 16 or 32 ranks"},
		{12, 6, 96, 4, "6 key and value heads do not divide by 4 ranks (6 = 1·4 + 2); this model runs on 1, 2, 3, 6 or 12 ranks"},
		{12, 4, 96, 6, "6 ranks are no multiple of 4 key and value heads (6 = 1·4 + 2), which could then be on several each; this model runs on 1, 2, 4 or 12 ranks"},
		{8, 2, 6, 4, "6 channels of the MLP do not divide by 4 ranks (6 = 1·4 + 2); this model runs on 1 or 2 ranks"},
		{7, 7, 3, 7, "3 channels of the MLP do not divide by 7 ranks (3 = 0·7 + 3); this model runs on 1 rank only"},
	} {
		s := Spec{Heads: tt.heads, KVHeads: tt.kv, FFN: tt.ffn, HeadDim: 4, Vocab: 100, Layers: 1, Hidden: 8}
		_, err := Shard(&s, 0, tt.size)
		if tt.want == "" && err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
		if tt.want != "" && (!errors.Is(err, ErrRanks) || !strings.HasSuffix(err.Error(), tt.want)) {
			t.Errorf("%d ranks: %v\nwant %s", tt.size, err, tt.want)
		}
	}
	s := evenSpec()
	for _, r := range [][2]int{{0, 0}, {-1, 2}, {2, 2}} {
		if _, err := Shard(&s, r[0], r[1]); !errors.Is(err, ErrRanks) {
			t.Errorf("rank %d of %d: %v", r[0], r[1], err)
		}
	}
}

// TestShares: ranks' parts lie one behind the other and make up the whole; with
// more ranks than KV heads each rank has the KV head of its query heads.
func TestShares(t *testing.T) {
	s := evenSpec()
	for _, size := range []int{1, 2, 4} {
		covered := make([]map[int]int, len(s.Modules()))
		for rank := range size {
			sh, err := Shard(&s, rank, size)
			if err != nil {
				t.Fatal(err)
			}
			for n, mod := range s.Modules() {
				if covered[n] == nil {
					covered[n] = map[int]int{}
				}
				ms := sh.Module(n)
				cut, whole, length := ms.Out, ms.In, mod.Out
				if ms.Sum || mod.Kind == EmbeddingModule {
					cut, whole, length = ms.In, ms.Out, mod.In
				}
				if size > 1 && whole.From != 0 || whole.Len != whole.Have {
					t.Errorf("rank %d of %d, %s: %+v is cut, too", rank, size, mod.Name, whole)
				}
				for i := range cut.Have {
					covered[n][cut.From+i]++
				}
				if cut.From < 0 || cut.From+cut.Have > length || cut.Have > cut.Len {
					t.Errorf("rank %d of %d, %s: %+v of %d", rank, size, mod.Name, cut, length)
				}
			}
			firstQ, firstKV := sh.Module(modQ).Out.From/s.HeadDim, sh.Module(modK).Out.From/s.HeadDim
			if firstQ/(s.Heads/s.KVHeads) != firstKV {
				t.Errorf("rank %d of %d has query heads from %d and KV heads from %d", rank, size, firstQ, firstKV)
			}
		}
		for n, mod := range s.Modules() {
			times := 1
			if k := n % modPerLayer; size > s.KVHeads && mod.Kind == LinearModule && (k == modK || k == modV) {
				times = size / s.KVHeads
			}
			length := max(mod.In, mod.Out)
			if k := n % modPerLayer; mod.Kind == LinearModule {
				length = []int{modO: mod.In, modDown: mod.In, modQ: mod.Out, modK: mod.Out, modV: mod.Out, modGate: mod.Out, modUp: mod.Out}[k]
			}
			if len(covered[n]) != length {
				t.Errorf("%d ranks, %s: %d of %d are covered", size, mod.Name, len(covered[n]), length)
			}
			for i, c := range covered[n] {
				if c != times {
					t.Errorf("%d ranks, %s: %d is on %d ranks, want %d", size, mod.Name, i, c, times)
				}
			}
		}
	}
}

// columns is a checkpoint that can read parts of rows.
type columns struct {
	store
	asked *int
}

func (w columns) TensorColumns(name string, from, n int) (tensor.Rows, tensor.Rows16, bool) {
	*w.asked++
	return func(dst []float32, row, rows int) error {
		for i := range dst {
			dst[i] = value(name, row+i/n, from+i%n)
		}
		return nil
	}, nil, true
}

// TestLoadShares: each rank's matrices are its parts of the whole's, whether the
// checkpoint can read parts of rows or not.
func TestLoadShares(t *testing.T) {
	spec := evenSpec()
	asked := 0
	for _, w := range []Weights{evenStore(), columns{evenStore(), &asked}} {
		for _, size := range []int{2, 4} {
			for rank := range size {
				s := &shelf{group: ranks{rank: rank, size: size}}
				m, err := Load(s, spec, w)
				if err != nil {
					t.Fatal(err)
				}
				sh := m.Share()
				if l := m.KVLayout(16, 3); l.KVHeads != sh.KVHeads || l.Layers != 2 || l.HeadDim != spec.HeadDim || l.PageSize != 16 || l.Pages != 3 {
					t.Errorf("cache %+v", l)
				}
				where := fmt.Sprintf("rank %d of %d", rank, size)
				checkPart(t, where, s.matrices[0], "model.embed_tokens.weight", tensor.All(8), sh.vocab())
				checkPart(t, where, s.matrices[1], "lm_head.weight", tensor.All(8), sh.vocab())
				checkPart(t, where, s.matrices[3], "model.layers.0.self_attn.o_proj.weight", sh.heads(), tensor.All(8))
				checkPart(t, where, s.matrices[5], "model.layers.0.mlp.down_proj.weight", sh.ffn(), tensor.All(8))
				qkv := s.matrices[2]
				for i, name := range []string{"q_proj", "k_proj", "v_proj"} {
					out := sh.Module(modQ + i).Out
					checkPart(t, where, qkv[:out.Len*8], "model.layers.0.self_attn."+name+".weight", tensor.All(8), out)
					qkv = qkv[out.Len*8:]
				}
				if has := m.layers[0].o.Bias != nil; has != (rank == 0) || !m.layers[0].o.Sum || m.layers[0].qkv.Sum {
					t.Errorf("%s: o has a bias: %v, is summed: %v; q, k and v are: %v", where, has, m.layers[0].o.Sum, m.layers[0].qkv.Sum)
				}
				m.Free()
				if s.live != 0 {
					t.Errorf("%s: %d weights are left", where, s.live)
				}
			}
		}
	}
	if asked == 0 {
		t.Error("the checkpoint was not asked for parts of rows")
	}
	uneven := smallSpec()
	if _, err := Load(&shelf{group: ranks{size: 3}}, uneven, complete()); !errors.Is(err, ErrRanks) {
		t.Errorf("3 ranks of 4 heads: %v", err)
	}
}

func evenStore() store {
	w := complete()
	for n, st := range w {
		for i, d := range st.shape {
			if d == 10 {
				st.shape[i] = 70
			}
			if d == 5 {
				st.shape[i] = 8
			}
		}
		for _, kind := range []string{"self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"} {
			if strings.HasSuffix(n, kind+".weight") {
				w[strings.TrimSuffix(n, "weight")+"bias"] = stored{shape: []int{8}}
			}
		}
	}
	return w
}

// checkPart compares a packed matrix with its part of a tensor.
func checkPart(t *testing.T, where string, got []float32, name string, cols, rows tensor.Span) {
	t.Helper()
	var want []float32
	for r := range rows.Len {
		for c := range cols.Len {
			v := float32(0)
			if r < rows.Have && c < cols.Have {
				v = value(name, rows.From+r, cols.From+c)
			}
			want = append(want, v)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: %s is\n%v, want\n%v", where, name, got, want)
	}
}
