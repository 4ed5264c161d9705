package conformance

import (
	"math"
	"slices"

	"chorale/worker/tensor"
)

func testRMSNorm(c *check) {
	for i, cols := range []int{1, 15, 64, 576, 1001} {
		kind := kinds[i%2]
		d := c.device(2, 64)
		p := d.Precision()
		x, delta := c.random(p, 37, cols, 3), c.random(p, 37, cols, 1)
		w := c.random(tensor.F32, 1, cols, 1)
		weight := d.vector(w)
		d.begin(37)
		bx, bd := d.uploadAs(tensor.Wide, x), d.uploadAs(kind, delta)
		out := d.bufferOf(kind, 40, cols)
		d.RMSNorm(out, bx, weight, 1e-5)
		plain := slices.Clone(d.Host(out))
		d.AddRMSNorm(out, bx, bd, weight, 1e-5)
		added, residual := slices.Clone(d.Host(out)), slices.Clone(d.Host(bx))
		d.finish()
		c.compareNorm("RMSNorm", kind, plain, x, w)
		sum := newDense(37, cols)
		for i := range sum.v {
			sum.v[i] = float64(float32(x.v[i]) + float32(delta.v[i]))
			if float64(residual[i]) != sum.v[i] {
				c.Fatalf("residual %d: got %v, want %v", i, residual[i], sum.v[i])
			}
		}
		c.compareNorm("AddRMSNorm", kind, added, sum, w)
	}
}

func (c *check) compareNorm(what string, kind tensor.BufferKind, got []float32, x, w dense) {
	c.Helper()
	want, bound := newDense(x.rows, x.cols), newDense(x.rows, x.cols)
	for t := range x.rows {
		norm(want.row(t), x.row(t), w.v, 1e-5)
		for i, v := range want.row(t) {
			bound.row(t)[i] = math.Abs(v) * c.tol.Rows
		}
	}
	c.compare(what, kind, got, want, bound)
}

// norm is RMSNorm of one row in float64; dst may be x.
func norm(dst, x, w []float64, eps float64) {
	var sum float64
	for _, v := range x {
		sum += v * v
	}
	inv := 1 / math.Sqrt(sum/float64(len(x))+eps)
	for i, v := range x {
		dst[i] = v * inv * w[i]
	}
}

func testSiluMul(c *check) {
	for _, f := range []int{1, 17, 100, 1536} {
		d := c.device(2, 64)
		x := c.random(d.Precision(), 11, 2*f, 4)
		for i, v := range []float64{0, -90, 90, -200, 200, -1e30, 1e30, 1e-30} {
			if i*2 < f {
				x.set(i, i*2, round(d.Precision(), v))
			}
		}
		d.begin(11)
		out := d.buffer(11, f)
		d.SiluMul(out, d.upload(x))
		got := slices.Clone(d.Host(out))
		d.finish()
		want, bound := newDense(11, f), newDense(11, f)
		for t := range 11 {
			for i := range f {
				g := x.at(t, i)
				v := g / (1 + math.Exp(-g)) * x.at(t, f+i)
				want.set(t, i, v)
				bound.set(t, i, math.Abs(v)*c.tol.Rows+1e-30)
			}
		}
		c.compare("SiluMul", tensor.Act, got, want, bound)
	}
}

func testGatherRows(c *check) {
	d := c.device(2, 64)
	x := c.random(d.Precision(), 9, 21, 1)
	var want []float32
	for _, r := range []int{8, 0, 3, 3} {
		for _, v := range x.row(r) {
			want = append(want, float32(v))
		}
	}
	for _, kind := range kinds {
		d.begin(9)
		out := d.bufferOf(kind, 5, 21)
		d.GatherRows(out, d.uploadAs(kind, x), []int32{8, 0, 3, 3})
		got := slices.Clone(d.Host(out))
		d.finish()
		c.same("GatherRows", got, want)
	}
}

func testLogitStats(c *check) {
	for i, vocab := range []int{1, 2, 17, 1000, 49152} {
		kind := kinds[(i+1)%2]
		d := c.device(2, 64)
		p := d.Precision()
		x := c.random(p, 7, vocab, 5)
		for i := range vocab { // all equal, all very negative, ties
			x.set(1, i, -3)
			x.set(2, i, round(p, -1e30))
		}
		x.set(3, vocab/2, 50)
		x.set(3, vocab-1, 50)
		x.set(4, 0, math.Inf(-1)) // masked
		x.set(4, vocab-1, 1)
		d.begin(7)
		out := make([]tensor.LogitStat, 7)
		d.LogitStats(out, d.uploadAs(kind, x))
		d.finish()
		for t, got := range out {
			best, sum := 0, 0.0
			for i, v := range x.row(t) {
				if v > x.at(t, best) {
					best = i
				}
			}
			for _, v := range x.row(t) {
				sum += math.Exp(v - x.at(t, best))
			}
			want := x.at(t, best) + math.Log(sum)
			if int(got.ArgMax) != best || float64(got.Max) != x.at(t, best) ||
				math.Abs(float64(got.LogSumExp)-want) > c.tol.Rows*(1+math.Abs(want)) {
				c.Errorf("vocab %d row %d: got %+v, want %d, %v, %v", vocab, t, got, best, x.at(t, best), want)
			}
		}
	}
}

// testHost checks that Host shows the rows and that a caller who writes them
// does no harm to later operations on other buffers.
func testHost(c *check) {
	d := c.device(2, 64)
	x, w := c.random(d.Precision(), 3, 40, 1), c.random(d.Precision(), 8, 40, 1)
	d.begin(3)
	in, a, b := d.upload(x), d.buffer(3, 8), d.buffer(3, 8)
	wm := d.matrix(w)
	d.Linear(a, in, wm, nil, nil)
	first := slices.Clone(d.Host(a))
	for i := range d.Host(a) {
		d.Host(a)[i] = 1e9
	}
	d.Linear(b, in, wm, nil, nil)
	second := slices.Clone(d.Host(b))
	if got := d.Host(in); len(got) != 120 || got[7] != float32(x.v[7]) {
		c.Errorf("Host of the input has %d values", len(got))
	}
	d.finish()
	c.same("same product", second, first)
}

// testNonFinite checks that a row of NaN and infinities stays alone.
func testNonFinite(c *check) {
	d := c.device(2, 64)
	p := d.Precision()
	x, w := c.random(p, 6, 45, 1), c.random(p, 70, 45, 1)
	run := func(x dense) []float32 {
		d.begin(6)
		in, n, y := d.upload(x), d.buffer(6, 45), d.buffer(6, 70)
		one := newDense(1, 45)
		for i := range one.v {
			one.v[i] = 1
		}
		d.RMSNorm(n, in, d.vector(one), 1e-5)
		d.Linear(y, n, d.matrix(w), nil, nil)
		out := slices.Clone(d.Host(y))
		d.finish()
		return out
	}
	good := run(x)
	for i, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		bad := dense{x.rows, x.cols, slices.Clone(x.v)}
		for j := range bad.row(i * 2) {
			bad.set(i*2, j, v)
		}
		got := run(bad)
		if f := float64(got[i*2*70]); !math.IsNaN(f) {
			c.Errorf("a row of %v gives %v", v, f)
		}
		copy(got[i*2*70:(i*2+1)*70], good[i*2*70:(i*2+1)*70])
		c.same("the other rows", got, good)
	}
}
