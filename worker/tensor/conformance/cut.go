package conformance

import (
	"fmt"
	"math"
	"slices"

	"chorale/worker/tensor"
)

// times is x · wᵀ.
func times(x, w dense) dense {
	out := newDense(x.rows, w.rows)
	for i := range x.rows {
		for j := range w.rows {
			var sum float64
			for k, v := range x.row(i) {
				sum += v * w.at(j, k)
			}
			out.set(i, j, sum)
		}
	}
	return out
}

func absolute(m dense) dense {
	out := newDense(m.rows, m.cols)
	for i, v := range m.v {
		out.v[i] = math.Abs(v)
	}
	return out
}

// cutCase is a product with an adapter on some of its rows and columns, the
// adapter's bias included.
type cutCase struct {
	x, w, a, b, bias   dense
	start, end, offset int
	scale              float64
}

// sum gives the result in float64.
func (k *cutCase) sum() dense {
	out := times(k.x, k.w)
	delta := times(times(k.x, k.a), k.b)
	for t := k.start; t < k.end; t++ {
		for j := range delta.cols {
			out.v[t*out.cols+k.offset+j] += k.scale*delta.at(t, j) + k.bias.v[j]
		}
	}
	return out
}

// bound is how far a backend may be: intermediates may be rounded like inputs.
func (k *cutCase) bound(tol Tolerance) dense {
	sizes := cutCase{absolute(k.x), absolute(k.w), absolute(k.a), absolute(k.b), absolute(k.bias), k.start, k.end, k.offset, k.scale}
	out := sizes.sum()
	for i := range out.v {
		out.v[i] *= 2 * (tol.Input + tol.LoRA)
	}
	return out
}

// testCutLoRA: adapters whose A and B the ranks share out, with ranks that do not
// divide and more rows than any block, in one call with a pair that is not cut.
func testCutLoRA(c *check, r *ranks) {
	const rows, in, out = 50, 48, 33
	p, size := r.plain.Precision(), len(r.devices)
	k := cutCase{
		x: c.random(p, rows, in, 1), w: c.random(p, out, in, 0.2), bias: c.random(p, 1, out-5, 1),
		start: 3, end: 48, offset: 4, scale: 0.5,
	}
	for _, rank := range []int{1, 5, 16} {
		k.a, k.b = c.random(p, rank, in, 0.2), c.random(p, out-5, rank, 0.3)
		for _, cut := range []tensor.LoRACut{tensor.Gathered, tensor.Summed} {
			dst := make([]tensor.Buffer, size)
			xs, ws, terms := make([]tensor.Buffer, size), make([]tensor.Matrix, size), make([][]tensor.LoRATerm, size)
			for i, d := range r.devices {
				x, w, pair, at := k.part(c, d, cut, i, size)
				d.begin(rows)
				xs[i] = d.upload(x)
				d.finish()
				ws[i], dst[i] = d.matrix(w), d.bufferOf(tensor.Wide, rows, out)
				terms[i] = []tensor.LoRATerm{{Start: k.start, End: k.end, Offset: k.offset + at, Pair: pair}}
				if cut == tensor.Gathered || i == 0 {
					terms[i] = append(terms[i], tensor.LoRATerm{Start: k.start, End: k.end, Offset: k.offset, Bias: d.vector(k.bias)})
				}
			}
			got := make([][]float32, size)
			r.each(ascending(rows), 0, func(i int, s tensor.Stream) {
				s.Linear(dst[i], xs[i], ws[i], nil, terms[i])
				if cut == tensor.Summed {
					s.AllReduce(dst[i])
				}
				got[i] = slices.Clone(s.Host(dst[i]))
			})
			for i := range got {
				c.compare(fmt.Sprintf("LoRA of rank %d, cut %d, rank %d of %d", rank, cut, i, size), tensor.Wide, got[i], k.sum(), k.bound(c.tol))
			}
		}
	}
}

// part is what rank i has of a case, and at which of the adapter's outputs its
// part begins.
func (k *cutCase) part(c *check, d device, cut tensor.LoRACut, i, size int) (x, w dense, pair tensor.LoRAPair, at int) {
	x, w = k.x, k.w
	rank := k.a.rows
	a, b := rowsOf(k.a, i*cut.Rows(rank, size), cut.Rows(rank, size)), k.b
	if cut == tensor.Summed {
		n := k.x.cols / size
		at = i * k.b.rows / size
		x, w, a, b = columns(k.x, i*n, n), columns(k.w, i*n, n), columns(k.a, i*n, n), rowsOf(k.b, at, (i+1)*k.b.rows/size-at)
	}
	im := must(d.NewImage([]tensor.LoRASpec{{
		Rank: rank, In: a.cols, Out: b.rows, Scale: float32(k.scale), Cut: cut, A: a.Rows, B: b.Rows,
	}}, nil))(c)
	l := must(im.Load())(c)
	c.Cleanup(func() { l.Free(); im.Free() })
	got := l.Pairs[0]
	if got.Rank() != rank || got.In() != a.cols || got.Out() != b.rows || got.Bytes() <= 0 {
		c.Errorf("pair of rank %d, %d to %d, %d bytes", got.Rank(), got.In(), got.Out(), got.Bytes())
	}
	return x, w, got, at
}

// testCutErrors: cut pairs that do not fit are refused.
func testCutErrors(c *check, r *ranks) {
	d := r.devices[0]
	p := d.Precision()
	m := c.random(p, 4, 8, 1)
	spec := tensor.LoRASpec{Rank: 4, In: 8, Out: 8, Scale: 1, Cut: tensor.Summed, A: m.Rows, B: c.random(p, 8, 4, 1).Rows}
	embedding, unknown := spec, spec
	embedding.Embedding, unknown.Cut = true, 9
	for _, s := range []tensor.LoRASpec{embedding, unknown} {
		if im, err := d.NewImage([]tensor.LoRASpec{s}, nil); err == nil {
			im.Free()
			c.Errorf("%+v was taken", s)
		}
	}
	im := must(d.NewImage([]tensor.LoRASpec{spec}, nil))(c)
	c.Cleanup(im.Free)
	pair := must(im.Load())(c).Pairs[0]
	w := d.matrix(c.random(p, 8, 8, 1))
	wide := d.matrix(c.random(p, 8, 16, 1))
	for name, t := range map[string]tensor.LoRATerm{
		"columns": {End: 2, Offset: 1, Pair: pair}, "rows": {End: 3, Pair: pair}, "order": {Start: 2, End: 1, Pair: pair}, "offset": {End: 1, Offset: -1, Pair: pair},
	} {
		d.begin(2)
		d.Linear(d.buffer(2, 8), d.upload(c.random(p, 2, 8, 1)), w, nil, []tensor.LoRATerm{t})
		if err := d.Finish(); err == nil {
			c.Errorf("%s: no error", name)
		}
	}
	d.begin(2)
	d.Linear(d.buffer(2, 8), d.upload(c.random(p, 2, 16, 1)), wide, nil, []tensor.LoRATerm{{End: 2, Pair: pair}})
	if err := d.Finish(); err == nil {
		c.Error("depth: no error")
	}
}
