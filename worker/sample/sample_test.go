package sample

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"chorale/worker/tensor"
)

var inf = float32(math.Inf(1))

// plain gives parameters that change nothing.
func plain() Params { return Params{Temperature: 1, TopP: 1, TopK: -1, RepetitionPenalty: 1} }

// reference computes the distribution that Params describe, in float64 and
// without any shortcut. adjusted are the logits after bias, penalties and bans.
func reference(logits []float32, p *Params, prompt, generated []int32) (adjusted, probs []float64) {
	l := make([]float64, len(logits))
	for i, v := range logits {
		l[i] = float64(v)
	}
	for id, b := range p.LogitBias {
		l[id] += b
	}
	count := map[int32]int{}
	for _, id := range generated {
		count[id]++
	}
	for id := range l {
		n, seen := count[int32(id)]
		if seen || slices.Contains(prompt, int32(id)) {
			if l[id] > 0 {
				l[id] /= p.RepetitionPenalty
			} else {
				l[id] *= p.RepetitionPenalty
			}
		}
		if seen {
			l[id] -= p.FrequencyPenalty*float64(n) + p.PresencePenalty
		}
	}
	if len(generated) < p.MinTokens {
		for _, id := range p.Bans {
			l[id] = math.Inf(-1)
		}
	}
	order := make([]int, len(l))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(l[b], l[a]) })
	if p.TopK > 0 {
		order = order[:min(p.TopK, len(order))]
	}
	w := make([]float64, len(order))
	for i, id := range order {
		w[i] = math.Exp((l[id] - l[order[0]]) / p.Temperature)
	}
	if p.TopP < 1 {
		sum, n := 0.0, 0
		for total := total(w); n < len(w); n++ {
			if sum += w[n]; sum >= p.TopP*total {
				n++
				break
			}
		}
		w = w[:n]
	}
	keep := 0
	for keep < len(w) && w[keep] >= p.MinP*w[0] {
		keep++
	}
	probs = make([]float64, len(l))
	for i, sum := 0, total(w[:keep]); i < keep; i++ {
		probs[order[i]] = w[i] / sum
	}
	return l, probs
}

func total(w []float64) float64 {
	sum := 0.0
	for _, v := range w {
		sum += v
	}
	return sum
}

// next is one draw with a sequence's parameters.
func next(s *Sampler, logits []float32, argmax int32, p *Params, c *Counts, generated int) int32 {
	var r tensor.SampleRow
	p.Row(&r, c, generated)
	return s.next(logits, argmax, &r, -1)
}

// distribution makes the sampler tell the probabilities it draws from.
func distribution(logits []float32, p *Params, c *Counts, generated int) []float64 {
	var s Sampler
	l := slices.Clone(logits)
	next(&s, l, ArgMax(l), p, c, generated)
	probs := make([]float64, len(l))
	if p.Temperature < tensor.GreedyBelow || p.TopK == 1 || len(s.cands) == 0 {
		return probs
	}
	sum := 0.0
	for _, c := range s.cands {
		sum += c.weight
	}
	for _, c := range s.cands {
		probs[c.id] = c.weight / sum
	}
	return probs
}

// near tells whether some border (top-p's sum, min-p's weight, a tie made by
// float32) lies so close that rounding decides; such cases prove nothing.
func near(adjusted []float64, p *Params) bool {
	s := slices.Sorted(slices.Values(adjusted))
	slices.Reverse(s)
	for i := 1; i < len(s); i++ {
		if d := s[i-1] - s[i]; d != 0 && d < 1e-5*max(1, math.Abs(s[i])) {
			return true
		}
	}
	w := make([]float64, 0, len(s))
	for i, v := range s {
		if p.TopK <= 0 || i < p.TopK {
			w = append(w, math.Exp((v-s[0])/p.Temperature))
		}
	}
	sum, all := 0.0, total(w)
	for _, v := range w {
		sum += v
		if math.Abs(sum-p.TopP*all) < 1e-4*all && p.TopP < 1 || p.MinP > 0 && math.Abs(v-p.MinP) < 1e-4 {
			return true
		}
	}
	return false
}

