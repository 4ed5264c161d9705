package cpu

import (
	"math"

	"chorale/worker/tensor"
)

// queryRows is the number of query rows that one unit of work attends for.
const queryRows = 16

// attentionUnit is the queries of up to queryRows rows of one sequence that
// share one kv head.
type attentionUnit struct {
	seq     tensor.Seq
	row, n  int // first row in the batch, rows
	pos     int // position of the first row
	kvHead  int
	perHead int // query heads per kv head
}

func attentionUnits(j *attentionJob) []attentionUnit {
	var units []attentionUnit
	kvHeads := j.kv.layout.KVHeads
	for _, q := range j.seqs {
		for at := 0; at < q.QLen; at += queryRows {
			for h := range kvHeads {
				units = append(units, attentionUnit{
					seq: q, row: q.QStart + at, n: min(queryRows, q.QLen-at),
					pos: q.CtxLen - q.QLen + at, kvHead: h, perHead: j.heads / kvHeads,
				})
			}
		}
	}
	return units
}

func (g *goKernels) attention(j *attentionJob) error {
	units := attentionUnits(j)
	parallel(g.threads, len(units), func(i int) { g.attend(j, units[i]) })
	return nil
}

// query is one row's and head's state of the online softmax.
type query struct {
	q, out  []float32 // [HeadDim]
	lo, hi  int       // visible positions
	top     float32
	sum     float32
	weights [blockTiles * tile]float32
}

// attend walks over the blocks that any query of u sees.
func (g *goKernels) attend(j *attentionJob, u attentionUnit) {
	l := j.kv.layout
	d := l.HeadDim
	queries := make([]query, u.n*u.perHead)
	for i := range queries {
		t, h := i/u.perHead, u.kvHead*u.perHead+i%u.perHead
		q := &queries[i]
		q.q, q.out = j.qkv.row(u.row + t)[h*d:(h+1)*d], j.dst.row(u.row + t)[h*d:(h+1)*d]
		q.hi = u.pos + t + 1
		if j.window > 0 {
			q.lo = max(0, q.hi-j.window)
		}
		q.top = float32(math.Inf(-1))
		clear(q.out)
	}
	tiles := j.kv.tiles()
	tileOf := func(pos int) int { return pos/l.PageSize*tiles + pos%l.PageSize/tile }
	first, last := tileOf(queries[0].lo)/blockTiles, tileOf(queries[len(queries)-1].hi-1)/blockTiles
	keys := make([]float32, d)
	for block := first; block <= last; block++ {
		for i := range queries {
			g.attendBlock(j, u, &queries[i], block, keys)
		}
	}
	for i := range queries {
		q := &queries[i]
		for c := range q.out {
			q.out[c] /= q.sum
		}
	}
}

// attendBlock adds one block to one query.
func (g *goKernels) attendBlock(j *attentionJob, u attentionUnit, q *query, block int, keys []float32) {
	l := j.kv.layout
	tiles := j.kv.tiles()
	// Slots [lo, hi) of the block's blockTiles*tile that q sees, and where they are.
	type place struct{ base, slot int }
	var places [blockTiles * tile]place
	n := 0
	top := q.top
	for i := range places {
		page, sub := (block*blockTiles+i/tile)/tiles, (block*blockTiles+i/tile)%tiles
		slot := sub*tile + i%tile
		pos := page*l.PageSize + slot
		if slot >= l.PageSize || pos < q.lo || pos >= q.hi {
			continue
		}
		base := j.kv.base(j.layer, int(u.seq.Pages[page]), u.kvHead)
		var dot float32
		for c, v := range q.q {
			dot += float32(v * j.kv.w.at(base+j.kv.keyIndex(slot, c)))
		}
		places[n], q.weights[n] = place{base, slot}, dot*j.scale
		top = max(top, q.weights[n])
		n++
	}
	if n == 0 {
		return
	}
	fade := exp32(q.top - top)
	q.top = top
	q.sum *= fade
	for c := range q.out {
		q.out[c] *= fade
	}
	for i := range n {
		p := exp32(q.weights[i] - top)
		q.sum += p
		for c := range keys {
			q.out[c] += float32(p * j.kv.w.at(places[i].base+j.kv.valueIndex(places[i].slot, c)))
		}
	}
}
