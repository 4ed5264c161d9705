package conformance

import (
	"fmt"
	"math"
	"slices"

	"chorale/worker/tensor"
)

// ropeSpec makes frequencies for a head size.
func ropeSpec(headDim int, scale float32) tensor.RopeSpec {
	r := tensor.RopeSpec{Scale: scale}
	for i := 0; i < headDim; i += 2 {
		r.InvFreq = append(r.InvFreq, float32(math.Pow(10000, -float64(i)/float64(headDim))))
	}
	return r
}

// context is one sequence of a test: its finished keys and values so far.
type context struct {
	k, v  []float64 // [position][kv head][d], as stored
	pages []int32
}

// pageTables shuffles the pages of a cache among sequences of the given lengths.
func (c *check) pageTables(l tensor.KVLayout, lengths []int) [][]int32 {
	c.Helper()
	order := c.rng.Perm(l.Pages)
	var out [][]int32
	for _, n := range lengths {
		var table []int32
		for range (n + l.PageSize - 1) / l.PageSize {
			table = append(table, int32(order[0]))
			order = order[1:]
		}
		out = append(out, table)
	}
	return out
}

func testRopeKV(c *check) {
	for _, norms := range []bool{false, true} {
		for _, headDim := range []int{8, 16, 64, 96} {
			const heads, kvHeads = 4, 2
			l := tensor.KVLayout{Layers: 1, KVHeads: kvHeads, HeadDim: headDim, PageSize: 4, Pages: 8}
			spec := ropeSpec(headDim, 1.25)
			d := c.device(2, 64, ropeSpec(8, 1), spec)
			kv := must(d.NewKV(l))(c)
			x := c.random(d.Precision(), 6, (heads+2*kvHeads)*headDim, 1)
			r := tensor.RopeKV{Heads: heads, Rope: 1, Eps: 1e-6}
			qn, kn := c.random(tensor.F32, 1, headDim, 1), c.random(tensor.F32, 1, headDim, 1)
			if norms {
				r.QNorm, r.KNorm = d.vector(qn), d.vector(kn)
			}
			pos := []int32{0, 1, 2, 3, 17, 18}
			d.Begin(&tensor.Batch{IDs: []int32{0, 1, 2, 3, 4, 5}, Pos: pos, Seqs: []tensor.Seq{
				{QLen: 4, CtxLen: 4, Pages: []int32{7}}, {QStart: 4, QLen: 2, CtxLen: 19, Pages: []int32{0, 1, 2, 3, 4}},
			}})
			buf := d.upload(x)
			d.RopeKV(buf, kv, r)
			got := slices.Clone(d.Host(buf))
			d.finish()
			kv.Free()
			want, bound := dense{x.rows, x.cols, slices.Clone(x.v)}, newDense(x.rows, x.cols)
			for t := range x.rows {
				for h := range heads + kvHeads {
					head := want.row(t)[h*headDim : (h+1)*headDim]
					if norms && h < heads {
						norm(head, head, qn.v, 1e-6)
					} else if norms {
						norm(head, head, kn.v, 1e-6)
					}
					rotate(head, spec, pos[t])
				}
				for i := range bound.row(t)[:(heads+kvHeads)*headDim] {
					bound.row(t)[i] = 8 * c.tol.Rows
				}
			}
			c.compare(fmt.Sprintf("headDim=%d norms=%v", headDim, norms), tensor.Act, got, want, bound)
		}
	}
}

// rotate turns one head in float64; the angle's product is float32 by contract.
func rotate(x []float64, r tensor.RopeSpec, pos int32) {
	half := len(x) / 2
	for i, f := range r.InvFreq {
		sin, cos := math.Sincos(float64(f * float32(pos)))
		a, b, scale := x[i], x[i+half], float64(r.Scale)
		x[i], x[i+half] = (a*cos-b*sin)*scale, (b*cos+a*sin)*scale
	}
}

// attentionCase is a set of sequences fed in random chunks.
type attentionCase struct {
	heads, kvHeads, headDim, pageSize, window int
	lengths                                   []int
}

func testAttention(c *check) {
	for _, a := range []attentionCase{
		{heads: 2, kvHeads: 1, headDim: 8, pageSize: 4, lengths: []int{1, 2, 9}},
		{heads: 4, kvHeads: 2, headDim: 16, pageSize: 16, lengths: []int{5, 40, 17}},
		{heads: 3, kvHeads: 3, headDim: 32, pageSize: 7, lengths: []int{33, 1}},
		{heads: 9, kvHeads: 3, headDim: 64, pageSize: 16, lengths: []int{300, 16, 129}},
		{heads: 6, kvHeads: 2, headDim: 64, pageSize: 32, window: 20, lengths: []int{150, 21, 20}},
		{heads: 8, kvHeads: 1, headDim: 96, pageSize: 20, window: 1, lengths: []int{30}},
		{heads: 8, kvHeads: 2, headDim: 128, pageSize: 256, lengths: []int{200, 60}},
		{heads: 5, kvHeads: 5, headDim: 80, pageSize: 16, window: 130, lengths: []int{280}},
		{heads: 17, kvHeads: 1, headDim: 24, pageSize: 1, lengths: []int{50}},
	} {
		c.attention(a)
	}
}

