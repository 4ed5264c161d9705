package cuda

import (
	"math"
	"unsafe"

	"chorale/worker/tensor"
)

// brought is what a submission brought of its rows: this rank's words, or those
// of all ranks, `each` of them, one after another.
type brought struct {
	words       []uint32
	each        int // 0: only this rank's
	rank, ranks int
}

// of gives a rank's words.
func (b *brought) of(rank int) []uint32 {
	if b.each == 0 {
		return b.words
	}
	return b.words[rank*b.each : (rank+1)*b.each]
}

// gathers tells whether any of the results are in parts.
func gathers(sinks []sink) bool {
	for i := range sinks {
		if sinks[i].width > 0 {
			return true
		}
	}
	return false
}

// wholeRows rounds a number of rows that are put together, so that there are few
// kinds of steps.
func wholeRows(n int32) int32 {
	size := int32(0)
	for size < n {
		size = max(1, 2*size)
	}
	return size
}

// deliver hands out a step's results.
func deliver(sinks []sink, b brought) {
	for i := range sinks {
		to := &sinks[i]
		for j := range to.asked {
			if to.width > 0 {
				to.merge(j, &b)
			} else {
				to.fill(j, b.of(b.rank))
			}
		}
	}
}

// part is a row's results from one rank.
type part struct {
	sampled
	rest []uint32 // the most likely, and those asked for
}

func partOf(words []uint32, a *answer) part {
	return part{*(*sampled)(unsafe.Pointer(&words[a.at])), words[a.at+sampledWords:]}
}

// top is the j-th most likely; id < 0 when there are fewer.
func (p *part) top(j int32) (id int32, logit float32) {
	return int32(p.rest[2*j]), math.Float32frombits(p.rest[2*j+1])
}

// asked is the logit of the j-th of the tokens that were asked for.
func (p *part) asked(a *answer, j int) float32 { return math.Float32frombits(p.rest[2*int(a.top)+j]) }

// put fills a row's results.
func (to *sink) put(i int, stat tensor.LogitStat, token int32, logit float32, top []tensor.TokenLogprob, asked func(j int, id int32) float32) {
	if to.stats != nil {
		to.stats[i] = stat
		return
	}
	lp := func(logit float32) float64 { return float64(logit) - float64(stat.LogSumExp) }
	out := tensor.Sampled{Token: token, Stat: stat, Logprob: lp(logit), Top: top}
	for j, id := range to.asked[i].ids {
		out.Requested = append(out.Requested, tensor.TokenLogprob{ID: id, Logprob: lp(asked(j, id))})
	}
	to.out[i] = out
}

// fill takes a row's results as they came.
func (to *sink) fill(i int, words []uint32) {
	a := &to.asked[i]
	p := partOf(words, a)
	stat := tensor.LogitStat{ArgMax: p.argMax, Max: p.max, LogSumExp: p.logSumExp}
	var top []tensor.TokenLogprob
	for j := range a.top {
		id, logit := p.top(j)
		top = append(top, tensor.TokenLogprob{ID: id, Logprob: float64(logit) - float64(stat.LogSumExp)})
	}
	to.put(i, stat, p.token, p.fromLogit, top, func(j int, _ int32) float32 { return p.asked(a, j) })
}

// merge puts a row's results together from those of all ranks.
func (to *sink) merge(i int, b *brought) {
	a := &to.asked[i]
	parts := make([]part, b.ranks)
	for r := range parts {
		parts[r] = partOf(b.of(r), a)
	}
	stat := mergeStats(parts)
	token := parts[0].token // the same everywhere
	to.put(i, stat, token, parts[int(token)/to.width].fromLogit, mergeTop(parts, a, stat), func(j int, id int32) float32 {
		return parts[int(id)/to.width].asked(a, j)
	})
}

// mergeStats is the summary of the whole row. A part without numbers has no
// largest one.
func mergeStats(parts []part) tensor.LogitStat {
	stat := tensor.LogitStat{Max: float32(math.NaN())}
	found := false
	for r := range parts { // by ascending ids
		if p := &parts[r]; p.argMax >= 0 && (!found || p.max > stat.Max) {
			stat.ArgMax, stat.Max, found = p.argMax, p.max, true
		}
	}
	sum, top := 0.0, math.Inf(-1)
	for r := range parts {
		top = max(top, float64(parts[r].logSumExp)) // NaN stays
	}
	if math.IsInf(top, 0) || math.IsNaN(top) {
		stat.LogSumExp = float32(top)
		return stat
	}
	for r := range parts {
		sum += math.Exp(float64(parts[r].logSumExp) - top)
	}
	stat.LogSumExp = float32(top + math.Log(sum))
	return stat
}

// mergeTop merges the ranks' most likely tokens: larger logits first, NaN last,
// ties by lower ids, which lower ranks have.
func mergeTop(parts []part, a *answer, stat tensor.LogitStat) []tensor.TokenLogprob {
	var out []tensor.TokenLogprob
	next := make([]int32, len(parts))
	for range a.most {
		best, id, logit := -1, int32(0), float32(0)
		for r := range parts {
			if next[r] == a.top {
				continue
			}
			i, x := parts[r].top(next[r])
			if i >= 0 && (best < 0 || x > logit || logit != logit && x == x) {
				best, id, logit = r, i, x
			}
		}
		if best < 0 {
			break
		}
		next[best]++
		out = append(out, tensor.TokenLogprob{ID: id, Logprob: float64(logit) - float64(stat.LogSumExp)})
	}
	return out
}