// TestReference compares the distribution drawn from with the naive one.
func TestReference(t *testing.T) {
	compared := 0
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "vocab")
		id := rapid.Int32Range(0, int32(n-1))
		logits := make([]float32, n)
		for i := range logits {
			logits[i] = rapid.OneOf(
				rapid.Float32Range(-12, 12),
				rapid.SampledFrom([]float32{0, 1, 1, -30, 4, -inf}),
			).Draw(t, "logit")
		}
		p := plain()
		p.Temperature = rapid.SampledFrom([]float64{0.05, 0.3, 0.7, 1, 1.3, 5, 100}).Draw(t, "temperature")
		p.TopK = rapid.SampledFrom([]int{-1, 0, 2, 3, 10, 50}).Draw(t, "top k")
		p.TopP = rapid.SampledFrom([]float64{1, 0.95, 0.7, 0.3, 0.01}).Draw(t, "top p")
		p.MinP = rapid.SampledFrom([]float64{0, 0.001, 0.05, 0.5, 1}).Draw(t, "min p")
		p.RepetitionPenalty = rapid.SampledFrom([]float64{1, 1.2, 2, 0.5}).Draw(t, "repetition")
		p.FrequencyPenalty = rapid.SampledFrom([]float64{0, 0.5, -1}).Draw(t, "frequency")
		p.PresencePenalty = rapid.SampledFrom([]float64{0, 1.5, -0.5}).Draw(t, "presence")
		p.LogitBias = rapid.MapOfN(id, rapid.Float64Range(-20, 20), 0, 3).Draw(t, "bias")
		p.Bans = rapid.SliceOfN(id, 0, 3).Draw(t, "bans")
		p.MinTokens = rapid.IntRange(0, 3).Draw(t, "min tokens")
		prompt := rapid.SliceOfN(id, 0, 6).Draw(t, "prompt")
		generated := rapid.SliceOfN(id, 0, 6).Draw(t, "generated")
		c := NewCounts(&p, prompt)
		for _, g := range generated {
			c.Add(g)
		}
		adjusted, want := reference(logits, &p, prompt, generated)
		if math.IsInf(slices.Max(adjusted), -1) || near(adjusted, &p) {
			return
		}
		compared++
		got := distribution(logits, &p, c, len(generated))
		for i := range want {
			if math.Abs(got[i]-want[i]) > 2e-4 {
				t.Fatalf("token %d has probability %v, want %v\nlogits %v\nparams %+v", i, got[i], want[i], logits, p)
			}
		}
	})
	if compared < 20 {
		t.Errorf("only %d cases could be compared", compared)
	}
}

// TestOrder spells single operations out, with the numbers of a calculator.
func TestOrder(t *testing.T) {
	logits := []float32{2, 1, 0, -1}
	for _, tt := range []struct {
		name string
		p    func(*Params)
		want []float64
	}{
		{"all", func(*Params) {}, []float64{0.6439, 0.2369, 0.0871, 0.0321}},
		{"temperature 2", func(p *Params) { p.Temperature = 2 }, []float64{0.4551, 0.2760, 0.1674, 0.1015}},
		{"top k", func(p *Params) { p.TopK = 2 }, []float64{0.7311, 0.2689, 0, 0}},
		{"top p takes the token that reaches it", func(p *Params) { p.TopP = 0.65 }, []float64{0.7311, 0.2689, 0, 0}},
		{"top p of what top k left", func(p *Params) { p.TopK, p.TopP = 2, 0.73 }, []float64{1, 0, 0, 0}},
		{"min p", func(p *Params) { p.MinP = 0.13 }, []float64{0.6652, 0.2447, 0.0900, 0}},
		{"bias before all", func(p *Params) { p.LogitBias = map[int32]float64{3: 100}; p.TopP = 0.9 }, []float64{0, 0, 0, 1}},
		{"bans end with min tokens", func(p *Params) { p.MinTokens, p.Bans = 0, []int32{0} }, []float64{0.6439, 0.2369, 0.0871, 0.0321}},
		{"bans", func(p *Params) { p.MinTokens, p.Bans = 1, []int32{0} }, []float64{0, 0.6652, 0.2447, 0.0900}},
	} {
		p := plain()
		tt.p(&p)
		got := distribution(logits, &p, NewCounts(&p, nil), 0)
		for i := range got {
			if math.Abs(got[i]-tt.want[i]) > 1e-4 {
				t.Errorf("%s: %.4f, want %v", tt.name, got, tt.want)
				break
			}
		}
	}
}

