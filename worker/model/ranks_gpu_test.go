//go:build gpu

package model_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chorale/internal/checkpoint"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/collective"
	"chorale/worker/collective/inprocess"
	"chorale/worker/collective/processes"
	"chorale/worker/kv"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cuda"
)

func TestMain(m *testing.M) {
	processes.Main(m, map[string]processes.Play{"golden": playGolden, "speed": playSpeed})
}

// ranksOn says where ranks run and how they sum.
type ranksOn struct {
	Devices []int // by rank
	Sums    cuda.Sums
	Peers   cuda.Peers
	BF16    bool // of what is summed
	Batches []int
	LoRA    bool // measure with adapters, too
}

func (on *ranksOn) open(m collective.Member, args []byte) (*cuda.Backend, error) {
	if err := json.Unmarshal(args, on); err != nil {
		return nil, err
	}
	b, err := cuda.New(cuda.Options{
		Device: on.Devices[m.Rank()], Sums: on.Sums, Peers: on.Peers, SumBF16: on.BF16, Tune: len(on.Batches) > 0,
		Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT"), NCCL: os.Getenv("CHORALE_NCCL"),
	})
	if err != nil {
		return nil, err
	}
	return b, b.Join(m)
}

// goldenFound is how far a case's log probabilities are from the reference.
type goldenFound struct {
	Name   string // model, adapter, prompt, chunk
	Mean   float64
	Bound  float64 // 0 for none
	Base   string  // the same without the adapter
	Counts collective.Counts
}

// playGolden computes every golden case that divides by the number of ranks.
func playGolden(m collective.Member, args []byte) (any, error) {
	var on ranksOn
	b, err := on.open(m, args)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile("testdata/index.json")
	if err != nil {
		return nil, err
	}
	var ix index
	if err := json.Unmarshal(raw, &ix); err != nil {
		return nil, err
	}
	var out []goldenFound
	for _, g := range ix.Models {
		spec, err := specOf(filepath.Join("testdata", g.Name))
		if err != nil {
			return nil, err
		}
		if _, err := decoder.Shard(spec, m.Rank(), m.Size()); err != nil {
			continue
		}
		found, err := goldenModelOn(b, m, g)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.Name, err)
		}
		out = append(out, found...)
	}
	return out, b.Close()
}

