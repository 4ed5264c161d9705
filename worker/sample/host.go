package sample

import (
	"cmp"
	"math"
	"slices"

	"chorale/worker/tensor"
)

// candidate is a token that may be drawn, with its weight exp((logit-max)/T).
type candidate struct {
	id     int32
	logit  float32
	weight float64
}

// Negligible is how far below the best (in units of temperature) a logit may
// lie before its weight, below e^-32 ≈ 1e-14, cannot matter to a draw even
// with 100 000 of its like.
const Negligible = 32

// Sampler does on the host what tensor.Stream.Sample asks for: the CPU's way,
// and the reference of the others. It is not safe for concurrent use.
type Sampler struct {
	cands []candidate
	row   []float32 // an adjusted copy
}

// Sample serves one row of logits, whose statistics are st. The logits stay as
// they are. r.Last stands for the token `last`.
func (s *Sampler) Sample(logits []float32, st tensor.LogitStat, r *tensor.SampleRow, last int32) tensor.Sampled {
	out := tensor.Sampled{Token: r.Token, Stat: st}
	if r.Last == 0 {
		last = -1
	}
	if !r.Given {
		out.Token = s.next(logits, st.ArgMax, r, last)
	}
	p := Logprobs(logits, st.LogSumExp, out.Token, r.Top, r.IDs)
	out.Logprob, out.Top, out.Requested = p.Logprob, p.Top, p.Requested
	return out
}

// next chooses a token. argmax is the lowest index of the largest logit; last,
// unless negative, occurred once more than r.Adjust knows.
func (s *Sampler) next(logits []float32, argmax int32, r *tensor.SampleRow, last int32) int32 {
	if len(r.Adjust) > 0 || len(r.Ban) > 0 || last >= 0 {
		s.row = append(s.row[:0], logits...)
		logits = s.row
		adjust(logits, 0, r, last)
		argmax = ArgMax(logits)
	}
	top := logits[argmax]
	if top != top { // of a broken model or adapter; the other rows' do not depend on it
		argmax = ArgMax(logits)
		top = logits[argmax]
	}
	// Without a finite best there is no distribution: all are banned, or infinite.
	if r.Greedy() || top-top != 0 {
		return argmax
	}
	s.collect(logits, 0, top, r)
	s.truncate(r)
	return s.draw(r.U)
}

// adjust applies bias, penalties and bans in place to logits of the tokens from
// first on.
func adjust(logits []float32, first int32, r *tensor.SampleRow, last int32) {
	for _, a := range r.Adjust {
		if a.ID == last {
			a.Count, a.Seen, last = a.Count+1, true, -1
		}
		change(logits, first, r, a)
	}
	if last >= 0 {
		change(logits, first, r, tensor.Adjust{ID: last, Count: 1, Seen: true})
	}
	for _, id := range r.Ban {
		if at := int(id) - int(first); at >= 0 && at < len(logits) {
			logits[at] = float32(math.Inf(-1))
		}
	}
}

func change(logits []float32, first int32, r *tensor.SampleRow, a tensor.Adjust) {
	at := int(a.ID) - int(first)
	if at < 0 || at >= len(logits) {
		return
	}
	l := logits[at] + a.Bias
	if a.Seen && r.Repetition != 1 {
		if l > 0 {
			l /= r.Repetition
		} else {
			l *= r.Repetition
		}
	}
	if a.Count > 0 {
		// Rounded product by product, as a device without this CPU's habits can.
		l -= float32(r.Frequency*float32(a.Count)) + r.Presence
	}
	logits[at] = l
}

// Reach is how far below the best, as a negative difference of logits, a token
// may lie and still count; MinReach the same of min-p, negative infinity without
// it. Both compare differences in float32, so that every device agrees.
func Reach(r *tensor.SampleRow) float32 { return float32(-Negligible * r.Temperature) }

// MinReach is described at Reach.
func MinReach(r *tensor.SampleRow) float32 {
	if r.MinP <= 0 {
		return float32(math.Inf(-1))
	}
	return float32(r.Temperature * math.Log(r.MinP)) // weight >= MinP, the best one's being 1
}

// reachOf is how far below the best a token may lie and be drawn, or count for
// top-p, which needs the mass of those below, too.
func reachOf(r *tensor.SampleRow) float32 {
	if r.TopP >= 1 {
		return max(Reach(r), MinReach(r))
	}
	return Reach(r)
}

// weight is what a token counts whose logit lies d below the best.
func weight(d float32, r *tensor.SampleRow) float64 {
	return math.Exp(float64(d) * (1 / r.Temperature))
}

// collect gathers the tokens worth drawing from, in vocabulary order; logits are
// those from token first on.
func (s *Sampler) collect(logits []float32, first int32, top float32, r *tensor.SampleRow) {
	s.cands = s.cands[:0]
	reach := reachOf(r)
	for i, l := range logits {
		if d := l - top; d >= reach {
			s.cands = append(s.cands, candidate{first + int32(i), l, weight(d, r)})
		}
	}
}

// truncate applies top-k, top-p and min-p. Ties at a border go to lower ids;
// what is left is in vocabulary order again.
func (s *Sampler) truncate(r *tensor.SampleRow) {
	fewer := r.TopK > 0 && r.TopK < len(s.cands)
	if !fewer && r.TopP >= 1 {
		return
	}
	s.bySize()
	if fewer {
		s.cands = s.cands[:r.TopK]
	}
	if r.TopP < 1 {
		s.cands = s.cands[:nucleus(s.cands, r.TopP)]
	}
	s.aboveMin(r)
}

// bySize sorts by logits, ties by ids.
func (s *Sampler) bySize() {
	slices.SortFunc(s.cands, func(a, b candidate) int {
		if c := cmp.Compare(b.logit, a.logit); c != 0 {
			return c
		}
		return cmp.Compare(a.id, b.id)
	})
}

// aboveMin applies min-p to candidates by size and puts them into vocabulary
// order.
func (s *Sampler) aboveMin(r *tensor.SampleRow) {
	top, reach := s.cands[0].logit, MinReach(r)
	n := 0
	for n < len(s.cands) && s.cands[n].logit-top >= reach {
		n++
	}
	s.cands = s.cands[:max(n, 1)]
	slices.SortFunc(s.cands, func(a, b candidate) int { return cmp.Compare(a.id, b.id) })
}

// nucleus counts the most likely candidates whose probabilities reach topP.
func nucleus(cs []candidate, topP float64) int {
	var total float64
	for _, c := range cs {
		total += c.weight
	}
	var sum float64
	for i, c := range cs {
		if sum += c.weight; sum >= topP*total {
			return i + 1
		}
	}
	return len(cs)
}

// total is the weight of all candidates.
func (s *Sampler) total() float64 {
	var sum float64
	for _, c := range s.cands {
		sum += c.weight
	}
	return sum
}

// draw picks by the cumulative weights; u is in [0, 1).
func (s *Sampler) draw(u float64) int32 { return s.drawFrom(0, u*s.total()) }

// drawFrom picks the first candidate at which the sum of weights, from sum on,
// exceeds target.
func (s *Sampler) drawFrom(sum, target float64) int32 {
	for _, c := range s.cands {
		if sum += c.weight; sum > target {
			return c.id
		}
	}
	return s.cands[len(s.cands)-1].id
}
