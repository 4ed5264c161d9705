package conformance

import (
	"fmt"
	"math"
	"slices"

	"chorale/worker/tensor"
)

// pair is an adapter in float64 and on the device.
type pair struct {
	a, b  dense // [r, in], [out, r]
	scale float64
	dev   tensor.LoRAPair
}

func (d device) pair(r, in, out int) pair {
	d.Helper()
	p := pair{
		a: d.random(d.Precision(), r, in, 1/math.Sqrt(float64(in))), b: d.random(d.Precision(), out, r, 1),
		scale: float64(float32(0.5 + d.rng.Float64())),
	}
	p.dev = must(d.NewLoRA(r, in, out, float32(p.scale), p.a.Rows, p.b.Rows))(d.check)
	d.Cleanup(p.dev.Free)
	if p.dev.Rank() != r || p.dev.In() != in || p.dev.Out() != out || p.dev.Bytes() <= 0 {
		d.Errorf("pair r=%d in=%d out=%d reports %d, %d, %d, %d bytes", r, in, out, p.dev.Rank(), p.dev.In(), p.dev.Out(), p.dev.Bytes())
	}
	return p
}

// apply adds the pair's contribution for input x to y, and to bound its error.
func (p pair) apply(y, bound, x []float64, product, lora float64) {
	for r := range p.a.rows {
		var s, size float64
		for i, a := range p.a.row(r) {
			s += a * x[i]
			size += math.Abs(a * x[i])
		}
		for n := range p.b.rows {
			w := p.b.at(n, r) * p.scale
			y[n] += s * w
			bound[n] += math.Abs(w) * (math.Abs(s)*lora + size*product)
		}
	}
}

// term is a LoRATerm with its reference.
type term struct {
	start, end, offset int
	pair               *pair
	bias               *dense
}

func (d device) device(terms []term) []tensor.LoRATerm {
	out := make([]tensor.LoRATerm, len(terms))
	for i, t := range terms {
		out[i] = tensor.LoRATerm{Start: t.start, End: t.end, Offset: t.offset}
		if t.pair != nil {
			out[i].Pair = t.pair.dev
		}
		if t.bias != nil {
			out[i].Bias = d.vector(*t.bias)
		}
	}
	return out
}

// reference is Linear in float64 with its error bound.
func reference(x, w dense, bias *dense, terms []term, product, lora float64) (y, bound dense) {
	y, bound = newDense(x.rows, w.rows), newDense(x.rows, w.rows)
	for t := range x.rows {
		for n := range w.rows {
			var sum, size float64
			for i, v := range x.row(t) {
				sum += v * w.at(n, i)
				size += math.Abs(v * w.at(n, i))
			}
			if bias != nil {
				sum += bias.v[n]
				size += math.Abs(bias.v[n])
			}
			y.set(t, n, sum)
			bound.set(t, n, size*product+1e-30)
		}
		for _, l := range terms {
			if t < l.start || t >= l.end {
				continue
			}
			if l.pair != nil {
				l.pair.apply(y.row(t)[l.offset:], bound.row(t)[l.offset:], x.row(t), product, lora)
			}
			if l.bias != nil {
				for n, v := range l.bias.v {
					y.row(t)[l.offset+n] += v
					bound.row(t)[l.offset+n] += math.Abs(v) * 1e-6
				}
			}
		}
		for n, v := range y.row(t) {
			bound.row(t)[n] += math.Abs(v) * 1e-6
		}
	}
	return y, bound
}

// linearCase is one Linear call.
type linearCase struct {
	m, k, n int
	bias    bool
	parts   []int // widths of the parts that terms adapt; nil for one part
	ranks   []int // one adapter per entry over consecutive runs of rows; 0 none, -1 bias only
}

func (c linearCase) String() string {
	return fmt.Sprintf("m=%d,k=%d,n=%d,parts=%v,ranks=%v,bias=%v", c.m, c.k, c.n, c.parts, c.ranks, c.bias)
}

