package conformance

import (
	"errors"
	"io"
	"math/rand/v2"

	"chorale/worker/tensor"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

// testErrors gives every operation operands that do not fit. The first error
// must be reported by Finish and the next step must work.
func testErrors(c *check) {
	const headDim = 16
	d := c.device(2, 8, ropeSpec(headDim, 1))
	p := d.Precision()
	x := c.random(p, 4, 32, 1)
	square, wide := d.matrix(c.random(p, 32, 32, 1)), d.matrix(c.random(p, 40, 33, 1))
	small, other := d.buffer(2, 32), d.buffer(4, 31)
	long := d.vector(c.random(tensor.F32, 1, 33, 1))
	fit := d.vector(c.random(tensor.F32, 1, 32, 1))
	pair, embedding := d.pair(4, 32, 20).dev, d.embeddingPair(4, 32, 32).dev
	kv := must(d.NewKV(tensor.KVLayout{Layers: 1, KVHeads: 1, HeadDim: headDim, PageSize: 4, Pages: 2}))(c)
	defer kv.Free()
	batch := func(pages ...int32) *tensor.Batch {
		return &tensor.Batch{IDs: []int32{0, 1, 2, 3}, Pos: []int32{0, 1, 2, 3}, Seqs: []tensor.Seq{{QLen: 4, CtxLen: 4, Pages: pages}}}
	}
	qkv := c.random(p, 4, 3*headDim, 1)
	linear := func(terms ...tensor.LoRATerm) func(in, dst tensor.Buffer) {
		return func(in, dst tensor.Buffer) { d.Linear(dst, in, square, nil, terms) }
	}
	logits := d.bufferOf(tensor.Wide, 4, 32)
	sampleOf := func(rows ...tensor.SampleRow) {
		d.GatherRows(logits, d.uploadAs(tensor.Wide, x), []int32{2})
		d.Sample(make([]tensor.Sampled, 1), logits, rows)
	}
	tests := map[string]func(in, dst tensor.Buffer){
		"Linear depth":          func(in, dst tensor.Buffer) { d.Linear(dst, in, wide, nil, nil) },
		"Linear width":          func(in, dst tensor.Buffer) { d.Linear(other, in, square, nil, nil) },
		"Linear rows":           func(in, dst tensor.Buffer) { d.Linear(small, in, square, nil, nil) },
		"Linear bias":           func(in, dst tensor.Buffer) { d.Linear(dst, in, square, long, nil) },
		"Linear aliased":        func(in, dst tensor.Buffer) { d.Linear(in, in, square, nil, nil) },
		"Linear nil weight":     func(in, dst tensor.Buffer) { d.Linear(dst, in, nil, nil, nil) },
		"Linear nil input":      func(in, dst tensor.Buffer) { d.Linear(dst, nil, square, nil, nil) },
		"term rows":             linear(tensor.LoRATerm{Start: 1, End: 5, Pair: pair}),
		"term rows negative":    linear(tensor.LoRATerm{Start: -1, End: 2, Pair: pair}),
		"term rows reversed":    linear(tensor.LoRATerm{Start: 3, End: 1, Pair: pair}),
		"term columns":          linear(tensor.LoRATerm{End: 4, Offset: 13, Pair: pair}),
		"term columns negative": linear(tensor.LoRATerm{End: 4, Offset: -1, Pair: pair}),
		"term of embedding":     linear(tensor.LoRATerm{End: 4, Pair: embedding}),
		"term bias":             linear(tensor.LoRATerm{End: 4, Pair: pair, Bias: fit}),
		"term bias only":        linear(tensor.LoRATerm{End: 4, Bias: long}),
		"term depth":            func(in, dst tensor.Buffer) { d.Embed(dst, wide, []tensor.LoRATerm{{End: 4, Pair: pair}}) },
		"Embed width":           func(in, dst tensor.Buffer) { d.Embed(dst, wide, nil) },
		"Embed rows":            func(in, dst tensor.Buffer) { d.Embed(small, square, nil) },
		"RMSNorm weight":        func(in, dst tensor.Buffer) { d.RMSNorm(dst, in, long, 1) },
		"RMSNorm width":         func(in, dst tensor.Buffer) { d.RMSNorm(other, in, fit, 1) },
		"AddRMSNorm delta":      func(in, dst tensor.Buffer) { d.AddRMSNorm(dst, in, small, fit, 1) },
		"AddRMSNorm nil":        func(in, dst tensor.Buffer) { d.AddRMSNorm(dst, in, nil, fit, 1) },
		"SiluMul width":         func(in, dst tensor.Buffer) { d.SiluMul(dst, in) },
		"GatherRows row":        func(in, dst tensor.Buffer) { d.GatherRows(dst, in, []int32{4}) },
		"GatherRows negative":   func(in, dst tensor.Buffer) { d.GatherRows(dst, in, []int32{-1}) },
		"GatherRows capacity":   func(in, dst tensor.Buffer) { d.GatherRows(small, in, []int32{0, 0, 0}) },
		"LogitStats rows":       func(in, dst tensor.Buffer) { d.LogitStats(make([]tensor.LogitStat, 3), in) },
		"Sample rows":           func(in, dst tensor.Buffer) { d.Sample(make([]tensor.Sampled, 4), logits, make([]tensor.SampleRow, 4)) },
		"Sample results":        func(in, dst tensor.Buffer) { sampleOf(tensor.SampleRow{}, tensor.SampleRow{}) },
		"Sample given":          func(in, dst tensor.Buffer) { sampleOf(tensor.SampleRow{Given: true, Token: 32}) },
		"Sample ids":            func(in, dst tensor.Buffer) { sampleOf(tensor.SampleRow{IDs: []int32{-1}}) },
		"Sample top":            func(in, dst tensor.Buffer) { sampleOf(tensor.SampleRow{Top: tensor.MaxTop + 1}) },
		"Sample draw":           func(in, dst tensor.Buffer) { sampleOf(tensor.SampleRow{U: 1}) },
		"Sample nil":            func(in, dst tensor.Buffer) { d.Sample(nil, nil, nil) },
		"Attention width":       func(in, dst tensor.Buffer) { d.Attention(dst, in, kv, tensor.AttentionSpec{Heads: 2}) },
		"RopeKV width":          func(in, dst tensor.Buffer) { d.RopeKV(in, kv, tensor.RopeKV{Heads: 2}) },
	}
	for name, call := range tests {
		d.Begin(batch(0))
		in := d.upload(x)
		dst := d.buffer(4, 32)
		call(in, dst)
		d.wantShape(name)
	}
	attention := map[string]func(q, dst tensor.Buffer){
		"layer":     func(q, dst tensor.Buffer) { d.Attention(dst, q, kv, tensor.AttentionSpec{Heads: 1, Layer: 1}) },
		"rope":      func(q, dst tensor.Buffer) { d.RopeKV(q, kv, tensor.RopeKV{Heads: 1, Rope: 1}) },
		"norm":      func(q, dst tensor.Buffer) { d.RopeKV(q, kv, tensor.RopeKV{Heads: 1, QNorm: fit}) },
		"aliased":   func(q, dst tensor.Buffer) { d.Attention(q, q, kv, tensor.AttentionSpec{Heads: 1}) },
		"window":    func(q, dst tensor.Buffer) { d.Attention(dst, q, kv, tensor.AttentionSpec{Heads: 1, Window: -1}) },
		"no cache":  func(q, dst tensor.Buffer) { d.Attention(dst, q, nil, tensor.AttentionSpec{Heads: 1}) },
		"no heads":  func(q, dst tensor.Buffer) { d.Attention(dst, q, kv, tensor.AttentionSpec{}) },
		"dst width": func(q, dst tensor.Buffer) { d.Attention(q, q, kv, tensor.AttentionSpec{Heads: 1}) },
	}
	for name, call := range attention {
		d.Begin(batch(0))
		q := d.upload(qkv)
		call(q, d.buffer(4, headDim))
		d.wantShape("attention " + name)
	}
	for name, pages := range map[string][]int32{"page missing": nil, "page unknown": {2}, "page negative": {-1}} {
		d.Begin(batch(pages...))
		d.RopeKV(d.upload(qkv), kv, tensor.RopeKV{Heads: 1})
		d.wantShape(name)
	}
	testBatches(d, square, kv, qkv)
}

// testBatches gives Begin batches that contradict themselves.
func testBatches(d device, table tensor.Matrix, kv tensor.KV, qkv dense) {
	ids := []int32{0, 1, 2, 3}
	for name, b := range map[string]*tensor.Batch{
		"nil":            nil,
		"empty":          {},
		"lengths":        {IDs: ids, Pos: ids[:3]},
		"too many":       {IDs: make([]int32, 9), Pos: make([]int32, 9)},
		"gap":            {IDs: ids, Pos: ids, Seqs: []tensor.Seq{{QStart: 1, QLen: 3, CtxLen: 3}}},
		"beyond":         {IDs: ids, Pos: ids, Seqs: []tensor.Seq{{QLen: 5, CtxLen: 5}}},
		"uncovered":      {IDs: ids, Pos: ids, Seqs: []tensor.Seq{{QLen: 3, CtxLen: 3}}},
		"context":        {IDs: ids, Pos: ids, Seqs: []tensor.Seq{{QLen: 4, CtxLen: 3}}},
		"position":       {IDs: ids, Pos: ids, Seqs: []tensor.Seq{{QLen: 4, CtxLen: 5}}},
		"empty sequence": {IDs: ids, Pos: ids, Seqs: []tensor.Seq{{QLen: 0, CtxLen: 0}, {QLen: 4, CtxLen: 4}}},
	} {
		d.Begin(b)
		d.wantShape("batch " + name)
	}
	d.Begin(&tensor.Batch{IDs: []int32{0, 32}, Pos: []int32{0, 1}})
	d.Embed(d.buffer(2, 32), table, nil)
	d.wantShape("id beyond the table")
	d.Begin(&tensor.Batch{IDs: []int32{-1}, Pos: []int32{0}})
	d.Embed(d.buffer(2, 32), table, nil)
	d.wantShape("negative id")
	d.begin(4)
	d.RopeKV(d.upload(qkv), kv, tensor.RopeKV{Heads: 1})
	d.wantShape("no sequences")
}

// wantShape ends the step, which must report ErrShape, and checks that the next
// one works.
func (d device) wantShape(name string) {
	d.Helper()
	if err := d.Finish(); !errors.Is(err, tensor.ErrShape) {
		d.Errorf("%s: got %v, want ErrShape", name, err)
	}
	d.begin(1)
	if err := d.Finish(); err != nil {
		d.Errorf("%s: the next step fails: %v", name, err)
	}
}

// testReadErrors checks constructors: bad sizes and files that fail.
func testReadErrors(c *check) {
	b := c.backend(1)
	zeros := func(dst []float32, row, n int) error { clear(dst); return nil }
	fails := func([]float32, int, int) error { return io.ErrUnexpectedEOF }
	want := func(name string, err, target error) {
		c.Helper()
		if !errors.Is(err, target) {
			c.Errorf("%s: got %v, want %v", name, err, target)
		}
	}
	_, err := b.NewMatrix(4, 4, fails)
	want("matrix", err, io.ErrUnexpectedEOF)
	_, err = b.NewMatrix(0, 4, zeros)
	want("matrix of nothing", err, tensor.ErrShape)
	_, err = b.NewLoRA(2, 4, 4, 1, fails, zeros)
	want("A", err, io.ErrUnexpectedEOF)
	_, err = b.NewLoRA(2, 4, 4, 1, zeros, fails)
	want("B", err, io.ErrUnexpectedEOF)
	_, err = b.NewLoRA(0, 4, 4, 1, zeros, zeros)
	want("rank 0", err, tensor.ErrShape)
	_, err = b.NewEmbeddingLoRA(2, 4, 4, 1, zeros, fails)
	want("embedding B", err, io.ErrUnexpectedEOF)
	_, err = b.NewVector(nil)
	want("vector", err, tensor.ErrShape)
	_, err = b.NewBuffer(tensor.Act, 0, 1)
	want("buffer", err, tensor.ErrShape)
	_, err = b.NewBuffer(tensor.Act, 1<<40, 1<<20)
	want("huge buffer", err, tensor.ErrOutOfMemory)
	_, err = b.NewKV(tensor.KVLayout{Layers: 1, KVHeads: 1, HeadDim: 20, PageSize: 1, Pages: 1})
	want("head size", err, tensor.ErrUnsupported)
	_, err = b.NewKV(tensor.KVLayout{Layers: 1, KVHeads: 1, HeadDim: 16, Pages: 1})
	want("page size", err, tensor.ErrShape)
	_, err = b.NewStream(0, nil)
	want("stream", err, tensor.ErrShape)
	_, err = b.NewStream(1, []tensor.RopeSpec{{}})
	want("rope", err, tensor.ErrShape)
}
