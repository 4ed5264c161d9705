//go:build gpu

package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"chorale/worker/kv"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cuda"
)

// llama8B is the shape of Llama-3-8B.
func llama8B() decoder.Spec {
	s := decoder.Spec{
		Vocab: 128256, Hidden: 4096, Layers: 32, Heads: 32, KVHeads: 8, HeadDim: 128, FFN: 14336, Context: 8192, Eps: 1e-5,
		Windows: make([]int, 32), Rope: tensor.RopeSpec{Scale: 1},
	}
	for i := range s.HeadDim / 2 {
		s.Rope.InvFreq = append(s.Rope.InvFreq, float32(math.Pow(500000, -2*float64(i)/float64(s.HeadDim))))
	}
	return s
}

// noise gives rows of random values.
func noise(rng *rand.Rand, size float64) tensor.Rows {
	pool := make([]float32, 1<<16)
	for i := range pool {
		pool[i] = float32(rng.NormFloat64() * size)
	}
	return func(dst []float32, _, _ int) error {
		for len(dst) > 0 {
			at := rng.IntN(len(pool))
			dst = dst[copy(dst, pool[at:]):]
		}
		return nil
	}
}

// speed is the model that all sizes share.
type speed struct {
	b        tensor.Backend
	m        *decoder.Model
	cache    tensor.KV
	r        *decoder.Runner
	adapters []*nn.Adapter
}

const (
	speedRows  = 2048 // of a prompt
	speedBatch = 256
	speedCtx   = 512
)

func newSpeed(b *testing.B) *speed {
	s := &speed{}
	dir, _ := os.UserCacheDir()
	be, err := cuda.New(cuda.Options{Tune: true, CacheDir: dir, Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT")})
	if err != nil {
		b.Fatal(err)
	}
	s.b = be
	spec := llama8B()
	start := time.Now()
	if s.m, err = decoder.Load(be, spec, model.Dummy(&spec)); err != nil {
		b.Fatal(err)
	}
	b.Logf("%s: %d MB of weights in %v", be.Name(), s.m.Bytes()>>20, time.Since(start))
	pages := speedBatch * (speedCtx/kv.PageSize + 1)
	if s.cache, err = be.NewKV(tensor.KVLayout{Layers: spec.Layers, KVHeads: spec.KVHeads, HeadDim: spec.HeadDim, PageSize: kv.PageSize, Pages: pages}); err != nil {
		b.Fatal(err)
	}
	if s.r, err = s.m.NewRunner(s.cache, speedRows); err != nil {
		b.Fatal(err)
	}
	return s
}

func (s *speed) free(b *testing.B) {
	for _, a := range s.adapters {
		for _, d := range a.Deltas {
			if d.Pair != nil {
				d.Pair.Free()
			}
		}
	}
	s.r.Free()
	s.cache.Free()
	s.m.Free()
	if err := s.b.Close(); err != nil {
		b.Error(err)
	}
}

// adapter makes one of all linear modules at rank r.
func (s *speed) adapter(b *testing.B, r int) *nn.Adapter {
	rng := rand.New(rand.NewPCG(uint64(len(s.adapters)), 5))
	rows := noise(rng, 0.02)
	mods := s.m.Spec.Modules()
	a := &nn.Adapter{Deltas: make([]nn.Delta, len(mods))}
	for i, m := range mods {
		if m.Kind != decoder.LinearModule {
			continue
		}
		p, err := s.b.NewLoRA(r, m.In, m.Out, 1, rows, rows)
		if err != nil {
			b.Fatal(err)
		}
		a.Deltas[i].Pair = p
	}
	s.adapters = append(s.adapters, a)
	return a
}

// step is a decode step of n rows that share the first d adapters.
func (s *speed) step(n, d, ctx int) *decoder.Step {
	st := &decoder.Step{}
	perSeq := speedCtx/kv.PageSize + 1
	for i := range n {
		st.Batch.IDs = append(st.Batch.IDs, int32(i*17+3))
		st.Batch.Pos = append(st.Batch.Pos, int32(ctx-1))
		table := make([]int32, perSeq)
		for p := range table {
			table[p] = int32(p*speedBatch + i)
		}
		st.Batch.Seqs = append(st.Batch.Seqs, tensor.Seq{QStart: i, QLen: 1, CtxLen: ctx, Pages: table})
		st.LogitRows = append(st.LogitRows, int32(i))
	}
	for i := range d {
		st.Segments = append(st.Segments, nn.Segment{Start: i * n / d, End: (i + 1) * n / d, Adapter: s.adapters[i]})
	}
	st.LogitSegments = st.Segments
	return st
}

// measure runs a step again and again: record is the host's part of it before
// the GPU starts.
func (s *speed) measure(b *testing.B, st *decoder.Step) {
	asked, out := make([]tensor.SampleRow, len(st.LogitRows)), make([]tensor.Sampled, len(st.LogitRows))
	var record time.Duration
	run := func() {
		start := time.Now()
		s.r.Forward(st)
		record += time.Since(start)
		s.r.Sample(st, out, asked)
		if err := s.r.Finish(); err != nil {
			b.Fatal(err)
		}
	}
	for range 4 { // chooses kernels, records the graph
		run()
	}
	record = 0
	b.ResetTimer()
	for range b.N {
		run()
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "ms/step")
	b.ReportMetric(float64(record.Microseconds())/float64(b.N), "µs-record")
}

// BenchmarkDecode is one decode step of Llama-3-8B's shape at context 512.
func BenchmarkDecode(b *testing.B) {
	s := newSpeed(b)
	defer s.free(b)
	for _, n := range []int{1, 8, 64, 128, 256} {
		st := s.step(n, 0, speedCtx)
		b.Run(fmt.Sprintf("B=%d", n), func(b *testing.B) { s.measure(b, st) })
	}
	prompt := s.prompt(2048)
	b.Run("prefill=2048", func(b *testing.B) { s.measure(b, prompt) })
	for range 64 {
		s.adapter(b, 16)
	}
	for _, d := range []int{1, 8, 32, 64} {
		st := s.step(64, d, speedCtx)
		b.Run(fmt.Sprintf("B=64/D=%d/r=16", d), func(b *testing.B) { s.measure(b, st) })
	}
	adapted := s.prompt(2048)
	adapted.Segments = []nn.Segment{{End: 2048, Adapter: s.adapters[0]}}
	adapted.LogitSegments = []nn.Segment{{End: 1, Adapter: s.adapters[0]}}
	b.Run("prefill=2048/D=1/r=16", func(b *testing.B) { s.measure(b, adapted) })
}

// prompt is a step of one prompt.
func (s *speed) prompt(n int) *decoder.Step {
	st := &decoder.Step{LogitRows: []int32{int32(n - 1)}}
	table := make([]int32, n/kv.PageSize)
	for p := range table {
		table[p] = int32(p)
	}
	st.Batch.Seqs = []tensor.Seq{{QLen: n, CtxLen: n, Pages: table}}
	for i := range n {
		st.Batch.IDs = append(st.Batch.IDs, int32(i*31%50000))
		st.Batch.Pos = append(st.Batch.Pos, int32(i))
	}
	return st
}
