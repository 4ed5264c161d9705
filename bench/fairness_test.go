package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// steady is a request whose tokens come once a second from first on.
func steady(adapter string, due, first float64, prompt, tokens int) Sample {
	s := Sample{Adapter: adapter, PromptTokens: prompt, Asked: tokens, Due: due, Sent: due}
	for i := range tokens {
		s.Tokens = append(s.Tokens, first+float64(i))
	}
	s.Done = s.last()
	return s
}

// TestFairnessOfEquals: two adapters that get the same are even, and nobody
// waits long enough for a gap.
func TestFairnessOfEquals(t *testing.T) {
	var run []Sample
	for i := range 10 {
		run = append(run, steady("a", float64(i), float64(i)+.5, 10, 5), steady("b", float64(i), float64(i)+.5, 10, 5))
	}
	f := fairness(run)
	near(t, "jain", f.Jain, 1)
	if f.Adapters != 2 || f.Windows != 0 || f.Gap != 0 || f.Heavy.N != 10 || f.Light.N != 10 {
		t.Errorf("%+v", f)
	}
}

// TestFairnessOfStarving: both always have a request waiting; a is served, b is
// not until the end.
func TestFairnessOfStarving(t *testing.T) {
	var run []Sample
	for i := range 21 {
		due := float64(i)
		run = append(run, steady("a", due, due+1.5, 4, 3), steady("b", due, 100+due, 4, 3))
	}
	f := fairness(run)
	// Demand of both: requests due before 16 s, 16 of 4 + 2·3 = 10 each. By 20 s
	// all of a's are served, none of b's.
	near(t, "jain", f.Jain, .5)
	// In a window of 5 s: 5 first tokens of 4, and 15 tokens of 2, but for the
	// first window and the second, whose begin has fewer.
	near(t, "gap", f.Gap, (5*4+15*2)/5.0)
	if f.Windows != 16 || f.GapMean <= 0 || f.GapMean >= f.Gap {
		t.Errorf("%d windows, mean %g", f.Windows, f.GapMean)
	}
}

func TestFairnessWeights(t *testing.T) {
	run := []Sample{
		steady("a", 0, 1, 1, 1), steady("a", 0, 2, 1, 1), steady("a", 0, 3, 1, 1),
		steady("b", 0, 10, 1, 1), steady("", 0, 20, 1, 1),
		{Adapter: "c", Error: "x", Done: 1},
	}
	f := fairness(run)
	if f.Adapters != 4 || f.Heavy.N != 3 || f.Heavy.Max != 3 || f.Light.N != 2 || f.Light.Max != 20 {
		t.Errorf("%+v", f)
	}
	if f := fairness(nil); f.Adapters != 0 || f.Jain != 1 {
		t.Errorf("of nothing: %+v", f)
	}
}

func TestMerged(t *testing.T) {
	a, b, c := steady("a", 0, 2, 1, 1), steady("a", 1, 4, 1, 1), Sample{Adapter: "a", Due: 5, Done: 6}
	got := merged([]*Sample{&c, &b, &a})
	if d := cmp.Diff([]span{{0, 4}, {5, 6}}, got, cmp.AllowUnexported(span{})); d != "" {
		t.Error(d)
	}
}
