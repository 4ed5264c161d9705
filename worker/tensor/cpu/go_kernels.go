package cpu

import (
	"math"

	"chorale/worker/tensor"
)

// goKernels are the plain-Go kernels. They follow the same definitions as the C
// kernels, but not bit for bit: activations are not rounded, and exp comes from
// package math.
//
// Products are wrapped in float32(...) wherever a sum follows: the language
// allows a compiler to fuse x*y + z, on some architectures only, and results
// would then depend on the machine.
type goKernels struct {
	precision tensor.Precision
	threads   int
}

var _ kernels = (*goKernels)(nil)

func (g *goKernels) name() string        { return "go" }
func (g *goKernels) rounds() bool        { return false }
func (g *goKernels) round(*buffer) error { return nil }
func (g *goKernels) close()              {}

func (g *goKernels) pack(dst weights, src []float32, c, in int) { packPanel(dst, src, c, in) }

// smallWork is the number of values below which goroutines cost more than they
// save.
const smallWork = 1 << 13

// rowwise runs fn for each of rows rows of cols values.
func (g *goKernels) rowwise(rows, cols int, fn func(t int)) {
	if rows*cols < smallWork {
		for t := range rows {
			fn(t)
		}
		return
	}
	parallel(g.threads, rows, fn)
}

func (g *goKernels) embed(dst *buffer, table *matrix, ids []int32, terms []term) error {
	size := panelSize(g.precision, table.in)
	g.rowwise(dst.rows, dst.cols, func(t int) {
		p, c := int(ids[t])/panel*size, int(ids[t])%panel
		row := dst.row(t)
		for i := range row {
			row[i] = table.w.at(p + panelIndex(g.precision, i, c))
		}
		for _, l := range terms {
			if t < l.start || t >= l.end {
				continue
			}
			if l.pair != nil {
				s := make([]float32, l.pair.rank)
				for r := range s {
					s[r] = l.pair.a.at(int(ids[t])*l.pair.rank+r) * l.pair.scale
				}
				g.expand(row, s, l, l.offset, l.offset+l.out)
			}
			addBias(row, l, l.offset, l.offset+l.out)
		}
	})
	return nil
}

func (g *goKernels) norm(dst, x, delta *buffer, w *vector, eps float32) error {
	g.rowwise(x.rows, x.cols, func(t int) {
		row := x.row(t)
		if delta != nil {
			for i, v := range delta.row(t) {
				row[i] += v
			}
		}
		normRow(dst.row(t), row, w.data, eps)
	})
	return nil
}

// normRow writes dst = x / sqrt(mean(x²) + eps) * w. dst may be x.
func normRow(dst, x, w []float32, eps float32) {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	inv := float32(1 / math.Sqrt(sum/float64(len(x))+float64(eps)))
	for i, v := range x {
		dst[i] = v * inv * w[i]
	}
}

func (g *goKernels) siluMul(dst, gateUp *buffer) error {
	f := dst.cols
	g.rowwise(dst.rows, dst.cols*8, func(t int) {
		row, out := gateUp.row(t), dst.row(t)
		for i := range out {
			x := row[i]
			out[i] = x / (1 + exp32(-x)) * row[f+i]
		}
	})
	return nil
}

func exp32(x float32) float32 { return float32(math.Exp(float64(x))) }

func (g *goKernels) logitStats(out []tensor.LogitStat, logits *buffer) error {
	g.rowwise(logits.rows, logits.cols*8, func(t int) {
		row := logits.row(t)
		best := 0
		for i, v := range row {
			if v > row[best] {
				best = i
			}
		}
		top := float64(row[best])
		var sum float64
		for _, v := range row {
			sum += math.Exp(float64(v) - top)
		}
		out[t] = tensor.LogitStat{ArgMax: int32(best), Max: row[best], LogSumExp: float32(top + math.Log(sum))}
	})
	return nil
}

func (g *goKernels) ropeKV(j *ropeJob) error {
	g.rowwise(j.qkv.rows, j.qkv.cols, func(t int) {
		l := j.kv.layout
		d, half := l.HeadDim, l.HeadDim/2
		row := j.qkv.row(t)
		cos, sin := j.cos[t*half:(t+1)*half], j.sin[t*half:(t+1)*half]
		for h := range j.heads + l.KVHeads {
			x := row[h*d : (h+1)*d]
			norm := j.qNorm
			if h >= j.heads {
				norm = j.kNorm
			}
			if norm != nil {
				normRow(x, x, norm.data, j.eps)
			}
			for i, c := range cos {
				a, b := x[i], x[i+half]
				x[i] = float32(a*c) - float32(b*sin[i])
				x[i+half] = float32(b*c) + float32(a*sin[i])
			}
		}
		slot := int(j.places[t].pos) % l.PageSize
		for h := range l.KVHeads {
			base := j.kv.base(j.layer, int(j.places[t].page), h)
			k := row[(j.heads+h)*d : (j.heads+h+1)*d]
			v := row[(j.heads+l.KVHeads+h)*d : (j.heads+l.KVHeads+h+1)*d]
			for i := range d {
				j.kv.w.set(base+j.kv.keyIndex(slot, i), k[i])
				j.kv.w.set(base+j.kv.valueIndex(slot, i), v[i])
			}
		}
	})
	return nil
}
