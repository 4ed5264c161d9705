package shm

import "chorale/worker/collective"

// oneShot is the most elements that every rank sums in full.
const oneShot = 8 << 10

// AllReduce sums x over all ranks.
func (g *Group) AllReduce(x []float32) error {
	if err := g.begin(collective.KindAllReduce, 4*len(x), 0); err != nil {
		return err
	}
	defer g.mu.Unlock()
	if g.n == 1 || len(x) == 0 {
		return nil
	}
	if len(x) <= oneShot {
		return g.reduceAlone(x)
	}
	return g.reduceShared(x)
}

// reduceAlone is one piece that every rank sums in full.
func (g *Group) reduceAlone(x []float32) error {
	p := g.piece
	g.piece++
	if err := g.room(p); err != nil {
		return err
	}
	copy(floats(g.s.slot(g.rank, p)), x)
	g.put(p)
	if err := g.allHave(p); err != nil {
		return err
	}
	for q := range g.n {
		g.parts[q] = floats(g.s.slot(q, p))[:len(x)]
	}
	g.parts[g.rank] = x
	collective.Sum(x, g.parts)
	g.taken(p)
	return nil
}

// reduceShared sums piece by piece, each rank one part of each.
func (g *Group) reduceShared(x []float32) error {
	const most = slotBytes / 4
	pieces := (len(x) + most - 1) / most
	base := g.piece
	g.piece += uint64(pieces)
	// Equal pieces, not a full one and a rest.
	size := ((len(x)+pieces-1)/pieces + 15) &^ 15
	piece := func(i int) []float32 { return x[min(i*size, len(x)):min((i+1)*size, len(x))] }
	for i := range pieces + 2 {
		if i < pieces {
			if err := g.putParts(base+uint64(i), piece(i)); err != nil {
				return err
			}
		}
		if j := i - 1; j >= 0 && j < pieces {
			if err := g.sumPart(base+uint64(j), piece(j)); err != nil {
				return err
			}
		}
		if k := i - 2; k >= 0 {
			if err := g.takeParts(base+uint64(k), piece(k)); err != nil {
				return err
			}
		}
	}
	return nil
}

// part gives the bounds of what rank q sums of n elements: whole cache lines.
func (g *Group) part(q, n int) (from, to int) {
	each := ((n+g.n-1)/g.n + 15) &^ 15
	return min(q*each, n), min((q+1)*each, n)
}

// putParts copies all parts but this rank's.
func (g *Group) putParts(p uint64, x []float32) error {
	if err := g.room(p); err != nil {
		return err
	}
	slot := floats(g.s.slot(g.rank, p))
	from, to := g.part(g.rank, len(x))
	copy(slot, x[:from])
	copy(slot[to:], x[to:])
	g.put(p)
	return nil
}

// sumPart sums this rank's part, into x and into its slot.
func (g *Group) sumPart(p uint64, x []float32) error {
	if err := g.allHave(p); err != nil {
		return err
	}
	from, to := g.part(g.rank, len(x))
	for q := range g.n {
		g.parts[q] = floats(g.s.slot(q, p))[from:to]
	}
	g.parts[g.rank] = x[from:to]
	collective.Sum(x[from:to], g.parts)
	copy(floats(g.s.slot(g.rank, p))[from:to], x[from:to])
	g.advance(atSummed, forSummed, p+1)
	return nil
}

// takeParts copies the other ranks' sums.
func (g *Group) takeParts(p uint64, x []float32) error {
	for q := range g.n {
		if q == g.rank {
			continue
		}
		if err := g.need(q, atSummed, forSummed, p+1); err != nil {
			return err
		}
		from, to := g.part(q, len(x))
		copy(x[from:to], floats(g.s.slot(q, p))[from:to])
	}
	g.taken(p)
	return nil
}