// terms makes the case's terms: run i of the rows has adapter i; every other
// part is left out for every third adapter.
func (c linearCase) terms(d device) []term {
	parts := c.parts
	if parts == nil {
		parts = []int{c.n}
	}
	var out []term
	for i, r := range c.ranks {
		if r == 0 {
			continue
		}
		t := term{start: i * c.m / len(c.ranks), end: (i + 1) * c.m / len(c.ranks)}
		for j, width := range parts {
			if i%3 != 2 || j%2 == 0 {
				part := t
				if r > 0 {
					p := d.pair(r, c.k, width)
					part.pair = &p
				}
				if r < 0 || i%4 == 1 {
					b := d.random(tensor.F32, 1, width, 1)
					part.bias = &b
				}
				out = append(out, part)
			}
			t.offset += width
		}
	}
	return out
}

func testLinear(c *check) {
	cases := []linearCase{
		{m: 1, k: 1, n: 1},
		{m: 1, k: 64, n: 64, bias: true},
		{m: 1, k: 65, n: 33, bias: true, ranks: []int{1}},
		{m: 3, k: 7, n: 31, ranks: []int{3}},
		{m: 2, k: 576, n: 960, parts: []int{576, 192, 192}, ranks: []int{16, 8}},
		{m: 8, k: 576, n: 576, ranks: []int{16, 16, 16, 16, 16, 16, 16, 16}},
		{m: 9, k: 100, n: 80, parts: []int{48, 16, 16}, bias: true, ranks: []int{4, 0, 64, 33, -1}},
		{m: 13, k: 130, n: 75, parts: []int{30, 45}, ranks: []int{5, 17, 0}},
		{m: 17, k: 33, n: 129, parts: []int{1, 127, 1}, ranks: []int{2, 31}},
		{m: 33, k: 96, n: 64, ranks: []int{-1, 1, 7}},
		{m: 40, k: 512, n: 40, bias: true, ranks: []int{16}},
		{m: 70, k: 72, n: 200, parts: []int{100, 100}, ranks: []int{48, 0, 1}},
		{m: 150, k: 48, n: 70, bias: true, ranks: []int{8, 8, 16}},
		{m: 20, k: 4200, n: 35, bias: true, ranks: []int{8}},
		{m: 130, k: 2101, n: 70, parts: []int{40, 30}, bias: true, ranks: []int{3, 0, 16}},
		{m: 5, k: 1536, n: 100},
	}
	for _, cs := range cases {
		for _, kind := range kinds {
			c.linear(c.device(2, 256), cs, kind, c.tol.Product, nil)
		}
	}
}

func testLinearShapes(c *check) {
	d := c.device(3, 64)
	for range 60 {
		cs := linearCase{m: 1 + c.rng.IntN(40), k: 1 + c.rng.IntN(150), n: 1 + c.rng.IntN(150), bias: c.rng.IntN(2) == 0}
		if c.rng.IntN(2) == 0 {
			cs.parts = []int{c.rng.IntN(cs.n) + 1}
			if rest := cs.n - cs.parts[0]; rest > 0 {
				cs.parts = append(cs.parts, rest)
			}
		}
		for range c.rng.IntN(5) {
			cs.ranks = append(cs.ranks, c.rng.IntN(66)-1)
		}
		c.linear(d, cs, kinds[c.rng.IntN(2)], c.tol.Product, nil)
	}
}

// testLinearInput gives Linear the output of a norm, which is not exact in
// bfloat16.
func testLinearInput(c *check) {
	d := c.device(2, 64)
	for _, cs := range []linearCase{{m: 1, k: 576, n: 100}, {m: 19, k: 75, n: 64, ranks: []int{16, 3}}} {
		c.linear(d, cs, tensor.Wide, c.tol.Input, func(x tensor.Buffer) tensor.Buffer {
			y := d.buffer(cs.m, cs.k)
			one := newDense(1, cs.k)
			for i := range one.v {
				one.v[i] = 1
			}
			d.RMSNorm(y, x, d.vector(one), 1e-5)
			return y
		})
	}
}

