package figure

import (
	"math"
	"slices"
)

// Dist sums up a distribution; times are seconds. N is 0 when there was
// nothing, and the rest 0 then.
type Dist struct {
	N    int     `json:"n"`
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
}

// Summary sorts xs and sums it up.
func Summary(xs []float64) Dist {
	if len(xs) == 0 {
		return Dist{}
	}
	slices.Sort(xs)
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return Dist{
		N: len(xs), Mean: sum / float64(len(xs)), P50: Quantile(xs, .5), P90: Quantile(xs, .9),
		P95: Quantile(xs, .95), P99: Quantile(xs, .99), Max: xs[len(xs)-1],
	}
}

// Quantile interpolates linearly between closest ranks of sorted xs (Hyndman
// and Fan's type 7, numpy's default). NaN when xs is empty.
func Quantile(xs []float64, q float64) float64 {
	if len(xs) == 0 {
		return math.NaN()
	}
	at := q * float64(len(xs)-1)
	i := int(at)
	if i >= len(xs)-1 {
		return xs[len(xs)-1]
	}
	return xs[i] + (at-float64(i))*(xs[i+1]-xs[i])
}

// Spread is a value over rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// SpreadOf is the median and the range of xs.
func SpreadOf(xs []float64) Spread {
	if len(xs) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(xs))
	return Spread{Median: Quantile(s, .5), Min: s[0], Max: s[len(s)-1]}
}

// Median of xs, which it leaves as they are; NaN when there are none.
func Median(xs []float64) float64 { return Quantile(slices.Sorted(slices.Values(xs)), .5) }

// Jain is Jain's fairness index of what n parties got, (Σx)²/(n·Σx²): 1 when all
// got the same, 1/n when one got everything; 1 of nothing.
func Jain(xs []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, x := range xs {
		sum, squares = sum+x, squares+x*x
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(xs)) * squares)
}