// ReduceScatter sums each rank's part of src.
func (g *Group) ReduceScatter(dst, src []float32) error {
	if err := collective.CheckScatter(len(dst), len(src), g.n); err != nil {
		return err
	}
	if err := g.begin(collective.KindReduceScatter, 4*len(src), 0); err != nil {
		return err
	}
	defer g.mu.Unlock()
	if g.n == 1 {
		copy(dst, src)
		return nil
	}
	// A piece holds the same stretch of each rank's part.
	each := slotBytes / 4 / g.n &^ 15
	pieces := (len(dst) + each - 1) / each
	base := g.piece
	g.piece += uint64(pieces)
	for i := range pieces + 1 {
		if i < pieces {
			if err := g.putStretch(base+uint64(i), src, len(dst), i*each, each); err != nil {
				return err
			}
		}
		if j := i - 1; j >= 0 {
			if err := g.sumStretch(base+uint64(j), dst, src, j*each, each); err != nil {
				return err
			}
		}
	}
	return nil
}

// putStretch copies src[q*n+at:][:each] for all other ranks q.
func (g *Group) putStretch(p uint64, src []float32, n, at, each int) error {
	if err := g.room(p); err != nil {
		return err
	}
	slot := floats(g.s.slot(g.rank, p))
	for q := range g.n {
		if q != g.rank {
			copy(slot[q*each:(q+1)*each], src[q*n+at:q*n+min(at+each, n)])
		}
	}
	g.put(p)
	return nil
}

func (g *Group) sumStretch(p uint64, dst, src []float32, at, each int) error {
	if err := g.allHave(p); err != nil {
		return err
	}
	to := min(at+each, len(dst))
	for q := range g.n {
		g.parts[q] = floats(g.s.slot(q, p))[g.rank*each:][:to-at]
	}
	g.parts[g.rank] = src[g.rank*len(dst)+at : g.rank*len(dst)+to]
	collective.Sum(dst[at:to], g.parts)
	g.taken(p)
	return nil
}

// AllGather collects all ranks' src.
func (g *Group) AllGather(dst, src []byte) error {
	if err := collective.CheckScatter(len(src), len(dst), g.n); err != nil {
		return err
	}
	if err := g.begin(collective.KindAllGather, len(dst), 0); err != nil {
		return err
	}
	defer g.mu.Unlock()
	copy(dst[g.rank*len(src):], src)
	if g.n == 1 {
		return nil
	}
	pieces := (len(src) + slotBytes - 1) / slotBytes
	base := g.piece
	g.piece += uint64(pieces)
	for i := range pieces + 1 {
		if i < pieces {
			if err := g.room(base + uint64(i)); err != nil {
				return err
			}
			copy(g.s.slot(g.rank, base+uint64(i)), src[i*slotBytes:])
			g.put(base + uint64(i))
		}
		if j := i - 1; j >= 0 {
			if err := g.collect(base+uint64(j), dst, len(src), j*slotBytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect copies what the others have put of their n bytes, from at on.
func (g *Group) collect(p uint64, dst []byte, n, at int) error {
	for q := range g.n {
		if q == g.rank {
			continue
		}
		if err := g.has(q, p); err != nil {
			return err
		}
		copy(dst[q*n+at:(q+1)*n], g.s.slot(q, p))
	}
	g.taken(p)
	return nil
}

// Broadcast copies root's x. Root returns when its last pieces are in slots.
func (g *Group) Broadcast(x []byte, root int) error {
	if err := collective.CheckRoot(root, g.n); err != nil {
		return err
	}
	if err := g.begin(collective.KindBroadcast, len(x), root); err != nil {
		return err
	}
	defer g.mu.Unlock()
	if g.n == 1 {
		return nil
	}
	pieces := (len(x) + slotBytes - 1) / slotBytes
	for i := range pieces {
		p := g.piece
		g.piece++
		if err := g.room(p); err != nil {
			return err
		}
		if g.rank == root {
			copy(g.s.slot(g.rank, p), x[i*slotBytes:])
		}
		g.put(p)
		if g.rank != root {
			if err := g.has(root, p); err != nil {
				return err
			}
			copy(x[i*slotBytes:], g.s.slot(root, p))
		}
		g.taken(p)
	}
	return nil
}

// Barrier is a piece without contents.
func (g *Group) Barrier() error {
	if err := g.begin(collective.KindBarrier, 0, 0); err != nil {
		return err
	}
	defer g.mu.Unlock()
	p := g.piece
	g.piece++
	if err := g.room(p); err != nil {
		return err
	}
	g.put(p)
	if err := g.allHave(p); err != nil {
		return err
	}
	g.taken(p)
	return nil
}
