package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"chorale/worker/tensor"
)

func noisy(rng *rand.Rand, size float32) tensor.Rows {
	return func(dst []float32, _, _ int) error {
		for i := range dst {
			dst[i] = (rng.Float32() - 0.5) * size
		}
		return nil
	}
}

func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

// BenchmarkLinear multiplies through enough distinct weights that no cache holds
// them.
//
//	go test ./worker/tensor/cpu -run '^$' -bench Linear -benchtime 300x
func BenchmarkLinear(b *testing.B) {
	for _, kernel := range Kernels(tensor.BF16) {
		if kernel == "go" {
			continue
		}
		for _, shape := range [][2]int{{576, 960}, {576, 576}, {576, 3072}, {1536, 576}, {2048, 2048}, {4096, 4096}} {
			for _, m := range []int{1, 4, 8, 16, 32, 128, 512} {
				b.Run(fmt.Sprintf("%s/%dx%d/m=%d", kernel, shape[0], shape[1], m), func(b *testing.B) {
					benchLinear(b, kernel, m, shape[0], shape[1])
				})
			}
		}
	}
}

func benchLinear(b *testing.B, kernel string, m, k, n int) {
	be := must(New(Options{Kernel: kernel}))
	defer be.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	count := max(2, 160<<20/(2*k*n))
	var ws []tensor.Matrix
	row := make([]float32, k)
	_ = noisy(rng, 1)(row, 0, 1)
	for range count {
		w := must(be.NewMatrix(n, k, func(dst []float32, _, _ int) error {
			for len(dst) > 0 {
				dst = dst[copy(dst, row):]
			}
			return nil
		}))
		defer w.Free()
		ws = append(ws, w)
	}
	x, y := must(be.NewBuffer(tensor.Act, m, k)), must(be.NewBuffer(tensor.Act, m, n))
	defer x.Free()
	defer y.Free()
	s := must(be.NewStream(m, nil))
	_ = noisy(rng, 2)(x.(*buffer).data, 0, m)
	x.(*buffer).rows = m
	s.Begin(&tensor.Batch{IDs: make([]int32, m), Pos: make([]int32, m)})
	s.Linear(y, x, ws[0], nil, nil)
	i := 0
	for b.Loop() {
		s.Linear(y, x, ws[i%count], nil, nil)
		i++
	}
	if err := s.Finish(); err != nil {
		b.Fatal(err)
	}
	sec := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(2*float64(k)*float64(n)/sec/1e9, "GB/s")
	b.ReportMetric(2*float64(m)*float64(k)*float64(n)/sec/1e9, "GFLOP/s")
}

// smol is a transformer of SmolLM2-135M's shape with random weights.
type smol struct {
	tensor.Backend
	tensor.Stream
	embed                    tensor.Matrix
	qkv, out, gateUp, down   []tensor.Matrix
	norm                     tensor.Vector
	adapters                 [][]smolLoRA // [adapter][layer]
	kv                       tensor.KV
	x, h, q, att, gu, act, l tensor.Buffer
	last                     tensor.Buffer
}

type smolLoRA struct{ q, k, v, o, gate, up, down tensor.LoRAPair }

const (
	smolLayers, smolHidden, smolHeads, smolKV, smolDim, smolFFN, smolVocab = 30, 576, 9, 3, 64, 1536, 49152

	smolBytes = 2 * (smolLayers*(smolHidden*960+smolHidden*576+smolHidden*3072+1536*smolHidden) + smolVocab*smolHidden)
)

func newSmol(kernel string, rows, adapters int) *smol {
	be := must(New(Options{Kernel: kernel}))
	rng := rand.New(rand.NewPCG(1, 2))
	mat := func(out, in int) tensor.Matrix {
		return must(be.NewMatrix(out, in, noisy(rng, 3/float32(math.Sqrt(float64(in))))))
	}
	m := &smol{Backend: be, embed: mat(smolVocab, smolHidden)}
	for range smolLayers {
		m.qkv = append(m.qkv, mat(960, 576))
		m.out = append(m.out, mat(576, 576))
		m.gateUp = append(m.gateUp, mat(3072, 576))
		m.down = append(m.down, mat(576, 1536))
	}
	ones := make([]float32, smolHidden)
	for i := range ones {
		ones[i] = 1
	}
	m.norm = must(be.NewVector(ones))
	for range adapters {
		m.adapters = append(m.adapters, m.adapter(rng, 16))
	}
	spec := tensor.RopeSpec{Scale: 1}
	for i := 0; i < smolDim; i += 2 {
		spec.InvFreq = append(spec.InvFreq, float32(math.Pow(10000, -float64(i)/smolDim)))
	}
	m.kv = must(be.NewKV(tensor.KVLayout{Layers: smolLayers, KVHeads: smolKV, HeadDim: smolDim, PageSize: 16, Pages: 40 * 40}))
	buf := func(cols int) tensor.Buffer { return must(be.NewBuffer(tensor.Act, rows, cols)) }
	m.x, m.h, m.q, m.att, m.gu, m.act = buf(576), buf(576), buf(960), buf(576), buf(3072), buf(1536)
	m.last, m.l = must(be.NewBuffer(tensor.Wide, 32, 576)), must(be.NewBuffer(tensor.Wide, 32, smolVocab))
	m.Stream = must(be.NewStream(rows, []tensor.RopeSpec{spec}))
	return m
}

