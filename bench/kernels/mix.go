package kernels

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Mix says how rows share adapters.
type Mix string

// The mixes.
const (
	Distinct  Mix = "distinct"
	Uniform   Mix = "uniform"
	Skewed    Mix = "skewed"
	Identical Mix = "identical"
)

// Mixes lists them.
var Mixes = []Mix{Distinct, Uniform, Skewed, Identical}

// skew is by how much an adapter has more rows than the next.
const skew = 1.5

// Rows gives the rows of each adapter of a batch of b; they sum to b.
func (m Mix) Rows(b int) []int {
	switch m {
	case Distinct:
		return even(b, b)
	case Uniform:
		return even(b, int(math.Ceil(math.Sqrt(float64(b)))))
	case Skewed:
		var out []int
		for left := b; left > 0; {
			n := int(math.Ceil(float64(left) * (1 - 1/skew)))
			out, left = append(out, n), left-n
		}
		return out
	}
	return even(b, 1)
}

// even deals b rows to d adapters.
func even(b, d int) []int {
	out := make([]int, d)
	for i := range out {
		out[i] = (i+1)*b/d - i*b/d
	}
	return out
}

// Ranks are the ranks of a batch's adapters, in turn: one for all, or several
// mixed.
type Ranks []int

// ParseRanks reads "16" or "8+64".
func ParseRanks(s string) (Ranks, error) {
	var out Ranks
	for _, f := range strings.Split(s, "+") {
		n, err := strconv.Atoi(strings.TrimSpace(f))
		if err != nil || n < 1 || n > maxRank {
			return nil, fmt.Errorf("%w: rank %q: want N, or N+N+… for a mix, each in [1, %d]", ErrConfig, s, maxRank)
		}
		out = append(out, n)
	}
	return out, nil
}

// maxRank is the largest that backends compute.
const maxRank = 512

// Of is the rank of adapter i.
func (r Ranks) Of(i int) int { return r[i%len(r)] }

// Sum is Σ rank over the first d adapters.
func (r Ranks) Sum(d int) int {
	n := 0
	for i := range d {
		n += r.Of(i)
	}
	return n
}

// Max is the largest rank.
func (r Ranks) Max() int {
	n := 0
	for _, v := range r {
		n = max(n, v)
	}
	return n
}

// String is what ParseRanks reads.
func (r Ranks) String() string {
	var s []string
	for _, v := range r {
		s = append(s, strconv.Itoa(v))
	}
	return strings.Join(s, "+")
}

// MarshalText writes String.
func (r Ranks) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads String.
func (r *Ranks) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRanks(string(b))
	return err
}
