package tcp

import (
	"fmt"
	"unsafe"

	"chorale/worker/collective"
)

// oneShot is the most elements that every rank sums in full.
const oneShot = 4 << 10

const pieceFloats = pieceBytes / 4

func floats(b []byte) []float32 {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/4)
}

// pieces cuts n elements into equal pieces of at most `most`.
func pieces(n, most int) (count, each int) {
	count = (n + most - 1) / most
	if count == 0 {
		return 0, 0
	}
	return count, ((n+count-1)/count + 15) &^ 15
}

func cut[T any](x []T, i, each int) []T { return x[min(i*each, len(x)):min((i+1)*each, len(x))] }

// part gives what rank q sums of x.
func (g *Group) part(q int, x []float32) []float32 {
	return cut(x, q, ((len(x)+g.n-1)/g.n+15)&^15)
}

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
		p := g.piece
		g.piece++
		for q := range g.others() {
			if err := g.tell(g.peers[q], msgPut, p, collective.Bytes(x)); err != nil {
				return err
			}
		}
		return g.sum(p, x, x)
	}
	count, each := pieces(len(x), pieceFloats)
	base := g.piece
	g.piece += uint64(count)
	for i := range count + 2 {
		if i < count {
			if err := g.putParts(base+uint64(i), cut(x, i, each)); err != nil {
				return err
			}
		}
		if j := i - 1; j >= 0 && j < count {
			if err := g.sumPart(base+uint64(j), cut(x, j, each)); err != nil {
				return err
			}
		}
		if k := i - 2; k >= 0 {
			if err := g.takeParts(base+uint64(k), cut(x, k, each)); err != nil {
				return err
			}
		}
	}
	return nil
}

// others runs over the other ranks, those after this one first, so that not all
// begin with the same.
func (g *Group) others() func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i := 1; i < g.n; i++ {
			if !yield((g.rank + i) % g.n) {
				return
			}
		}
	}
}

func (g *Group) putParts(p uint64, x []float32) error {
	for q := range g.others() {
		if err := g.tell(g.peers[q], msgPut, p, collective.Bytes(g.part(q, x))); err != nil {
			return err
		}
	}
	return nil
}

// sum adds mine and what the others have put of it.
func (g *Group) sum(p uint64, dst, mine []float32) error {
	defer g.done()
	for q := range g.others() {
		m, err := g.from(g.peers[q], msgPut, p)
		if err != nil {
			return err
		}
		g.used = append(g.used, message{piece: uint64(q), payload: m.payload})
		if len(m.payload) != 4*len(mine) {
			return g.odd(q, len(m.payload))
		}
		g.parts[q] = floats(m.payload)
	}
	g.parts[g.rank] = mine
	collective.Sum(dst, g.parts)
	return nil
}

// odd is a message of the right operation and the wrong length: a rank of
// another version.
func (g *Group) odd(q, n int) error {
	err := fmt.Errorf("rank %d sent %d bytes in %s: %w", q, n, g.kind, collective.ErrMismatch)
	g.end(q, err.Error())
	return err
}

func (g *Group) sumPart(p uint64, x []float32) error {
	mine := g.part(g.rank, x)
	if err := g.sum(p, mine, mine); err != nil {
		return err
	}
	for q := range g.others() {
		if err := g.tell(g.peers[q], msgSum, p, collective.Bytes(mine)); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) takeParts(p uint64, x []float32) error {
	for q := range g.others() {
		if err := g.take(g.peers[q], msgSum, p, collective.Bytes(g.part(q, x))); err != nil {
			return err
		}
	}
	return nil
}

// take copies a rank's next message into dst.
func (g *Group) take(p *peer, kind byte, piece uint64, dst []byte) error {
	m, err := g.from(p, kind, piece)
	if err != nil {
		return err
	}
	if len(m.payload) != len(dst) {
		return g.odd(p.rank, len(m.payload))
	}
	copy(dst, m.payload)
	p.recycle(m.payload)
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
	of := func(q int) []float32 { return src[q*len(dst) : (q+1)*len(dst)] }
	count, each := pieces(len(dst), pieceFloats)
	base := g.piece
	g.piece += uint64(count)
	for i := range count + 1 {
		if i < count {
			for q := range g.others() {
				if err := g.tell(g.peers[q], msgPut, base+uint64(i), collective.Bytes(cut(of(q), i, each))); err != nil {
					return err
				}
			}
		}
		if j := i - 1; j >= 0 {
			if err := g.sum(base+uint64(j), cut(dst, j, each), cut(of(g.rank), j, each)); err != nil {
				return err
			}
		}
	}
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
	return g.gather(dst, src)
}

func (g *Group) gather(dst, src []byte) error {
	count, each := pieces(len(src), pieceBytes)
	base := g.piece
	g.piece += uint64(count)
	for i := range count + 1 {
		if i < count {
			for q := range g.others() {
				if err := g.tell(g.peers[q], msgPut, base+uint64(i), cut(src, i, each)); err != nil {
					return err
				}
			}
		}
		if j := i - 1; j >= 0 {
			for q := range g.others() {
				if err := g.take(g.peers[q], msgPut, base+uint64(j), cut(dst[q*len(src):(q+1)*len(src)], j, each)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Broadcast copies root's x. Root returns when all but the last pieces have
// come.
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
	count, each := pieces(len(x), pieceBytes)
	for i := range count {
		p := g.piece
		g.piece++
		if g.rank != root {
			from := g.peers[root]
			if err := g.take(from, msgPut, p, cut(x, i, each)); err != nil {
				return err
			}
			_ = from.send(message{kind: msgAck, piece: p, sign: g.sign}) // root may have left
			continue
		}
		for q := range g.others() {
			to := g.peers[q]
			if err := g.window(to); err != nil {
				return err
			}
			if err := g.tell(to, msgPut, p, cut(x, i, each)); err != nil {
				return err
			}
			to.sent++
		}
	}
	return nil
}

// Barrier is a message from everybody to everybody.
func (g *Group) Barrier() error {
	if err := g.begin(collective.KindBarrier, 0, 0); err != nil {
		return err
	}
	defer g.mu.Unlock()
	p := g.piece
	g.piece++
	for q := range g.others() {
		if err := g.tell(g.peers[q], msgPut, p, nil); err != nil {
			return err
		}
	}
	for q := range g.others() {
		if err := g.take(g.peers[q], msgPut, p, nil); err != nil {
			return err
		}
	}
	return nil
}