// attention feeds the sequences chunk by chunk and compares every step.
func (c *check) attention(a attentionCase) {
	c.Helper()
	total, pages := 0, 3
	for _, n := range a.lengths {
		total += n
		pages += (n + a.pageSize - 1) / a.pageSize
	}
	l := tensor.KVLayout{Layers: 2, KVHeads: a.kvHeads, HeadDim: a.headDim, PageSize: a.pageSize, Pages: pages}
	d := c.device(2, total, ropeSpec(a.headDim, 1))
	kv := must(d.NewKV(l))(c)
	defer kv.Free()
	if kv.Layout() != l || kv.Bytes() <= 0 {
		c.Errorf("cache reports %+v, %d bytes", kv.Layout(), kv.Bytes())
	}
	ctx := make([]context, len(a.lengths))
	for i, table := range c.pageTables(l, a.lengths) {
		ctx[i].pages = table
	}
	for left := total; left > 0; {
		left -= c.attentionStep(d, kv, a, ctx)
	}
}

// attentionStep feeds one random chunk of some sequences and returns its rows.
func (c *check) attentionStep(d device, kv tensor.KV, a attentionCase, ctx []context) int {
	c.Helper()
	width := a.kvHeads * a.headDim
	var batch tensor.Batch
	var who []int
	for i := range ctx {
		done := len(ctx[i].k) / width
		n := min(a.lengths[i]-done, 1+c.rng.IntN(100))
		if n == 0 || c.rng.IntN(4) == 0 {
			continue
		}
		batch.Seqs = append(batch.Seqs, tensor.Seq{QStart: len(batch.IDs), QLen: n, CtxLen: done + n, Pages: ctx[i].pages})
		who = append(who, i)
		for j := range n {
			batch.IDs = append(batch.IDs, int32(len(batch.IDs)))
			batch.Pos = append(batch.Pos, int32(done+j))
		}
	}
	rows := len(batch.IDs)
	if rows == 0 {
		return 0
	}
	spec := tensor.AttentionSpec{Layer: 1, Heads: a.heads, Scale: float32(1 / math.Sqrt(float64(a.headDim))), Window: a.window}
	d.Begin(&batch)
	qkv := d.upload(c.random(d.Precision(), rows, (a.heads+2*a.kvHeads)*a.headDim, 1.5))
	out := d.buffer(rows, a.heads*a.headDim)
	d.RopeKV(qkv, kv, tensor.RopeKV{Layer: 1, Heads: a.heads})
	x := slices.Clone(d.Host(qkv))
	d.Attention(out, qkv, kv, spec)
	got := slices.Clone(d.Host(out))
	d.finish()
	want, bound := newDense(rows, out.Cols()), newDense(rows, out.Cols())
	for i, s := range batch.Seqs {
		cx := &ctx[who[i]]
		for t := s.QStart; t < s.QStart+s.QLen; t++ {
			row := x[t*qkv.Cols() : (t+1)*qkv.Cols()]
			for j := range width {
				cx.k = append(cx.k, round(d.Precision(), float64(row[a.heads*a.headDim+j])))
				cx.v = append(cx.v, round(d.Precision(), float64(row[a.heads*a.headDim+width+j])))
			}
			for h := range a.heads {
				at := h * a.headDim
				cx.attend(want.row(t)[at:at+a.headDim], bound.row(t)[at:at+a.headDim], row[at:at+a.headDim], h/(a.heads/a.kvHeads), a, spec, 4*c.tol.Rows+c.tol.Softmax)
			}
		}
	}
	c.compare(fmt.Sprintf("%+v", a), tensor.Act, got, want, bound)
	return rows
}

// attend is attention of the newest position in float64.
func (cx *context) attend(dst, bound []float64, q []float32, kvHead int, a attentionCase, spec tensor.AttentionSpec, tol float64) {
	width := a.kvHeads * a.headDim
	n := len(cx.k) / width
	first := 0
	if spec.Window > 0 {
		first = max(0, n-spec.Window)
	}
	scores := make([]float64, n)
	top := math.Inf(-1)
	for p := first; p < n; p++ {
		for i, v := range q {
			scores[p] += float64(v) * cx.k[p*width+kvHead*a.headDim+i]
		}
		scores[p] *= float64(spec.Scale)
		top = max(top, scores[p])
	}
	var sum float64
	for p := first; p < n; p++ {
		scores[p] = math.Exp(scores[p] - top)
		sum += scores[p]
	}
	for p := first; p < n; p++ {
		for i := range dst {
			v := scores[p] / sum * cx.v[p*width+kvHead*a.headDim+i]
			dst[i] += v
			bound[i] += math.Abs(v) * tol
		}
	}
}