func goldenModelOn(b tensor.Backend, g collective.Group, gm goldenModel) ([]goldenFound, error) {
	dir := filepath.Join("testdata", gm.Name)
	c, err := checkpoint.Open(dir)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, _, err := model.Open(b, c)
	if err != nil {
		return nil, err
	}
	defer m.Free()
	f, err := safetensors.Open(filepath.Join(dir, "goldens.safetensors"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	run, err := newGoldenRun(b, m, slices.Max(gm.PromptLengths))
	if err != nil {
		return nil, err
	}
	defer run.free()
	run.group, run.file = g, f
	var out []goldenFound
	for _, c := range gm.Cases {
		if c.Name == "embed-full-changed" { // refused: see TestAdapterParity
			continue
		}
		found, err := run.do(gm, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// goldenRun computes prompts of one model; streams live as long as their backend,
// so there is one for all.
type goldenRun struct {
	m     *decoder.Model
	cache tensor.KV
	r     *decoder.Runner
	table []int32
	group collective.Group
	file  *safetensors.File
}

func newGoldenRun(b tensor.Backend, m *decoder.Model, tokens int) (*goldenRun, error) {
	x := &goldenRun{m: m}
	for i := range (tokens + kv.PageSize - 1) / kv.PageSize {
		x.table = append(x.table, int32(i))
	}
	var err error
	if x.cache, err = b.NewKV(m.KVLayout(kv.PageSize, len(x.table))); err != nil {
		return nil, err
	}
	x.r, err = m.NewRunner(x.cache, tokens)
	return x, err
}

func (x *goldenRun) free() {
	x.r.Free()
	x.cache.Free()
}

// do computes a case's prompts.
func (x *goldenRun) do(gm goldenModel, c goldenCase) ([]goldenFound, error) {
	var a *nn.Adapter
	if c.Adapter != nil {
		bound, closing, err := bindAdapter(x.m, adapterDir(gm, *c.Adapter))
		if err != nil {
			if c.Optional && errors.Is(err, peft.ErrUnsupported) {
				return nil, nil
			}
			return nil, err
		}
		p, err := model.Pack(x.m, bound)
		if err := errors.Join(err, closing()); err != nil {
			return nil, err
		}
		defer p.Free()
		a = p.Adapter
	}
	var out []goldenFound
	for i := range gm.PromptLengths {
		n := fmt.Sprint(i)
		ids, err := int32s(x.file, "ids/"+n)
		if err != nil {
			return nil, err
		}
		want, err := floats(x.file, c.Name+"/"+n+"/logits")
		if err != nil {
			return nil, err
		}
		for _, chunk := range []int{len(ids), 1} {
			how := "whole"
			if chunk == 1 {
				how = "by token"
			}
			before := x.group.Counts()
			got, err := x.logits(a, ids, chunk)
			if err != nil {
				return nil, err
			}
			after := x.group.Counts()
			name := func(adapter string) string { return fmt.Sprintf("%s %s %s %s", gm.Name, adapter, n, how) }
			found := goldenFound{Name: name(c.Name), Base: name("base"), Mean: meanLogprobDiff(got, want, x.m.Spec.Vocab)}
			found.Counts = collective.Counts{AllReduce: after.AllReduce - before.AllReduce}
			if c.BF16 != nil {
				found.Bound = c.BF16.Mean
			}
			out = append(out, found)
		}
	}
	return out, nil
}

// logits computes all positions' logits in chunks.
func (x *goldenRun) logits(a *nn.Adapter, ids []int32, chunk int) ([]float32, error) {
	var out []float32
	for from := 0; from < len(ids); from += chunk {
		n := min(chunk, len(ids)-from)
		st := &decoder.Step{Batch: tensor.Batch{IDs: ids[from : from+n], Seqs: []tensor.Seq{{QLen: n, CtxLen: from + n, Pages: x.table}}}}
		for i := range n {
			st.Batch.Pos = append(st.Batch.Pos, int32(from+i))
			st.LogitRows = append(st.LogitRows, int32(i))
		}
		if a != nil {
			st.Segments = []nn.Segment{{End: n, Adapter: a}}
			st.LogitSegments = st.Segments
		}
		x.r.Forward(st)
		l, err := x.r.Logits(st, 0, n, make([]tensor.LogitStat, n))
		if err != nil {
			return nil, err
		}
		out = append(out, l...)
		if err := x.r.Finish(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// goldens runs the cases on ranks, by name.
func goldens(t *testing.T, on ranksOn) map[string]goldenFound {
	t.Helper()
	var all map[string]goldenFound
	for rank, r := range processes.Run(t, "golden", len(on.Devices), inprocess.Patient, on) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		var found []goldenFound
		if err := json.Unmarshal(r.Out, &found); err != nil {
			t.Fatal(err)
		}
		if rank > 0 {
			for _, x := range found {
				if y := all[x.Name]; y.Mean != x.Mean {
					t.Errorf("%s: rank 0 is %.5f off, rank %d %.5f", x.Name, y.Mean, rank, x.Mean)
				}
			}
			continue
		}
		all = map[string]goldenFound{}
		for _, x := range found {
			all[x.Name] = x
		}
	}
	return all
}

// compareGoldens checks ranks against one: as near to the reference, and with as
// many sums for an adapter as without.
func compareGoldens(t *testing.T, one map[string]goldenFound, on ranksOn, counted bool) {
	t.Helper()
	got := goldens(t, on)
	worst := 0.0
	for name, x := range got {
		single, ok := one[name]
		if !ok {
			t.Errorf("%s is not a case of one rank", name)
			continue
		}
		worst = max(worst, x.Mean/single.Mean)
		if bound := max(x.Bound, 1.25*single.Mean+2e-3); x.Mean > bound {
			t.Errorf("%s: mean |Δlogprob| %.4f, on one rank %.4f, bound %.4f", name, x.Mean, single.Mean, bound)
		}
		if base := got[x.Base]; counted && (x.Counts != base.Counts || x.Counts.AllReduce == 0) {
			t.Errorf("%s: %+v, the base has %+v", name, x.Counts, base.Counts)
		}
	}
	t.Logf("%d cases on %v; at most %.2f times as far from the reference as one rank", len(got), on.Devices, worst)
	if len(got) < 40 {
		t.Errorf("only %d cases divide by %d ranks", len(got), len(on.Devices))
	}
}

// TestGPURanks: two ranks on one GPU compute every model with every variety of
// adapter as well as one rank.
func TestGPURanks(t *testing.T) {
	one := goldens(t, ranksOn{Devices: []int{0}})
	compareGoldens(t, one, ranksOn{Devices: []int{0, 0}, Peers: cuda.PeersOff}, true)
}

// rankSpeed is what a step takes.
type rankSpeed struct {
	Name          string
	Median, Least float64 // milliseconds
}

type rankSpeeds struct {
	Device, Sums string
	BF16         bool
	Ranks        int
	PeerSizes    uint64
	PeerTimes    []cuda.PeerTime
	Steps        []rankSpeed
	LoadSeconds  float64
}

// playSpeed measures decode steps of Llama-3-8B's shape.
func playSpeed(m collective.Member, args []byte) (any, error) {
	var on ranksOn
	b, err := on.open(m, args)
	if err != nil {
		return nil, err
	}
	spec := llama8B()
	share, err := decoder.Shard(&spec, m.Rank(), m.Size())
	if err != nil {
		return nil, err
	}
	start := time.Now()
	s := &speed{b: b}
	if s.m, err = decoder.Load(b, spec, model.Dummy(&spec)); err != nil {
		return nil, err
	}
	out := &rankSpeeds{Device: b.Name(), Ranks: m.Size(), BF16: on.BF16, LoadSeconds: time.Since(start).Seconds()}
	if s.cache, err = b.NewKV(s.m.KVLayout(kv.PageSize, slices.Max(on.Batches)*(speedCtx/kv.PageSize+1))); err != nil {
		return nil, err
	}
	if s.r, err = s.m.NewRunner(s.cache, slices.Max(on.Batches)); err != nil {
		return nil, err
	}
	counts := func(int) []int { return []int{0} }
	if on.LoRA {
		if err := s.noises(share, 32, 16); err != nil {
			return nil, err
		}
		counts = func(n int) []int { return []int{0, min(n, 32)} }
	}
	for _, n := range on.Batches {
		for _, d := range counts(n) {
			x, err := s.time(s.stepOf(n, d))
			if err != nil {
				return nil, err
			}
			x.Name = fmt.Sprintf("B=%d/D=%d", n, d)
			out.Steps = append(out.Steps, x)
		}
	}
	out.Sums = b.Sums()
	out.PeerTimes, out.PeerSizes = b.PeerTimes()
	return out, nil // the process ends: nothing to be freed
}

// noises makes a rank's part of adapters of all linear modules.
func (s *speed) noises(share *decoder.Share, n, r int) error {
	for i := range n {
		rows := noise(rand.New(rand.NewPCG(uint64(i), 5)), 0.02)
		mods := s.m.Spec.Modules()
		a := &nn.Adapter{Deltas: make([]nn.Delta, len(mods))}
		for j, m := range mods {
			if m.Kind != decoder.LinearModule {
				continue
			}
			part := share.Module(j)
			p, err := s.b.NewLoRA(r, part.In.Len, part.Out.Len, 1, rows, rows)
			if err != nil {
				return err
			}
			a.Deltas[j].Pair = p
		}
		s.adapters = append(s.adapters, a)
	}
	return nil
}

// stepOf is a decode step whose sequences have pages of their own.
func (s *speed) stepOf(n, d int) *decoder.Step {
	st := s.step(n, d, speedCtx)
	per := speedCtx/kv.PageSize + 1
	for i := range st.Batch.Seqs {
		for p := range st.Batch.Seqs[i].Pages {
			st.Batch.Seqs[i].Pages[p] = int32(i*per + p)
		}
	}
	return st
}

// time runs a step again and again, as often on every rank.
func (s *speed) time(st *decoder.Step) (rankSpeed, error) {
	asked, out := make([]tensor.SampleRow, len(st.LogitRows)), make([]tensor.Sampled, len(st.LogitRows))
	var took []float64
	for i := range 64 {
		start := time.Now()
		s.r.Forward(st)
		s.r.Sample(st, out, asked)
		if err := s.r.Finish(); err != nil {
			return rankSpeed{}, err
		}
		if i >= 14 { // kernels are chosen and the graph is recorded
			took = append(took, time.Since(start).Seconds()*1000)
		}
	}
	slices.Sort(took)
	return rankSpeed{Median: took[len(took)/2], Least: took[0]}, nil
}

// rankTimes measures on ranks and prints rank 0's times.
func rankTimes(b *testing.B, on ranksOn) {
	b.Helper()
	for rank, r := range processes.Run(b, "speed", len(on.Devices), inprocess.Patient, on) {
		if r.Err != nil {
			b.Fatal(r.Err)
		}
		if rank > 0 {
			continue
		}
		var x rankSpeeds
		if err := json.Unmarshal(r.Out, &x); err != nil {
			b.Fatal(err)
		}
		for _, st := range x.Steps {
			b.ReportMetric(st.Median, st.Name+"/ms")
		}
		fmt.Printf("RANKS %s\n", r.Out)
	}
}

// BenchmarkRanksOne is one rank, for those that share the work to be measured
// against.
func BenchmarkRanksOne(b *testing.B) {
	rankTimes(b, ranksOn{Devices: []int{0}, Batches: []int{1, 64, 256}, LoRA: true})
}

// int32s and floats read a golden tensor.
func int32s(f *safetensors.File, name string) ([]int32, error) {
	x, ok := f.Tensor(name)
	if !ok || x.DType != safetensors.I32 {
		return nil, fmt.Errorf("no golden %s", name)
	}
	ids := make([]int32, len(x.Data)/4)
	for i := range ids {
		ids[i] = int32(uint32(x.Data[4*i]) | uint32(x.Data[4*i+1])<<8 | uint32(x.Data[4*i+2])<<16 | uint32(x.Data[4*i+3])<<24)
	}
	return ids, nil
}

func floats(f *safetensors.File, name string) ([]float32, error) {
	x, ok := f.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("no golden %s", name)
	}
	v := make([]float32, x.Len())
	return v, x.Float32(v)
}