// TestTies: at every border equal logits go to lower ids.
func TestTies(t *testing.T) {
	logits := []float32{1, 3, 3, 3, 3}
	for _, tt := range []struct {
		name string
		p    func(*Params)
		want []int
	}{
		{"top k", func(p *Params) { p.TopK = 2 }, []int{1, 2}},
		{"top p", func(p *Params) { p.TopP = 0.5 }, []int{1, 2, 3}}, // 0 has a share too
		{"min p keeps equals", func(p *Params) { p.MinP = 1 }, []int{1, 2, 3, 4}},
	} {
		p := plain()
		tt.p(&p)
		var got []int
		for i, v := range distribution(logits, &p, nil, 0) {
			if v > 0 {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	greedy := plain()
	greedy.Temperature = 0
	if got := next(new(Sampler), slices.Clone(logits), ArgMax(logits), &greedy, nil, 0); got != 1 {
		t.Errorf("greedy takes %d, want 1", got)
	}
}

// TestStrangeLogits: what a broken model or adapter gives must never end the
// worker, nor yield a token outside the vocabulary; where some logits are
// sound, one of theirs is taken.
func TestStrangeLogits(t *testing.T) {
	nan := float32(math.NaN())
	for name, tt := range map[string]struct {
		logits []float32
		want   []int32 // nil: any
	}{
		"all equal":            {[]float32{5, 5, 5}, nil},
		"all -inf":             {[]float32{-inf, -inf, -inf}, nil},
		"one left":             {[]float32{-inf, 0, -inf}, []int32{1}},
		"+inf":                 {[]float32{0, inf, 1}, []int32{1}},
		"two +inf":             {[]float32{0, inf, inf}, []int32{1, 2}},
		"all NaN":              {[]float32{nan, nan, nan}, nil},
		"NaN first":            {[]float32{nan, 1, -inf}, []int32{1}},
		"NaN last":             {[]float32{-inf, 1, nan}, []int32{1}},
		"NaN and +inf":         {[]float32{nan, 1, inf}, []int32{2}},
		"NaN and -inf":         {[]float32{nan, -inf, nan}, nil},
		"huge":                 {[]float32{math.MaxFloat32, -math.MaxFloat32, 0}, []int32{0}},
		"denormal differences": {[]float32{0, math.SmallestNonzeroFloat32, 0}, nil},
		"single":               {[]float32{-7}, []int32{0}},
	} {
		for _, p := range strangeParams() {
			for argmax := range tt.logits { // a device's own argmax may be misled by NaN
				for gen := range 3 {
					c := NewCounts(&p, []int32{0})
					got := next(new(Sampler), slices.Clone(tt.logits), int32(argmax), &p, c, gen)
					if int(got) >= len(tt.logits) || got < 0 {
						t.Fatalf("%s: token %d, params %+v", name, got, p)
					}
					sound := ArgMax(tt.logits) == int32(argmax) || tt.logits[argmax] != tt.logits[argmax]
					if tt.want != nil && len(p.Bans) == 0 && sound && !slices.Contains(tt.want, got) {
						t.Errorf("%s: token %d, want one of %v, params %+v", name, got, tt.want, p)
					}
				}
			}
		}
	}
}

func strangeParams() []Params {
	var out []Params
	for _, temp := range []float64{0, 1e-6, 1e-3, 1, 100} {
		for _, minP := range []float64{0, 0.1, 1} {
			for _, topP := range []float64{1, 0.5, 1e-9} {
				for _, topK := range []int{-1, 1, 2} {
					p := Params{Temperature: temp, TopP: topP, TopK: topK, MinP: minP, RepetitionPenalty: 1}
					out = append(out, p)
					p.RepetitionPenalty, p.PresencePenalty = 2, 2
					p.Bans, p.MinTokens = []int32{0, 1, 2, 99, -1}, 2
					p.LogitBias = map[int32]float64{0: 100, 77: 1, -1: 1}
					out = append(out, p)
				}
			}
		}
	}
	return out
}

// TestTemperatures: near 0 only the best is left, at 100 all are alike.
func TestTemperatures(t *testing.T) {
	logits := []float32{1, 1.001, 0.5, 3, 2.9999, -4}
	p := plain()
	p.Temperature = tensor.GreedyBelow
	for seed := range uint64(100) {
		p.Seed = seed
		if got := next(new(Sampler), slices.Clone(logits), 3, &p, nil, 0); got != 3 {
			t.Fatalf("temperature %v took token %d", p.Temperature, got)
		}
	}
	p.Temperature = 100
	for i, v := range distribution(logits, &p, nil, 0) {
		if math.Abs(v-1.0/6) > 0.02 {
			t.Errorf("token %d has probability %v at temperature 100", i, v)
		}
	}
	p.Temperature = tensor.GreedyBelow / 2
	if r := (tensor.SampleRow{Temperature: p.Temperature}); !r.Greedy() {
		t.Error("half of tensor.GreedyBelow is not greedy")
	}
}

// chiSquare of drawn counts against probabilities.
func chiSquare(counts []int, probs []float64, n int) float64 {
	x := 0.0
	for i, c := range counts {
		e := probs[i] * float64(n)
		x += (float64(c) - e) * (float64(c) - e) / e
	}
	return x
}

// TestDraws: the draws of one sequence, and those of many seeds at one
// position, follow the distribution. The bounds are the 99.9 % quantiles of
// chi-square; the seeds are fixed.
func TestDraws(t *testing.T) {
	logits := []float32{1, 0, 2, -1, 0.5, 0.5}
	p := plain()
	p.Temperature = 0.8
	_, probs := reference(logits, &p, nil, nil)
	const n = 50_000
	var s Sampler
	for name, draw := range map[string]func(i int) (seed uint64, at int){
		"positions":       func(i int) (uint64, int) { return 42, i },
		"seeds":           func(i int) (uint64, int) { return uint64(i), 7 },
		"spread seeds":    func(i int) (uint64, int) { return uint64(i) * 0x9E3779B97F4A7C15, 0 },
		"high seeds":      func(i int) (uint64, int) { return uint64(i) << 44, 3 },
		"seed 0":          func(i int) (uint64, int) { return 0, i },
		"seeds+positions": func(i int) (uint64, int) { return uint64(i % 100), i / 100 },
	} {
		counts := make([]int, len(logits))
		for i := range n {
			var at int
			p.Seed, at = draw(i)
			counts[next(&s, logits, 2, &p, nil, at)]++
		}
		if x := chiSquare(counts, probs, n); x > 20.5 { // 5 degrees of freedom
			t.Errorf("%s: chi-square %v, counts %v", name, x, counts)
		}
	}
}

// TestUniform: range, buckets, and no correlation between neighbours.
func TestUniform(t *testing.T) {
	const n = 100_000
	for name, u := range map[string]func(i uint64) float64{
		"positions": func(i uint64) float64 { return Uniform(1, i) },
		"seeds":     func(i uint64) float64 { return Uniform(i, 0) },
		// The seeds that a router gives to the n answers of one request.
		"answers": func(i uint64) float64 { return Uniform(99+(i%8)*0x9E3779B97F4A7C15, i/8) },
	} {
		counts, probs := make([]int, 64), make([]float64, 64)
		for i := range probs {
			probs[i] = 1.0 / 64
		}
		var corr, last float64
		for i := range uint64(n) {
			v := u(i)
			if v < 0 || v >= 1 {
				t.Fatalf("%s: %v is outside [0, 1)", name, v)
			}
			counts[int(v*64)]++
			corr += (v - 0.5) * (last - 0.5)
			last = v
		}
		if x := chiSquare(counts, probs, n); x > 103.4 { // 63 degrees of freedom, 99.9 %
			t.Errorf("%s: chi-square %v", name, x)
		}
		if r := corr / n * 12; math.Abs(r) > 0.0125 {
			t.Errorf("%s: neighbours correlate by %v", name, r)
		}
	}
}

// TestDeterminism: a token is a function of logits, parameters, seed and
// position, whatever the sampler did before.
func TestDeterminism(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var used Sampler
	for i := range 200 {
		logits := make([]float32, 100)
		for j := range logits {
			logits[j] = float32(rng.NormFloat64() * 3)
		}
		p := plain()
		p.Seed, p.TopP, p.TopK = uint64(i), 0.9, 20+i%3
		want := next(new(Sampler), slices.Clone(logits), ArgMax(logits), &p, nil, i)
		if got := next(&used, slices.Clone(logits), ArgMax(logits), &p, nil, i); got != want {
			t.Fatalf("draw %d: %d after others, %d alone", i, got, want)
		}
	}
}

// TestGreedy: with any logits, greedy and top-k 1 are the argmax.
func TestGreedy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logits := rapid.SliceOfN(rapid.Float32(), 1, 30).Draw(t, "logits")
		want := 0
		for i, v := range logits {
			if v > logits[want] {
				want = i
			}
		}
		for _, p := range []Params{{RepetitionPenalty: 1}, {Temperature: 3, TopK: 1, RepetitionPenalty: 1}} {
			if got := next(new(Sampler), slices.Clone(logits), ArgMax(logits), &p, nil, 0); int(got) != want {
				t.Fatalf("token %d, want %d", got, want)
			}
		}
	})
}

