package bench

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// ErrConfig marks settings that cannot be measured with.
var ErrConfig = errors.New("bench: bad setting")

// gaps draws waiting times with mean 1/rate and coefficient of variation cv:
// Gamma(shape 1/cv², scale cv²/rate); cv 1 is a Poisson process, cv 0 a clock.
type gaps struct {
	rng      *rand.Rand
	rate, cv float64
}

// next is the time to the next request, in seconds.
func (g *gaps) next() float64 {
	if g.cv == 0 {
		return 1 / g.rate
	}
	v := g.cv * g.cv
	return gamma(g.rng, 1/v) * v / g.rate
}

// gamma draws from Gamma(shape, 1) by Marsaglia and Tsang, "A simple method
// for generating gamma variables" (ACM TOMS 26:3, 2000).
func gamma(rng *rand.Rand, shape float64) float64 {
	if shape < 1 {
		// Gamma(k) = Gamma(k+1)·U^(1/k); 1−U is never 0.
		return gamma(rng, shape+1) * math.Pow(1-rng.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rng.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		u := 1 - rng.Float64()
		if math.Log(u) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// power draws an adapter of n by S-LoRA's power law: ⌊n·U^(1/α)⌋. α = 1 is
// uniform; the smaller α, the more go to the first.
func power(rng *rand.Rand, n int, alpha float64) int {
	return min(n-1, int(float64(n)*math.Pow(rng.Float64(), 1/alpha)))
}

// Lengths are how many tokens prompts or answers have: Lo when Hi is Lo or 0,
// else uniform in [Lo, Hi).
type Lengths struct {
	Lo int `json:"lo"`
	Hi int `json:"hi"`
}

// ParseLengths reads "N" or "LO:HI" (HI excluded).
func ParseLengths(s string) (Lengths, error) {
	lo, hi, ranged := strings.Cut(s, ":")
	l := Lengths{}
	var err error
	if l.Lo, err = strconv.Atoi(strings.TrimSpace(lo)); err == nil && ranged {
		l.Hi, err = strconv.Atoi(strings.TrimSpace(hi))
	}
	if err != nil || l.Lo < 1 || ranged && l.Hi <= l.Lo || l.max() > maxLength {
		return Lengths{}, fmt.Errorf("%w: length %q: want N or LO:HI with 1 ≤ LO < HI ≤ %d", ErrConfig, s, maxLength)
	}
	return l, nil
}

// maxLength bounds one prompt or answer.
const maxLength = 1 << 20

func (l Lengths) max() int { return max(l.Lo, l.Hi-1) }

func (l Lengths) draw(rng *rand.Rand) int {
	if l.Hi <= l.Lo {
		return l.Lo
	}
	return l.Lo + rng.IntN(l.Hi-l.Lo)
}

// String is what ParseLengths reads.
func (l Lengths) String() string {
	if l.Hi <= l.Lo {
		return strconv.Itoa(l.Lo)
	}
	return fmt.Sprintf("%d:%d", l.Lo, l.Hi)
}

// Pair is one request's lengths from a file.
type Pair struct {
	Prompt int `json:"prompt"`
	Output int `json:"output"`
}

// ParsePairs reads one pair of lengths a line, "PROMPT OUTPUT" separated by
// blanks or a comma; blank lines and lines that begin with # are skipped.
func ParsePairs(text string) ([]Pair, error) {
	var out []Pair
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
		p := Pair{}
		var err1, err2 error
		if len(f) == 2 {
			p.Prompt, err1 = strconv.Atoi(f[0])
			p.Output, err2 = strconv.Atoi(f[1])
		}
		if len(f) != 2 || err1 != nil || err2 != nil || p.Prompt < 1 || p.Output < 1 || p.Prompt > maxLength || p.Output > maxLength {
			return nil, fmt.Errorf("%w: lengths, line %d: %q: want PROMPT OUTPUT, both in [1, %d]", ErrConfig, i+1, line, maxLength)
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: lengths: the file has none", ErrConfig)
	}
	return out, nil
}
