package sample

import (
	"math"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// Shard is one rank's part of rows of logits over a vocabulary that the ranks of
// a group share out: rank r has tokens [r*Width, (r+1)*Width) as far as there are
// Total of them.
type Shard struct {
	Group collective.Group
	Width int // of every rank
	Total int // tokens in the vocabulary
	// Row gives a row's Width logits; those from Own on mean nothing.
	Row func(i int) []float32
	// Stats are those of the rows' own logits, with ids from 0.
	Stats []tensor.LogitStat
}

// first is the rank's first token.
func (sh *Shard) first() int { return sh.Group.Rank() * sh.Width }

// Own is how many tokens the rank has; the rest of its Width is padding.
func (sh *Shard) Own() int { return min(max(sh.Total-sh.first(), 0), sh.Width) }

// own gives a row without padding.
func (sh *Shard) own(i int) []float32 { return sh.Row(i)[:sh.Own()] }

// at gives the logit of a token that this rank has, else 0.
func (sh *Shard) at(row []float32, id int32) float32 {
	if at := int(id) - sh.first(); at >= 0 && at < len(row) {
		return row[at]
	}
	return 0
}

// stat gives the statistics of a row's own part such that those of all ranks can
// be joined: an empty part has no largest token, and one of nothing but negative
// infinity weighs nothing.
func (sh *Shard) stat(i int, row []float32) tensor.LogitStat {
	inf := float32(math.Inf(-1))
	if len(row) == 0 {
		return tensor.LogitStat{ArgMax: -1, Max: inf, LogSumExp: inf}
	}
	st := sh.Stats[i]
	if st.Max != st.Max || st.Max == inf {
		st.ArgMax = ArgMax(row) // a device's own may be misled by NaN and padding
		st.Max = row[st.ArgMax]
		if st.Max == inf && !hasNaN(row) {
			st.LogSumExp = inf
		}
	}
	st.ArgMax += int32(sh.first())
	return st
}

func hasNaN(row []float32) bool {
	for _, v := range row {
		if v != v {
			return true
		}
	}
	return false
}

// joined is the statistics of a row whose parts, by rank, have those given.
func joined(parts []tensor.LogitStat) tensor.LogitStat {
	out := parts[0] // rank 0 always has tokens
	for _, p := range parts[1:] {
		if p.ArgMax >= 0 && (p.Max > out.Max || out.Max != out.Max && p.Max == p.Max) {
			out.ArgMax, out.Max = p.ArgMax, p.Max
		}
	}
	top, sum := float64(out.Max), 0.0
	for _, p := range parts {
		sum += math.Exp(float64(p.LogSumExp) - top)
	}
	out.LogSumExp = float32(top + math.Log(sum))
	return out
}

// words is what ranks send: fields of 32 bits, whose layout all ranks know.
type words struct {
	w  []uint32
	at int
}

func (w *words) putID(id int32)     { w.w = append(w.w, uint32(id)) }
func (w *words) putFloat(v float32) { w.w = append(w.w, math.Float32bits(v)) }
func (w *words) id() int32          { w.at++; return int32(w.w[w.at-1]) }
func (w *words) float() float32     { w.at++; return math.Float32frombits(w.w[w.at-1]) }
func (w *words) putDouble(v float64) {
	b := math.Float64bits(v)
	w.w = append(w.w, uint32(b), uint32(b>>32))
}

func (w *words) double() float64 {
	w.at += 2
	return math.Float64frombits(uint64(w.w[w.at-2]) | uint64(w.w[w.at-1])<<32)
}

func (w *words) putStat(st tensor.LogitStat) {
	w.putID(st.ArgMax)
	w.putFloat(st.Max)
	w.putFloat(st.LogSumExp)
}

func (w *words) stat() tensor.LogitStat {
	return tensor.LogitStat{ArgMax: w.id(), Max: w.float(), LogSumExp: w.float()}
}

// entry is a token of some rank, with its logit as adjusted and as it came; id -1
// stands for none.
type entry struct {
	id         int32
	logit, raw float32
	// last says that its rank has more tokens, all behind this one.
	last bool
}

var none = entry{id: -1}

func (w *words) putEntry(e entry) {
	w.putID(e.id)
	w.putFloat(e.logit)
	w.putFloat(e.raw)
}

func (w *words) entry() entry { return entry{id: w.id(), logit: w.float(), raw: w.float()} }
