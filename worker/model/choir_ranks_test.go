package model_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorale/internal/checkpoint"
	"chorale/internal/testkit"
	"chorale/internal/tokenizer"
	"chorale/worker/collective"
	"chorale/worker/kv"
	"chorale/worker/lora"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/sample"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

// voice is a sequence of a batch: what it says, as whom, and how it draws.
type voice struct {
	ids     []int32
	adapter *nn.Adapter
	ask     tensor.SampleRow
	seed    uint64
}

// sing computes all voices in one batch, prompts first, and gives the tokens of
// each.
func sing(m *decoder.Model, voices []voice, tokens int) ([][]int32, error) {
	longest, rows := 0, 0
	for _, v := range voices {
		longest, rows = max(longest, len(v.ids)+tokens), rows+len(v.ids)
	}
	each := (longest + kv.PageSize - 1) / kv.PageSize
	cache, err := m.Backend().NewKV(m.KVLayout(kv.PageSize, each*len(voices)))
	if err != nil {
		return nil, err
	}
	defer cache.Free()
	r, err := m.NewRunner(cache, rows)
	if err != nil {
		return nil, err
	}
	defer r.Free()
	said := make([][]int32, len(voices))
	for n := range tokens {
		st, asks := &decoder.Step{}, make([]tensor.SampleRow, len(voices))
		for i, v := range voices {
			ids, from := v.ids, 0
			if n > 0 {
				ids, from = said[i][n-1:], len(v.ids)+n-1
			}
			add(st, ids, from, v.adapter, pagesOf(i, each))
			asks[i] = v.ask
			asks[i].U = sample.Uniform(v.seed, uint64(n))
		}
		r.Forward(st)
		out := make([]tensor.Sampled, len(voices))
		r.Sample(st, out, asks)
		if err := r.Finish(); err != nil {
			return nil, err
		}
		for i := range out {
			said[i] = append(said[i], out[i].Token)
		}
	}
	return said, nil
}

func pagesOf(voice, each int) []int32 {
	out := make([]int32, each)
	for i := range out {
		out[i] = int32(voice*each + i)
	}
	return out
}

// add puts one sequence's tokens into a step that samples after the last.
func add(st *decoder.Step, ids []int32, from int, a *nn.Adapter, pages []int32) {
	start, n := len(st.Batch.IDs), len(ids)
	st.Batch.Seqs = append(st.Batch.Seqs, tensor.Seq{QStart: start, QLen: n, CtxLen: from + n, Pages: pages})
	for i, id := range ids {
		st.Batch.IDs = append(st.Batch.IDs, id)
		st.Batch.Pos = append(st.Batch.Pos, int32(from+i))
	}
	row := len(st.LogitRows)
	st.LogitRows = append(st.LogitRows, int32(start+n-1))
	if a != nil {
		st.Segments = append(st.Segments, nn.Segment{Start: start, End: start + n, Adapter: a})
		st.LogitSegments = append(st.LogitSegments, nn.Segment{Start: row, End: row + 1, Adapter: a})
	}
}

