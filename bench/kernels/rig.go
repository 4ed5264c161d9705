package kernels

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"chorale/bench/figure"
	"chorale/bench/shape"
	"chorale/worker/tensor"
)

// rig is the stream and what outlives a product.
type rig struct {
	b     tensor.Backend
	c     *Config
	s     tensor.Stream
	noise *noise
	bw    float64
	// deferred is set when operations are only recorded as they are called and
	// computed in Finish, as on a GPU: then Finish alone is timed.
	deferred bool
	cost     figures // of a step of next to nothing
	owned    []interface{ Free() }
	scrap    tensor.Buffer // [1, 8], for steps of nothing
	scrap2   tensor.Buffer
}

// figures are the times of a step: of the calls that make it, and of Finish.
type figures struct{ record, finish float64 }

// seconds is what counts of a step.
func (r *rig) seconds(f figures) float64 {
	if r.deferred {
		return max(0, f.finish-r.cost.finish)
	}
	return max(0, f.record+f.finish-r.cost.record-r.cost.finish)
}

// ids are the rows of the table that inputs are looked up in.
const ids = 512

func newRig(b tensor.Backend, c *Config, rows int) (_ *rig, err error) {
	r := &rig{b: b, c: c, noise: newNoise()}
	defer func() {
		if err != nil {
			r.free()
		}
	}()
	rope := tensor.RopeSpec{Scale: 1}
	for i := range max(1, c.HeadDim/2) {
		rope.InvFreq = append(rope.InvFreq, float32(math.Pow(10000, -2*float64(i)/float64(max(2, c.HeadDim)))))
	}
	if r.s, err = b.NewStream(rows, []tensor.RopeSpec{rope}); err != nil {
		return nil, err
	}
	for _, p := range []*tensor.Buffer{&r.scrap, &r.scrap2} {
		if *p, err = r.buffer(tensor.Wide, 1, 8); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *rig) free() { free(r.owned) }

func free(owned []interface{ Free() }) {
	for _, f := range owned {
		f.Free()
	}
}

func (r *rig) buffer(kind tensor.BufferKind, rows, cols int) (tensor.Buffer, error) {
	b, err := r.b.NewBuffer(kind, rows, cols)
	if err != nil {
		return nil, fmt.Errorf("buffer [%d, %d]: %w", rows, cols, err)
	}
	r.owned = append(r.owned, b)
	return b, nil
}

// batch is n rows, each a sequence of one token: a decode step.
func batch(n int) *tensor.Batch {
	b := &tensor.Batch{}
	for i := range n {
		b.IDs, b.Pos = append(b.IDs, int32(i%ids)), append(b.Pos, 0)
		b.Seqs = append(b.Seqs, tensor.Seq{QStart: i, QLen: 1, CtxLen: 1, Pages: []int32{int32(i)}})
	}
	return b
}

// submit measures a step of one copy of a few bytes.
func (r *rig) submit() (float64, error) {
	one, list := batch(1), []int32{0}
	// A source needs rows before they can be gathered.
	table, err := r.b.NewMatrix(ids, 8, r.noise.rows(1))
	if err != nil {
		return 0, err
	}
	defer table.Free()
	r.s.Begin(one)
	r.s.Embed(r.scrap, table, nil)
	if err := r.s.Finish(); err != nil {
		return 0, err
	}
	var record, finish []float64
	for i := range 40 {
		f, err := r.time(one, func() { r.s.GatherRows(r.scrap2, r.scrap, list) })
		if err != nil {
			return 0, err
		}
		if i >= 10 {
			record, finish = append(record, f.record), append(finish, f.finish)
		}
	}
	r.cost = figures{figure.Median(record), figure.Median(finish)}
	return r.cost.record + r.cost.finish, nil
}

// time runs a step of the operations that calls makes.
func (r *rig) time(b *tensor.Batch, calls func()) (figures, error) {
	start := time.Now()
	r.s.Begin(b)
	calls()
	called := time.Now()
	err := r.s.Finish()
	return figures{called.Sub(start).Seconds(), time.Since(called).Seconds()}, err
}

// bench is one product on its way.
type bench struct {
	*rig
	p       *shape.Product
	weights []tensor.Matrix
	table   tensor.Matrix
	x, y    tensor.Buffer // [B, in], [B, out]
	kv      tensor.KV
	norm    tensor.Vector
	res, h  tensor.Buffer // of what follows
	batch   *tensor.Batch
	pairs   map[int][]set // by rank
	owned   []interface{ Free() }
}

// set is one layer's pairs of one adapter, a pair a part.
type set []tensor.LoRAPair

// product measures one product in all its cells.
func (r *rig) product(ctx context.Context, p *shape.Product, res *Result) error {
	r.bw = res.Device.BytesPerSecond
	t := &bench{rig: r, p: p, pairs: map[int][]set{}}
	defer func() { free(t.owned) }()
	if err := t.open(); err != nil {
		return err
	}
	for _, b := range r.c.Batches {
		if ctx.Err() != nil {
			return nil
		}
		if err := t.batchSize(ctx, b, res); err != nil {
			return fmt.Errorf("batch %d: %w", b, err)
		}
	}
	return nil
}

func own[T interface{ Free() }](t *bench, v T, err error) (T, error) {
	if err == nil {
		t.owned = append(t.owned, v)
	}
	return v, err
}

// layers is how many weights the operations walk through.
func (t *bench) layers() int {
	weight := int64(t.p.In) * int64(t.p.Out()) * 2
	return min(max(2, int((t.c.Rotate+weight-1)/weight)), maxLayers)
}

// maxLayers bounds the weights of a small product; models have no more layers.
const maxLayers = 64

// open makes the weights and buffers.
func (t *bench) open() (err error) {
	p, rows := t.p, slices.Max(t.c.Batches)
	for i := range t.layers() {
		m, err := t.b.NewMatrix(p.Out(), p.In, t.noise.rows(i))
		if m, err = own(t, m, err); err != nil {
			return err
		}
		t.weights = append(t.weights, m)
	}
	table, err := t.b.NewMatrix(ids, p.In, t.noise.rows(-1))
	if t.table, err = own(t, table, err); err != nil {
		return err
	}
	out, kind := p.Out(), tensor.Act
	if p.Role == shape.AddOut {
		kind = tensor.Wide // as what is added to the residual is
	}
	for _, b := range []struct {
		dst  *tensor.Buffer
		kind tensor.BufferKind
		cols int
	}{{&t.x, tensor.Act, p.In}, {&t.y, kind, out}, {&t.res, tensor.Wide, out}, {&t.h, tensor.Act, t.afterCols()}} {
		buf, err := t.b.NewBuffer(b.kind, rows, b.cols)
		if *b.dst, err = own(t, buf, err); err != nil {
			return err
		}
	}
	switch p.Role {
	case shape.QKV:
		kv, err := t.b.NewKV(tensor.KVLayout{Layers: 1, KVHeads: t.c.KVHeads, HeadDim: t.c.HeadDim, PageSize: 16, Pages: rows})
		if t.kv, err = own(t, kv, err); err != nil {
			return err
		}
	case shape.AddOut:
		ones := make([]float32, out)
		for i := range ones {
			ones[i] = 1
		}
		v, err := t.b.NewVector(ones)
		if t.norm, err = own(t, v, err); err != nil {
			return err
		}
	}
	return nil
}

// afterCols is the width of what follows' result.
func (t *bench) afterCols() int {
	if t.p.Role == shape.GateUp {
		return t.p.Out() / 2
	}
	return t.p.Out()
}

// follow records what a layer does with the product.
func (t *bench) follow() {
	switch t.p.Role {
	case shape.QKV:
		t.s.RopeKV(t.y, t.kv, tensor.RopeKV{Heads: t.c.Heads, Eps: 1e-5})
	case shape.AddOut:
		t.s.AddRMSNorm(t.h, t.res, t.y, t.norm, 1e-5)
	case shape.GateUp:
		t.s.SiluMul(t.h, t.y)
	}
}

// prime fills the input; the residual gets rows too.
func (t *bench) prime() error {
	t.s.Begin(t.batch)
	t.s.Embed(t.x, t.table, nil)
	t.s.Linear(t.y, t.x, t.weights[0], nil, nil)
	if t.p.Role == shape.AddOut {
		rows := make([]int32, len(t.batch.IDs))
		for i := range rows {
			rows[i] = int32(i)
		}
		t.s.GatherRows(t.res, t.y, rows)
	}
	return t.s.Finish()
}

// step is n products, operation i with terms[i%len(terms)]; terms may be empty.
type step struct {
	n      int
	terms  [][]tensor.LoRATerm
	follow bool
}

// run runs a step.
func (t *bench) run(s step) (figures, error) {
	return t.time(t.batch, func() {
		for i := range s.n {
			var terms []tensor.LoRATerm
			if len(s.terms) > 0 {
				terms = s.terms[i%len(s.terms)]
			}
			t.s.Linear(t.y, t.x, t.weights[i%len(t.weights)], nil, terms)
			if s.follow {
				t.follow()
			}
		}
	})
}

// maxOps bounds a step; a graph of more takes long to record.
const maxOps = 1024

// ops chooses how many operations make a step of the wanted time: whole walks
// through the layers, or a part of one where a walk takes longer. Its runs also
// let the backend choose its kernels, and show whether it computes as it is
// called or in the end.
func (t *bench) ops(follow bool) (int, error) {
	const few = 8
	n := min(len(t.weights), few)
	var f figures
	for range 3 {
		var err error
		if f, err = t.run(step{n: n, follow: follow}); err != nil {
			return 0, err
		}
	}
	t.deferred = f.finish-t.cost.finish > f.record-t.cost.record
	want := t.c.Time.Seconds() / max(t.seconds(f)/float64(n), 1e-7)
	walk := len(t.weights)
	if want < float64(walk) {
		return max(2, int(want)), nil
	}
	return walk * min(int(math.Ceil(want/float64(walk))), max(1, maxOps/walk)), nil
}

// measure runs steps in turn, after some unmeasured rounds, and gives the
// seconds of one of their operations.
func (t *bench) measure(steps ...step) ([][]float64, error) {
	out := make([][]float64, len(steps))
	const unmeasured = 3 // a backend may look on once before it records
	for r := range t.c.Repeat + unmeasured {
		for i, s := range steps {
			f, err := t.run(s)
			if err != nil {
				return nil, err
			}
			if r >= unmeasured {
				out[i] = append(out[i], t.seconds(f)/float64(s.n))
			}
		}
	}
	return out, nil
}

// batchSize measures a batch size: the product without LoRA, then every cell.
func (t *bench) batchSize(ctx context.Context, b int, res *Result) error {
	p := t.p
	t.batch = batch(b)
	if err := t.prime(); err != nil {
		return err
	}
	follow := !t.c.Alone && p.Role != shape.Plain
	n, err := t.ops(follow)
	if err != nil {
		return err
	}
	steps := []step{{n: n}}
	if follow {
		steps = append(steps, step{n: n, follow: true})
	}
	times, err := t.measure(steps...)
	if err != nil {
		return err
	}
	bytes := int64(p.In) * int64(p.Out()) * 2
	out := Product{Name: p.Name, In: p.In, Out: p.Out(), Batch: b, Time: figure.Median(times[0]), Followed: figure.Median(times[len(times)-1]), Bytes: bytes}
	out.Floor = float64(bytes) / t.bw
	out.Ratio, out.FLOPS = out.Time/out.Floor, 2*float64(p.In)*float64(p.Out())*float64(b)/out.Time
	res.Products = append(res.Products, out)
	t.c.say("%v, batch %d: %s", *p, b, figure.Seconds(out.Time))
	seen := map[string]bool{}
	for _, ranks := range t.c.Ranks {
		for _, mix := range t.c.Mixes {
			rows := mix.Rows(b)
			// At one row all mixes are the same.
			key := fmt.Sprint(ranks, rows)
			if seen[key] || ctx.Err() != nil {
				continue
			}
			seen[key] = true
			cell, err := t.cell(b, ranks, mix, rows, n, follow)
			if err != nil {
				return fmt.Errorf("rank %v, %s: %w", ranks, mix, err)
			}
			res.Cells = append(res.Cells, cell)
		}
	}
	return nil
}

func (t *bench) cell(b int, ranks Ranks, mix Mix, rows []int, n int, follow bool) (Cell, error) {
	p := t.p
	terms, err := t.terms(ranks, rows)
	if err != nil {
		return Cell{}, err
	}
	times, err := t.measure(step{n: n, follow: follow}, step{n, terms, follow})
	if err != nil {
		return Cell{}, err
	}
	c := Cell{
		Name: p.Name, In: p.In, Out: p.Out(), Batch: b, Ranks: ranks, Mix: mix, Adapters: len(rows), SumRank: ranks.Sum(len(rows)),
		Without: figure.SpreadOf(times[0]), With: figure.SpreadOf(times[1]),
	}
	c.Added = c.With.Median - c.Without.Median
	c.Bytes = 2 * int64(c.SumRank) * int64(p.PerRank())
	c.Floor = float64(c.Bytes) / t.bw
	c.Ratio = c.Added / c.Floor
	return c, nil
}

// terms makes the LoRA terms of the operations of one walk through the layers.
func (t *bench) terms(ranks Ranks, rows []int) ([][]tensor.LoRATerm, error) {
	d := len(rows)
	// The weights between two uses of a set wash it out of the caches as well.
	per := int64(t.p.In)*int64(t.p.Out())*2 + 2*int64(ranks.Sum(d))*int64(t.p.PerRank())
	sets := min(len(t.weights), max(1, int((t.c.Rotate+per-1)/per)))
	used := map[int]int{}
	out := make([][]tensor.LoRATerm, sets)
	for i := range out {
		start := 0
		for j, n := range rows {
			rank := ranks.Of(j)
			pair, err := t.pair(rank, used[rank])
			if err != nil {
				return nil, err
			}
			used[rank]++
			col := 0
			for k, width := range t.p.Parts {
				out[i] = append(out[i], tensor.LoRATerm{Start: start, End: start + n, Offset: col, Pair: pair[k]})
				col += width
			}
			start += n
		}
	}
	return out, nil
}

// pair gives the i-th set of a rank, making it if need be.
func (t *bench) pair(rank, i int) (set, error) {
	for len(t.pairs[rank]) <= i {
		n := len(t.pairs[rank])
		var s set
		for k, width := range t.p.Parts {
			seed := n*len(t.p.Parts) + k
			l, err := t.b.NewLoRA(rank, t.p.In, width, 1, t.noise.rows(seed), t.noise.rows(seed+7))
			if l, err = own(t, l, err); err != nil {
				return nil, err
			}
			s = append(s, l)
		}
		t.pairs[rank] = append(t.pairs[rank], s)
	}
	return t.pairs[rank][i], nil
}