func (m *smol) adapter(rng *rand.Rand, r int) []smolLoRA {
	pair := func(in, out int) tensor.LoRAPair {
		return must(m.NewLoRA(r, in, out, 2, noisy(rng, 0.1), noisy(rng, 0.1)))
	}
	var out []smolLoRA
	for range smolLayers {
		out = append(out, smolLoRA{pair(576, 576), pair(576, 192), pair(576, 192), pair(576, 576), pair(576, 1536), pair(576, 1536), pair(1536, 576)})
	}
	return out
}

func (m *smol) free() {
	for _, list := range [][]tensor.Matrix{m.qkv, m.out, m.gateUp, m.down, {m.embed}} {
		for _, w := range list {
			w.Free()
		}
	}
	for _, b := range []tensor.Buffer{m.x, m.h, m.q, m.att, m.gu, m.act, m.l, m.last} {
		b.Free()
	}
	for _, a := range m.adapters {
		for _, l := range a {
			for _, p := range []tensor.LoRAPair{l.q, l.k, l.v, l.o, l.gate, l.up, l.down} {
				p.Free()
			}
		}
	}
	m.norm.Free()
	m.kv.Free()
	m.Close()
}

// batch makes a step of seqs sequences of n rows each at context ctx.
func (m *smol) batch(seqs, n, ctx int) *tensor.Batch {
	b := &tensor.Batch{}
	for s := range seqs {
		var pages []int32
		for i := range (ctx + 15) / 16 {
			pages = append(pages, int32(s*((ctx+15)/16)+i))
		}
		b.Seqs = append(b.Seqs, tensor.Seq{QStart: len(b.IDs), QLen: n, CtxLen: ctx, Pages: pages})
		for i := range n {
			b.IDs = append(b.IDs, int32((s*7919+i*31)%smolVocab))
			b.Pos = append(b.Pos, int32(ctx-n+i))
		}
	}
	return b
}

// step runs one forward pass; sequence i has adapter i modulo adapters.
func (m *smol) step(b *tensor.Batch, adapters int) {
	type run struct{ start, end, a int }
	var runs []run
	for i, s := range b.Seqs {
		if adapters == 0 {
			break
		}
		a := i * adapters / len(b.Seqs)
		if n := len(runs); n > 0 && runs[n-1].a == a {
			runs[n-1].end = s.QStart + s.QLen
			continue
		}
		runs = append(runs, run{s.QStart, s.QStart + s.QLen, a})
	}
	var terms []tensor.LoRATerm
	lora := func(layer int, picks ...func(smolLoRA) tensor.LoRAPair) []tensor.LoRATerm {
		terms = terms[:0]
		for _, r := range runs {
			at := 0
			for _, pick := range picks {
				p := pick(m.adapters[r.a][layer])
				terms = append(terms, tensor.LoRATerm{Start: r.start, End: r.end, Offset: at, Pair: p})
				at += p.Out()
			}
		}
		return terms
	}
	m.Begin(b)
	m.Embed(m.x, m.embed, nil)
	m.RMSNorm(m.h, m.x, m.norm, 1e-5)
	for i := range smolLayers {
		m.Linear(m.q, m.h, m.qkv[i], nil, lora(i, func(l smolLoRA) tensor.LoRAPair { return l.q }, func(l smolLoRA) tensor.LoRAPair { return l.k }, func(l smolLoRA) tensor.LoRAPair { return l.v }))
		m.RopeKV(m.q, m.kv, tensor.RopeKV{Layer: i, Heads: smolHeads})
		m.Attention(m.att, m.q, m.kv, tensor.AttentionSpec{Layer: i, Heads: smolHeads, Scale: 0.125})
		m.Linear(m.h, m.att, m.out[i], nil, lora(i, func(l smolLoRA) tensor.LoRAPair { return l.o }))
		m.AddRMSNorm(m.h, m.x, m.h, m.norm, 1e-5)
		m.Linear(m.gu, m.h, m.gateUp[i], nil, lora(i, func(l smolLoRA) tensor.LoRAPair { return l.gate }, func(l smolLoRA) tensor.LoRAPair { return l.up }))
		m.SiluMul(m.act, m.gu)
		m.Linear(m.h, m.act, m.down[i], nil, lora(i, func(l smolLoRA) tensor.LoRAPair { return l.down }))
		m.AddRMSNorm(m.h, m.x, m.h, m.norm, 1e-5)
	}
	var rows []int32
	for _, s := range b.Seqs {
		rows = append(rows, int32(s.QStart+s.QLen-1))
	}
	m.GatherRows(m.last, m.h, rows)
	m.Linear(m.l, m.last, m.embed, nil, nil)
	stats := make([]tensor.LogitStat, len(rows))
	m.LogitStats(stats, m.l)
	if err := m.Finish(); err != nil {
		panic(err)
	}
}

