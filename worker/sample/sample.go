package sample

import (
	"cmp"
	"math"
	"slices"
)

// Params are a sequence's sampling parameters.
type Params struct {
	Temperature       float64 // < GreedyBelow: most likely token
	TopP              float64 // (0, 1]; 1: all
	TopK              int     // <= 0: all
	MinP              float64 // [0, 1]; 0: all
	FrequencyPenalty  float64
	PresencePenalty   float64
	RepetitionPenalty float64 // 1: none
	LogitBias         map[int32]float64
	Seed              uint64
	// MinTokens forbids Bans until that many tokens are generated.
	MinTokens int
	Bans      []int32
}

// GreedyBelow is the temperature below which the most likely token is taken.
const GreedyBelow = 1e-6

// Greedy tells whether p takes the most likely token.
func (p *Params) Greedy() bool { return p.Temperature < GreedyBelow || p.TopK == 1 }

// Counts keeps how often tokens occurred, for the penalties.
type Counts struct {
	generated map[int32]int
	prompt    map[int32]struct{}
}

// penalised tells whether p needs Counts.
func (p *Params) penalised() bool {
	return p.FrequencyPenalty != 0 || p.PresencePenalty != 0 || p.RepetitionPenalty != 1
}

// NewCounts starts the counts of a sequence; nil when p needs none.
func NewCounts(p *Params, prompt []int32) *Counts {
	if !p.penalised() {
		return nil
	}
	c := &Counts{generated: map[int32]int{}, prompt: make(map[int32]struct{}, len(prompt))}
	for _, id := range prompt {
		c.prompt[id] = struct{}{}
	}
	return c
}

// Add counts a generated token. A nil c counts nothing.
func (c *Counts) Add(id int32) {
	if c != nil {
		c.generated[id]++
	}
}

// plain tells whether logits may be used as they are.
func (p *Params) plain(generated int) bool {
	return len(p.LogitBias) == 0 && !p.penalised() && (generated >= p.MinTokens || len(p.Bans) == 0)
}

// adjust applies bias, penalties and bans to logits in place.
func (p *Params) adjust(logits []float32, c *Counts, generated int) {
	for id, b := range p.LogitBias {
		if int(id) < len(logits) && id >= 0 {
			logits[id] += float32(b)
		}
	}
	if c != nil {
		p.penalise(logits, c)
	}
	if generated < p.MinTokens {
		for _, id := range p.Bans {
			if int(id) < len(logits) && id >= 0 {
				logits[id] = float32(math.Inf(-1))
			}
		}
	}
}

func (p *Params) penalise(logits []float32, c *Counts) {
	if rp := float32(p.RepetitionPenalty); rp != 1 {
		repeat := func(id int32) {
			if logits[id] > 0 {
				logits[id] /= rp
			} else {
				logits[id] *= rp
			}
		}
		for id := range c.prompt {
			repeat(id)
		}
		for id := range c.generated {
			if _, ok := c.prompt[id]; !ok {
				repeat(id)
			}
		}
	}
	for id, n := range c.generated {
		logits[id] -= float32(p.FrequencyPenalty)*float32(n) + float32(p.PresencePenalty)
	}
}

// candidate is a token that may be drawn, with its weight exp(logit - max).
type candidate struct {
	id     int32
	logit  float32
	weight float64
}

// negligible is how far below the best (in units of temperature) a logit may
// lie before its weight, below e^-32 ≈ 1e-14, cannot matter to a draw even
// with 100 000 of its like.
const negligible = 32

// Sampler has the scratch space of one engine. It is not safe for concurrent use.
type Sampler struct {
	cands []candidate
}

// Next chooses the token after the given logits. argmax is the lowest index of
// the largest logit of the untouched row; generated counts the answer's tokens
// so far; logits may be modified.
func (s *Sampler) Next(logits []float32, argmax int32, p *Params, c *Counts, generated int) int32 {
	if !p.plain(generated) {
		p.adjust(logits, c, generated)
		argmax = ArgMax(logits)
	}
	top := logits[argmax]
	if top != top { // of a broken model or adapter; the other rows' do not depend on it
		argmax = ArgMax(logits)
		top = logits[argmax]
	}
	// Without a finite best there is no distribution: all are banned, or infinite.
	if p.Greedy() || top-top != 0 {
		return argmax
	}
	s.collect(logits, top, p)
	s.truncate(p)
	return s.draw(Uniform(p.Seed, uint64(generated)))
}

// collect gathers the tokens worth drawing from, in vocabulary order.
func (s *Sampler) collect(logits []float32, top float32, p *Params) {
	s.cands = s.cands[:0]
	floor := top - float32(negligible*p.Temperature)
	if p.MinP > 0 && p.TopP >= 1 {
		// weight >= MinP*best  <=>  logit >= top + T*log(MinP); a hair lower here,
		// truncate decides exactly. Top-p needs the mass of those below, too.
		floor = max(floor, top+float32(p.Temperature*math.Log(p.MinP))-1e-3)
	}
	inv := 1 / p.Temperature
	for id, l := range logits {
		if l >= floor {
			s.cands = append(s.cands, candidate{int32(id), l, math.Exp(float64(l-top) * inv)})
		}
	}
}

// truncate applies top-k, top-p and min-p. Ties at a border go to lower ids.
func (s *Sampler) truncate(p *Params) {
	if (p.TopK <= 0 || p.TopK >= len(s.cands)) && p.TopP >= 1 && p.MinP <= 0 {
		return
	}
	slices.SortFunc(s.cands, func(a, b candidate) int {
		if c := cmp.Compare(b.logit, a.logit); c != 0 {
			return c
		}
		return cmp.Compare(a.id, b.id)
	})
	if p.TopK > 0 && p.TopK < len(s.cands) {
		s.cands = s.cands[:p.TopK]
	}
	if p.TopP < 1 {
		s.cands = s.cands[:nucleus(s.cands, p.TopP)]
	}
	if p.MinP > 0 {
		n := 0
		for n < len(s.cands) && s.cands[n].weight >= p.MinP*s.cands[0].weight {
			n++
		}
		s.cands = s.cands[:n]
	}
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

// draw picks by the cumulative weights; u is in [0, 1).
func (s *Sampler) draw(u float64) int32 {
	var total float64
	for _, c := range s.cands {
		total += c.weight
	}
	target := u * total
	var sum float64
	for _, c := range s.cands {
		if sum += c.weight; sum > target {
			return c.id
		}
	}
	return s.cands[len(s.cands)-1].id
}

// ArgMax gives the lowest index of the largest value; NaN is below all others.
func ArgMax(v []float32) int32 {
	best := 0
	for i, x := range v {
		if x > v[best] || v[best] != v[best] && x == x {
			best = i
		}
	}
	return int32(best)
}

// Uniform gives a number in [0, 1) for the n-th draw under a seed: SplitMix64
// (Steele, Lea, Flood 2014) used as a counter, so that any draw is reached
// without the ones before it.
func Uniform(seed, n uint64) float64 {
	z := mix(seed) + (n+1)*0x9E3779B97F4A7C15
	return float64(mix(z)>>11) / (1 << 53)
}

func mix(z uint64) uint64 {
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
	z = (z ^ (z >> 27)) * 0x94D049BB133111EB
	return z ^ (z >> 31)
}