// sing lets all ranks sing; they must agree.
func (tm *team) sing(t *testing.T, voices func(rank int) []voice, tokens int) [][]int32 {
	t.Helper()
	said := make([][][]int32, len(tm.group))
	err := tm.group.Each(func(m collective.Member) error {
		var err error
		said[m.Rank()], err = sing(tm.models[m.Rank()], voices(m.Rank()), tokens)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for rank := range said {
		if !slices.EqualFunc(said[rank], said[0], slices.Equal[[]int32]) {
			t.Fatalf("rank %d says %v, rank 0 %v", rank, said[rank], said[0])
		}
	}
	return said[0]
}

// asks are ways to choose a token, one after another for the voices of a test.
var asks = []tensor.SampleRow{
	{Repetition: 1},
	{Temperature: 0.8, TopP: 1, Repetition: 1},
	{Temperature: 1, TopP: 0.9, Repetition: 1},
	{Temperature: 1.2, TopP: 0.95, TopK: 20, Repetition: 1.1, Adjust: []tensor.Adjust{{ID: 3, Seen: true, Count: 1}, {ID: 40, Bias: 2}}},
	{Temperature: 1, TopP: 1, MinP: 0.1, Repetition: 1, Ban: []int32{0, 9}, Top: 3},
}

// TestRanksTogether: a batch of the base and several adapters, of which each
// draws in another way, says on several ranks what it says on one, and each what
// it says alone.
func TestRanksTogether(t *testing.T) {
	for _, g := range readIndex(t).Models {
		size := 4
		switch {
		case g.Name == "smollm":
			size = 3
		case g.Name != "llama-gqa" && g.Name != "llama-tied" && g.Name != "llama-bias" && g.Name != "qwen3" && g.Name != "qwen2" && g.Name != "mistral-window":
			continue
		}
		t.Run(g.Name, func(t *testing.T) {
			path := filepath.Join("testdata", g.Name)
			one := openTeam(t, gather(t, 1, false), tensor.F32, path)
			many := openTeam(t, gather(t, size, false), tensor.F32, path)
			said := func(tm *team) [][]int32 {
				packed := [][]lora.Packed{nil}
				for _, c := range g.Cases {
					if c.Adapter == nil || c.Name == "embed-full-changed" || c.Optional {
						continue
					}
					p, err := tm.pack(t, adapterDir(g, *c.Adapter))
					if err != nil {
						t.Fatalf("%s: %v", c.Name, err)
					}
					packed = append(packed, p)
				}
				cast := func(rank int) []voice {
					var out []voice
					for i, p := range packed {
						v := voice{ids: []int32{int32(i), 7, 50, int32(3 * i), 71}[:2+i%4], ask: asks[i%len(asks)], seed: uint64(i)}
						if p != nil {
							v.adapter = p[rank].Adapter
						}
						out = append(out, v)
					}
					return out
				}
				together := tm.sing(t, cast, 20)
				for i := range together {
					alone := tm.sing(t, func(rank int) []voice { return cast(rank)[i : i+1] }, 20)
					if !slices.Equal(alone[0], together[i]) {
						t.Errorf("voice %d says %v alone, %v in company", i, alone[0], together[i])
					}
				}
				return together
			}
			want, got := said(one), said(many)
			for i := range want {
				if !slices.Equal(got[i], want[i]) {
					t.Errorf("voice %d says %v on %d ranks, %v on one", i, got[i], size, want[i])
				}
			}
		})
	}
}

// voiceNames are the adapters of examples/adapters.
var voiceNames = []string{"date", "json", "label", "pirate", "sql"}

// TestRanksSmolLM2: the real model has 9 query and 3 key and value heads. On three
// ranks it says, with all its voices in one batch, what it says on one; two are
// refused.
func TestRanksSmolLM2(t *testing.T) {
	path := testkit.Model(t)
	c, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tok, err := c.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	refused, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	if err := refused.Join(gather(t, 2, false)[0]); err != nil {
		t.Fatal(err)
	}
	const why = "9 query heads do not divide by 2 ranks (9 = 4·2 + 1); this model runs on 1 or 3 ranks"
	if _, _, err := model.Open(refused, c); !errors.Is(err, decoder.ErrRanks) || !strings.Contains(err.Error(), why) {
		t.Errorf("2 ranks: %v, want %q", err, why)
	}
	said := func(size int) [][]int32 {
		tm := openTeam(t, gather(t, size, false), tensor.F32, path)
		packed := [][]lora.Packed{nil}
		for _, name := range voiceNames {
			p, err := tm.pack(t, filepath.Join(testkit.Root(), "examples", "adapters", name))
			if err != nil {
				t.Fatal(err)
			}
			packed = append(packed, p)
		}
		return tm.sing(t, func(rank int) []voice {
			var out []voice
			for i, p := range packed {
				v := voice{ids: tok.Encode("<|im_start|>user\nThe shop in Porto sold 3 blue lamps to Ana Costa on 5 March 2026.<|im_end|>\n<|im_start|>assistant\n", true), ask: asks[0]}
				if p != nil {
					v.adapter = p[rank].Adapter
				}
				out = append(out, v)
				if i == 0 {
					v.ask = asks[2]
					out = append(out, v)
				}
			}
			return out
		}, 16)
	}
	want, got := said(1), said(3)
	for i := range want {
		t.Logf("voice %d: %q", i, tok.Decode(got[i], tokenizer.DecodeOptions{}))
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("voice %d says %v on 3 ranks, %v on one", i, got[i], want[i])
		}
	}
}