// stepCase is one kind of step; base is the case that its time is compared with.
type stepCase struct {
	seqs, rows, ctx, adapters, base int
}

var stepCases = []stepCase{
	{1, 1, 128, 0, 0},
	{1, 1, 128, 1, 0},
	{8, 1, 128, 0, 0},
	{8, 1, 128, 1, 2},
	{8, 1, 128, 8, 2},
	{16, 1, 128, 0, 2},
	{32, 1, 128, 0, 2},
	{32, 1, 128, 8, 6},
	{1, 512, 512, 0, 8},
	{1, 512, 512, 1, 8},
	{4, 128, 128, 4, 8},
}

// BenchmarkStep runs steps of SmolLM2-135M's shape, decoding at context 128 and
// prompts of 512, and prints a table: times, tokens a second, the median ratio to
// the base case, and shares of limits measured in the same run. The cases take
// turns, so that other load on the machine hits all of them.
//
//	go test ./worker/tensor/cpu -run '^$' -bench Step -benchtime 40x
func BenchmarkStep(b *testing.B) {
	for _, kernel := range Kernels(tensor.BF16) {
		if kernel != "go" {
			b.Run(kernel, func(b *testing.B) { benchSteps(b, kernel) })
		}
	}
}

func benchSteps(b *testing.B, kernel string) {
	m := newSmol(kernel, 512, 8)
	defer m.free()
	var limits Limits
	batches := make([]*tensor.Batch, len(stepCases))
	times := make([][]float64, len(stepCases))
	for i, c := range stepCases {
		batches[i] = m.batch(c.seqs, c.rows, c.ctx)
		m.step(batches[i], c.adapters)
	}
	for b.Loop() {
		l := must(MeasureLimits(0))
		limits = Limits{Read: max(limits.Read, l.Read), Dot: max(limits.Dot, l.Dot), FMA: max(limits.FMA, l.FMA), Tiles: max(limits.Tiles, l.Tiles)}
		for i, c := range stepCases {
			best := math.Inf(1)
			for range 1 + 4/c.rows {
				start := time.Now()
				m.step(batches[i], c.adapters)
				best = min(best, time.Since(start).Seconds())
			}
			times[i] = append(times[i], best)
		}
	}
	// Not b.Log, of which testing prints ten lines.
	fmt.Printf("\nlimits: read %.1f GB/s, tiles %.0f, dot %.0f, fma %.0f GFLOP/s\n", limits.Read/1e9, limits.Tiles/1e9, limits.Dot/1e9, limits.FMA/1e9)
	for i, c := range stepCases {
		var ratios []float64
		for r := range times[i] {
			ratios = append(ratios, times[i][r]/times[c.base][r])
		}
		best, median := slices.Min(times[i]), middle(times[i])
		tokens := float64(c.seqs * c.rows)
		flops := tokens*float64(smolBytes-2*smolVocab*smolHidden) + float64(c.seqs*2*smolVocab*smolHidden)
		fmt.Printf("case %2d: %2d x %3d rows, %d adapters: best %7.2f ms (%5.0f tok/s, %2.0f%% of read, %2.0f%% of peak), median %7.2f ms, %.2f x case %d\n",
			i, c.seqs, c.rows, c.adapters, best*1e3, tokens/best, 100*smolBytes/best/limits.Read, 100*flops/best/limits.Peak(),
			median*1e3, middle(ratios), c.base)
	}
}

// middle is the median; v is not changed.
func middle(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// BenchmarkLimits reports MeasureLimits.
func BenchmarkLimits(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprint(threads), func(b *testing.B) {
			var l Limits
			for b.Loop() {
				l = must(MeasureLimits(threads))
			}
			b.ReportMetric(l.Read/1e9, "GB/s")
			b.ReportMetric(l.Tiles/1e9, "tile-GFLOP/s")
			b.ReportMetric(l.Dot/1e9, "dot-GFLOP/s")
			b.ReportMetric(l.FMA/1e9, "fma-GFLOP/s")
		})
	}
}