// linear runs one case into a buffer of a kind. prepare may replace the input on
// the device.
func (c *check) linear(d device, cs linearCase, kind tensor.BufferKind, product float64, prepare func(tensor.Buffer) tensor.Buffer) {
	c.Helper()
	p := d.Precision()
	x, w := c.random(p, cs.m, cs.k, 1), c.random(p, cs.n, cs.k, 1/math.Sqrt(float64(cs.k)))
	var bias *dense
	var biasVector tensor.Vector
	if cs.bias {
		b := c.random(tensor.F32, 1, cs.n, 1)
		bias, biasVector = &b, d.vector(b)
	}
	terms := cs.terms(d)
	d.begin(cs.m)
	in := d.upload(x)
	if prepare != nil {
		in = prepare(in)
		for i, v := range d.Host(in) {
			x.v[i] = float64(v)
		}
	}
	y := d.bufferOf(kind, cs.m, cs.n)
	wm := d.matrix(w)
	if wm.Out() != cs.n || wm.In() != cs.k || wm.Bytes() <= 0 {
		c.Errorf("%v: matrix reports [%d, %d], %d bytes", cs, wm.Out(), wm.In(), wm.Bytes())
	}
	d.Linear(y, in, wm, biasVector, d.device(terms))
	if y.Rows() != cs.m {
		c.Fatalf("%v: %d rows", cs, y.Rows())
	}
	got := slices.Clone(d.Host(y))
	d.finish()
	if kind == tensor.Act { // the bias and the sum without terms may be rounded on their way
		product += 2 * c.tol.Act
	}
	want, bound := reference(x, w, bias, terms, product, c.tol.LoRA)
	c.compare(cs.String(), kind, got, want, bound)
}

func testEmbed(c *check) {
	for _, hidden := range []int{1, 33, 64, 576} {
		d := c.device(2, 64)
		const vocab = 77
		p := d.Precision()
		table := c.random(p, vocab, hidden, 1)
		ids := []int32{0, 76, 31, 32, 33, 5, 5, 64, 63}
		adapters := []pair{d.embeddingPair(3, vocab, hidden), d.embeddingPair(20, vocab, hidden)}
		terms := []tensor.LoRATerm{{Start: 1, End: 3, Pair: adapters[0].dev}, {Start: 4, End: 9, Pair: adapters[1].dev}}
		d.Begin(&tensor.Batch{IDs: ids, Pos: make([]int32, len(ids))})
		dst := d.bufferOf(tensor.Wide, len(ids), hidden)
		d.Embed(dst, d.matrix(table), terms)
		got := slices.Clone(d.Host(dst))
		d.finish()
		want, bound := newDense(len(ids), hidden), newDense(len(ids), hidden)
		for t, id := range ids {
			copy(want.row(t), table.row(int(id)))
			for i, l := range terms {
				if t >= l.Start && t < l.End {
					oneHot := make([]float64, vocab)
					oneHot[id] = 1
					adapters[i].apply(want.row(t), bound.row(t), oneHot, c.tol.Product, c.tol.LoRA)
				}
			}
			for i, v := range want.row(t) {
				bound.row(t)[i] += math.Abs(v) * 1e-6
			}
		}
		c.compare(fmt.Sprintf("hidden=%d", hidden), tensor.Wide, got, want, bound)
	}
}

func (d device) embeddingPair(r, vocab, hidden int) pair {
	d.Helper()
	p := pair{a: d.random(d.Precision(), r, vocab, 1), b: d.random(d.Precision(), hidden, r, 1), scale: 2}
	p.dev = must(d.NewEmbeddingLoRA(r, vocab, hidden, 2, p.a.Rows, p.b.Rows))(d.check)
	d.Cleanup(p.dev.Free)
	return p
}