// TestLogprobs compares the top k with a full sort.
func TestLogprobs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logits := rapid.SliceOfN(rapid.OneOf(rapid.Float32Range(-9, 9), rapid.SampledFrom([]float32{0, 1, -inf})), 1, 60).Draw(t, "logits")
		k := rapid.IntRange(0, 20).Draw(t, "k")
		sum := 0.0
		for _, v := range logits {
			sum += math.Exp(float64(v))
		}
		lse := float32(math.Log(sum))
		if sum == 0 {
			return // there are no probabilities
		}
		order := make([]int32, len(logits))
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) })
		id := rapid.Int32Range(0, int32(len(logits)-1)).Draw(t, "id")
		got := Logprobs(logits, lse, id, k, []int32{0, id})
		if len(got.Top) != min(k, len(logits)) || got.ID != id || !got.Known || len(got.Requested) != 2 || got.Requested[1].Logprob != got.Logprob {
			t.Fatalf("%+v", got)
		}
		for i, e := range got.Top {
			if e.ID != order[i] || e.Logprob != float64(logits[e.ID])-float64(lse) {
				t.Fatalf("place %d has token %d (%v), want %d", i, e.ID, e.Logprob, order[i])
			}
		}
	})
	nan := float32(math.NaN())
	for _, logits := range [][]float32{{nan, 1, 2, 3}, {3, nan, 2, 1, nan}, {1, 2, nan, 3, nan}} {
		var got []float32
		for _, id := range topIDs(logits, 3) {
			got = append(got, logits[id])
		}
		if !slices.Equal(got, []float32{3, 2, 1}) {
			t.Errorf("top 3 of %v: %v", logits, got)
		}
	}
}
