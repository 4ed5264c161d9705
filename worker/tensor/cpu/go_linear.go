package cpu

// shrinkLanes is the number of accumulators of a shrink sum: pair i of inputs
// goes to accumulator i%4, and they are added as (0+1)+(2+3).
const shrinkLanes = 4

func (g *goKernels) linear(dst, x *buffer, w *matrix, bias *vector, terms []term, s []float32) error {
	for _, l := range terms {
		if l.pair == nil {
			continue
		}
		parallel(g.threads, l.end-l.start, func(i int) {
			r := l.pair.rank
			g.shrink(s[l.at+i*r:l.at+(i+1)*r], x.row(l.start+i), l.pair)
		})
	}
	parallel(g.threads, ceilDiv(w.out, panel), func(p int) {
		c0, c1 := p*panel, min((p+1)*panel, w.out)
		g.panel(dst, x, w, p, c0, c1)
		for t := range x.rows {
			row := dst.row(t)
			if bias != nil {
				for c := c0; c < c1; c++ {
					row[c] += bias.data[c]
				}
			}
			for _, l := range terms {
				if t < l.start || t >= l.end {
					continue
				}
				if l.pair != nil {
					r := l.pair.rank
					at := l.at + (t-l.start)*r
					g.expand(row, s[at:at+r], l, c0, c1)
				}
				addBias(row, l, c0, c1)
			}
		}
	})
	return nil
}

// panel writes columns c0 to c1 (one panel) of x·wᵀ.
func (g *goKernels) panel(dst, x *buffer, w *matrix, p, c0, c1 int) {
	size := panelSize(g.precision, w.in)
	wide := w.w.f
	at := p * size
	if wide == nil {
		// Widening once per panel, not per row.
		wide, at = make([]float32, w.in*panel), 0
		src := w.w.bf[p*size : (p+1)*size]
		for i := range w.in {
			for c := range panel {
				wide[i*panel+c] = fromBF16(src[(i/2*panel+c)*2+i%2])
			}
		}
	}
	for t := range x.rows {
		var acc [panel]float32
		for i, v := range x.row(t) {
			col := (*[panel]float32)(wide[at+i*panel:])
			for c := range acc {
				acc[c] += float32(v * col[c])
			}
		}
		copy(dst.row(t)[c0:c1], acc[:])
	}
}

// shrink writes s [r] = scale * A·x.
func (g *goKernels) shrink(s, x []float32, l *loraPair) {
	for r := range s {
		var acc [shrinkLanes]float32
		for i, v := range x {
			lane := i / 2 % shrinkLanes
			acc[lane] += float32(v * l.a.at(shrinkIndex(g.precision, l.rank, l.in, r, i)))
		}
		s[r] = ((acc[0] + acc[1]) + (acc[2] + acc[3])) * l.scale
	}
}

// expand adds B·s to the columns of row that lie in the term and in c0 to c1.
func (g *goKernels) expand(row, s []float32, l term, c0, c1 int) {
	size := panelSize(g.precision, l.pair.rank)
	for c := max(c0, l.offset); c < min(c1, l.offset+l.out); c++ {
		n := c - l.offset
		at := n / panel * size
		var acc float32
		for r, v := range s {
			acc += float32(v * l.pair.b.at(at+panelIndex(g.precision, r, n%panel)))
		}
		row[c] += acc
	}
}

// addBias adds a term's bias to the columns of row in c0 to c1.
func addBias(row []float32, l term, c0, c1 int) {
	if l.bias == nil {
		return
	}
	for c := max(c0, l.offset); c < min(c1, l.offset+l.out); c++ {
		row[c] += l.bias.data[c-l.offset]
	}
}
