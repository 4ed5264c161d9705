package cpu

import (
	"fmt"

	"chorale/worker/tensor"
)

// panel is the number of output columns that are packed together.
const panel = 32

// tile is the number of cache slots that attention handles as one vector.
const tile = 16

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// matrix is a weight [out, in] in panels of 32 outputs.
//
//	bfloat16: [ceil(out/32)][ceil(in/2)][32][2]   pairs of inputs adjacent (VNNI)
//	float32:  [ceil(out/32)][in][32]
//
// Missing outputs and the second half of an odd pair are zero. Both layouts
// stream one panel after another, whatever the number of rows.
type matrix struct {
	out, in int
	w       weights
}

func (m *matrix) Out() int     { return m.out }
func (m *matrix) In() int      { return m.in }
func (m *matrix) Bytes() int64 { return m.w.bytes() }
func (m *matrix) Free()        { m.w.release() }

// panelSize is the number of stored values in one panel of depth k.
func panelSize(p tensor.Precision, k int) int {
	if p == tensor.F32 {
		return k * panel
	}
	return ceilDiv(k, 2) * 2 * panel
}

// panelIndex finds input i of column c inside a panel.
func panelIndex(p tensor.Precision, i, c int) int {
	if p == tensor.F32 {
		return i*panel + c
	}
	return (i/2*panel+c)*2 + i%2
}

// vector is an immutable float32 vector.
type vector struct {
	mem  *block
	data []float32
}

func (v *vector) Len() int { return len(v.data) }
func (v *vector) Free()    { v.mem.release(); v.data = nil }

// loraPair is one adapted module.
//
// A is kept in groups of up to 16 ranks so that a group is one vector:
//
//	bfloat16: per group g of n ranks [ceil(in/2)][n][2]
//	float32:  per group g of n ranks [in][n]
//
// B is kept like a matrix of depth r. In bfloat16 the scale is applied to the
// float32 intermediate, because folding it into B would round B twice; in
// float32 it is folded into B. The A of an embedding adapter is [vocab][r].
type loraPair struct {
	rank, in, out int
	scale         float32
	embedding     bool
	a, b          weights
}

func (l *loraPair) Rank() int    { return l.rank }
func (l *loraPair) In() int      { return l.in }
func (l *loraPair) Out() int     { return l.out }
func (l *loraPair) Bytes() int64 { return l.a.bytes() + l.b.bytes() }

func (l *loraPair) Free() {
	l.a.release()
	l.b.release()
}

// groupRanks is the number of ranks that share a vector in A.
const groupRanks = 16

// shrinkIndex finds A[rank, in] of a pair; depth is in for float32 and in
// rounded up to even for bfloat16.
func shrinkIndex(p tensor.Precision, ranks, in, r, i int) int {
	g := r / groupRanks * groupRanks
	n := min(groupRanks, ranks-g)
	if p == tensor.F32 {
		return g*in + i*n + r - g
	}
	even := ceilDiv(in, 2) * 2
	return g*even + (i/2*n+r-g)*2 + i%2
}

// shrinkSize is the number of stored values of A.
func shrinkSize(p tensor.Precision, ranks, in int) int {
	if p == tensor.F32 {
		return ranks * in
	}
	return ranks * ceilDiv(in, 2) * 2
}

// buffer is an activation matrix, row-major float32.
//
// Kernels that multiply in bfloat16 read a rounded shadow of it. The shadow is
// made on the first use as an input of Linear; from then on the operations that
// write the buffer keep it up to date in the same pass, so rounding costs no
// pass of its own. Its rows are padded with zeros to 32 values, and by another
// 32 where rows would otherwise fall on the same cache sets.
type buffer struct {
	rows, cols, cap int
	mem             *block
	data            []float32 // cap * cols

	shadowMem *block
	shadow    []uint16 // cap * stride, or nil
	stride    int
	fresh     bool // the shadow holds data's values
}

func (b *buffer) Rows() int { return b.rows }
func (b *buffer) Cols() int { return b.cols }
func (b *buffer) Cap() int  { return b.cap }

func (b *buffer) Free() {
	b.mem.release()
	b.shadowMem.release()
	b.data, b.shadow, b.rows, b.cap = nil, nil, 0, 0
}

// row returns row t.
func (b *buffer) row(t int) []float32 { return b.data[t*b.cols : (t+1)*b.cols] }

// makeShadow allocates the shadow; the caller fills it.
func (b *buffer) makeShadow() error {
	stride := ceilDiv(b.cols, 32) * 32
	if stride%512 == 0 {
		stride += 32
	}
	mem, err := newBlock(b.cap*stride, 2)
	if err != nil {
		return fmt.Errorf("rounded copy of a [%d, %d] buffer: %w", b.cap, b.cols, err)
	}
	b.shadowMem, b.shadow, b.stride = mem, mem.halves(b.cap*stride), stride
	return nil
}

// kvCache is the paged cache. A page holds all layers, and for each layer and kv
// head the keys of the page's tiles (16 slots each) and then their values:
//
//	keys, bfloat16: [tiles][HeadDim/2][16][2]    keys, float32: [tiles][HeadDim][16]
//	values:         [tiles][16][HeadDim]
//
// so that scores of 16 positions are one vector without a horizontal sum. A
// page whose size is not a multiple of 16 wastes the rest of its last tile.
type kvCache struct {
	layout tensor.KVLayout
	stride int // values from page to page
	w      weights
}

func (c *kvCache) Layout() tensor.KVLayout { return c.layout }
func (c *kvCache) Bytes() int64            { return c.w.bytes() }
func (c *kvCache) Free()                   { c.w.release() }

// tiles is the number of tiles in a page.
func (c *kvCache) tiles() int { return ceilDiv(c.layout.PageSize, tile) }

// headSize is the number of values (keys and values) of one head in one page.
func (c *kvCache) headSize() int { return 2 * c.tiles() * tile * c.layout.HeadDim }

// base is where a head's keys begin; its values begin headSize/2 later.
func (c *kvCache) base(layer, page, head int) int {
	return page*c.stride + (layer*c.layout.KVHeads+head)*c.headSize()
}

// keyIndex finds channel d of slot s relative to base.
func (c *kvCache) keyIndex(s, d int) int {
	t := s / tile * tile * c.layout.HeadDim
	if c.w.f != nil {
		return t + d*tile + s%tile
	}
	return t + (d/2*tile+s%tile)*2 + d%2
}

// valueIndex finds channel d of slot s relative to base.
func (c *kvCache) valueIndex(s, d int) int {
	return c.headSize()/2 + s*c.layout.HeadDim + d
}
