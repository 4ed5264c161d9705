package bench

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// moments of n draws.
func moments(n int, draw func() float64) (mean, cv float64) {
	var sum, squares float64
	for range n {
		x := draw()
		sum += x
		squares += x * x
	}
	mean = sum / float64(n)
	return mean, math.Sqrt(squares/float64(n)-mean*mean) / mean
}

// TestGaps holds mean and coefficient of variation of the gaps to six standard
// errors, with fixed seeds. The variance of a sample of Gamma with cv c has
// relative standard error sqrt((2+6c²)/n) (its excess kurtosis is 6c²).
func TestGaps(t *testing.T) {
	const n = 200000
	for _, cv := range []float64{0, .25, .5, 1, 2, 4, 8} {
		g := gaps{rng: rand.New(rand.NewPCG(1, 2)), rate: 5, cv: cv}
		mean, got := moments(n, g.next)
		if tol := 6*cv/math.Sqrt(n) + 1e-9; math.Abs(mean*5-1) > tol {
			t.Errorf("cv %g: mean %g, want 0.2 within %g", cv, mean, tol/5)
		}
		if tol := 6*cv*math.Sqrt((2+6*cv*cv)/n)/2 + 1e-6; math.Abs(got-cv) > tol {
			t.Errorf("cv %g: got %g, tolerance %g", cv, got, tol)
		}
	}
}

// TestGammaDistribution compares quantiles with those of Gamma(1) (exponential)
// and of Gamma(1/2) (half a squared normal).
func TestGammaDistribution(t *testing.T) {
	const n = 100000
	for _, tt := range []struct {
		shape float64
		cdf   func(x float64) float64
	}{
		{1, func(x float64) float64 { return 1 - math.Exp(-x) }},
		{.5, func(x float64) float64 { return math.Erf(math.Sqrt(x)) }},
		{2, func(x float64) float64 { return 1 - math.Exp(-x)*(1+x) }},
	} {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, x := range []float64{.01, .1, .5, 1, 2, 4} {
			below := 0
			for range n {
				if gamma(rng, tt.shape) <= x {
					below++
				}
			}
			p := tt.cdf(x)
			if got, tol := float64(below)/n, 6*math.Sqrt(p*(1-p)/n); math.Abs(got-p) > tol {
				t.Errorf("shape %g: P(≤ %g) = %g, want %g ± %g", tt.shape, x, got, p, tol)
			}
		}
	}
}

// TestPower compares each adapter's share with P(i) = ((i+1)/n)^α − (i/n)^α.
func TestPower(t *testing.T) {
	const draws = 200000
	for _, n := range []int{1, 2, 10, 100} {
		for _, alpha := range []float64{.1, .5, 1, 2} {
			rng, count := rand.New(rand.NewPCG(5, 6)), make([]int, n)
			for range draws {
				count[power(rng, n, alpha)]++
			}
			for i, c := range count {
				p := math.Pow(float64(i+1)/float64(n), alpha) - math.Pow(float64(i)/float64(n), alpha)
				if got, tol := float64(c)/draws, 6*math.Sqrt(p*(1-p)/draws)+1e-5; math.Abs(got-p) > tol {
					t.Errorf("n %d α %g: share of %d is %g, want %g ± %g", n, alpha, i, got, p, tol)
				}
			}
		}
	}
}

func TestLengths(t *testing.T) {
	for s, want := range map[string]Lengths{"128": {Lo: 128}, "8:512": {8, 512}, " 1 : 2 ": {1, 2}} {
		got, err := ParseLengths(s)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0", "-1", "x", "5:5", "9:8", "1:", ":4", "1:2:3", "99999999", "1.5"} {
		if _, err := ParseLengths(s); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: error %v, want ErrConfig", s, err)
		}
	}
	rng, seen := rand.New(rand.NewPCG(7, 8)), map[int]int{}
	l := Lengths{8, 12}
	for range 4000 {
		seen[l.draw(rng)]++
	}
	for i := 8; i < 12; i++ {
		if seen[i] < 850 || seen[i] > 1150 {
			t.Errorf("%d drawn %d times of 4000", i, seen[i])
		}
	}
	if len(seen) != 4 || l.String() != "8:12" || (Lengths{Lo: 3}).String() != "3" || (Lengths{Lo: 3}).draw(rng) != 3 {
		t.Errorf("seen %v", seen)
	}
}

func TestParsePairs(t *testing.T) {
	got, err := ParsePairs("# prompt output\n12 34\n\n 5,6 \r\n7,\t8\n")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Pair{{12, 34}, {5, 6}, {7, 8}}, got); d != "" {
		t.Error(d)
	}
	for _, s := range []string{"", "# only\n", "1", "1 2 3", "0 1", "1 -1", "a b", "1 9999999"} {
		if _, err := ParsePairs(s); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: error %v, want ErrConfig", s, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("8:512")
	f.Add("1 2\n3,4")
	f.Add("a=http://h:1,api=llama,pid=7,adapters=x:y")
	f.Fuzz(func(t *testing.T, s string) {
		if l, err := ParseLengths(s); err == nil {
			if again, err := ParseLengths(l.String()); err != nil || again.max() != l.max() || again.Lo != l.Lo {
				t.Errorf("%q: %v is read as %v, %v", s, l, again, err)
			}
		}
		if ps, err := ParsePairs(s); err == nil && len(ps) == 0 {
			t.Errorf("%q: no pair and no error", s)
		}
		if tg, err := ParseTarget(s, TargetSpec{API: "chorale"}); err == nil && (tg.Name == "" || tg.URL == "") {
			t.Errorf("%q: %+v", s, tg)
		}
	})
}
