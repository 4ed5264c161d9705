package sample

import (
	"cmp"
	"slices"

	"chorale/worker/tensor"
)

// Params are a sequence's sampling parameters.
type Params struct {
	Temperature       float64 // < tensor.GreedyBelow: most likely token
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
	Bans      []int32 // distinct
}

// penalised tells whether p needs to know the tokens.
func (p *Params) penalised() bool {
	return p.FrequencyPenalty != 0 || p.PresencePenalty != 0 || p.RepetitionPenalty != 1
}

// Counts keeps a sequence's changes to single logits: its bias, and how often
// tokens occurred, for the penalties.
type Counts struct {
	list      []tensor.Adjust // by id
	penalised bool
}

// NewCounts starts the counts of a sequence; nil when p needs none.
func NewCounts(p *Params, prompt []int32) *Counts {
	c := &Counts{penalised: p.penalised()}
	if !c.penalised && len(p.LogitBias) == 0 {
		return nil
	}
	if p.RepetitionPenalty != 1 {
		for _, id := range prompt {
			c.list = append(c.list, tensor.Adjust{ID: id, Seen: true})
		}
		slices.SortFunc(c.list, func(a, b tensor.Adjust) int { return cmp.Compare(a.ID, b.ID) })
		c.list = slices.Compact(c.list)
	}
	for id, b := range p.LogitBias {
		c.at(id).Bias = float32(b)
	}
	return c
}

// at finds the entry of a token, which is made when there is none.
func (c *Counts) at(id int32) *tensor.Adjust {
	i, ok := slices.BinarySearchFunc(c.list, id, func(a tensor.Adjust, id int32) int { return cmp.Compare(a.ID, id) })
	if !ok {
		c.list = slices.Insert(c.list, i, tensor.Adjust{ID: id})
	}
	return &c.list[i]
}

// Add counts a generated token. A nil c counts nothing.
func (c *Counts) Add(id int32) {
	if c != nil && c.penalised {
		a := c.at(id)
		a.Count, a.Seen = a.Count+1, true
	}
}

// Counted tells whether tokens that are drawn change what later rows ask: then a
// row must be told of one that Add does not know yet, by its Last.
func (c *Counts) Counted() bool { return c != nil && c.penalised }

// Row writes what the token after `generated` tokens of an answer asks of its
// logits. The row shares c's memory until the next Add.
func (p *Params) Row(r *tensor.SampleRow, c *Counts, generated int) {
	*r = tensor.SampleRow{
		Temperature: p.Temperature, TopK: p.TopK, TopP: p.TopP, MinP: p.MinP,
		Repetition: float32(p.RepetitionPenalty), Frequency: float32(p.FrequencyPenalty), Presence: float32(p.PresencePenalty),
		U: Uniform(p.Seed, uint64(generated)),
	}
	if c != nil {
		r.Adjust = c.list
	}
	if generated < p.MinTokens {
		r.Ban = p.Bans
	}
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
