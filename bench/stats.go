package bench

import (
	"math"
	"slices"
)

// Dist sums up a distribution; all values are seconds. N is 0 when there was
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

// dist sorts xs and sums it up.
func dist(xs []float64) Dist {
	if len(xs) == 0 {
		return Dist{}
	}
	slices.Sort(xs)
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return Dist{
		N: len(xs), Mean: sum / float64(len(xs)), P50: quantile(xs, .5), P90: quantile(xs, .9),
		P95: quantile(xs, .95), P99: quantile(xs, .99), Max: xs[len(xs)-1],
	}
}

// quantile interpolates linearly between closest ranks of sorted xs (Hyndman
// and Fan's type 7, numpy's default). NaN when xs is empty.
func quantile(xs []float64, q float64) float64 {
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

func spread(xs []float64) Spread {
	if len(xs) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(xs))
	return Spread{Median: quantile(s, .5), Min: s[0], Max: s[len(s)-1]}
}

// Sample is one request as its client saw it. Times are seconds since its
// run's start.
type Sample struct {
	Client  int    `json:"client"`
	Adapter string `json:"adapter"` // "" is the base model
	// PromptTokens is what was sent, or what the server counted of a text.
	PromptTokens int `json:"prompt_tokens"`
	Asked        int `json:"asked_tokens"`
	// Due is when it should have been sent, Sent when it was, Done when the
	// answer ended.
	Due  float64 `json:"due"`
	Sent float64 `json:"sent"`
	Done float64 `json:"done"`
	// Tokens are the arrivals, one per token.
	Tokens []float64 `json:"tokens"`
	Error  string    `json:"error,omitempty"`
	// Cut is set when the run's end came before the answer's.
	Cut bool `json:"cut,omitempty"`
}

func (s *Sample) ok() bool      { return s.Error == "" && !s.Cut && len(s.Tokens) > 0 }
func (s *Sample) ttft() float64 { return s.Tokens[0] - s.Due }
func (s *Sample) last() float64 { return s.Tokens[len(s.Tokens)-1] }

// tpot is 0 for answers of one token.
func (s *Sample) tpot() float64 {
	if len(s.Tokens) < 2 {
		return 0
	}
	return (s.last() - s.Tokens[0]) / float64(len(s.Tokens)-1)
}

// SLO is what a request must keep to count as good; 0 asks for nothing.
type SLO struct {
	// TTFT and TPOT in seconds.
	TTFT float64 `json:"ttft"`
	TPOT float64 `json:"tpot,omitempty"`
}

func (o SLO) met(s *Sample) bool {
	return s.ok() && (o.TTFT == 0 || s.ttft() <= o.TTFT) && (o.TPOT == 0 || s.tpot() <= o.TPOT)
}

// Metrics are the figures of one run, or of several pooled.
type Metrics struct {
	Requests int `json:"requests"`
	Errors   int `json:"errors"`
	// Cut off by the end of the time.
	Cut int `json:"cut"`
	// Short answers ended before the tokens that were asked for.
	Short        int `json:"short"`
	PromptTokens int `json:"prompt_tokens"`
	OutputTokens int `json:"output_tokens"`
	// Wall is from the start to the last token, in seconds.
	Wall              float64 `json:"wall"`
	RequestsPerSecond float64 `json:"requests_per_second"`
	OutputPerSecond   float64 `json:"output_tokens_per_second"`
	TotalPerSecond    float64 `json:"total_tokens_per_second"`
	// DecodePerSecond is tokens after the first over the time since the earliest
	// first token: it depends on how prompts fall into steps.
	DecodePerSecond float64 `json:"decode_tokens_per_second"`
	TTFT            Dist    `json:"ttft"`
	TPOT            Dist    `json:"tpot"`
	ITL             Dist    `json:"itl"`
	E2E             Dist    `json:"e2e"`
	// SLO is the share of all requests that kept it, Goodput those per second.
	SLO     float64 `json:"slo_attainment"`
	Goodput float64 `json:"goodput_requests_per_second"`
	// Late is the longest time between due and sent: more than some
	// milliseconds means that this client, not the server, was too slow (or held
	// back by the limit of requests in flight).
	Late float64 `json:"late"`
	// CPU seconds of the server's process, if it was named.
	CPU *float64 `json:"cpu_seconds,omitempty"`
}

// measure computes the figures of runs, pooled; walls add up.
func measure(runs [][]Sample, slo SLO) Metrics {
	var m Metrics
	var ttft, tpot, itl, e2e []float64
	good, decoded, decoding := 0, 0, 0.0
	for _, run := range runs {
		end, first := 0.0, math.Inf(1)
		for i := range run {
			s := &run[i]
			m.add(s)
			if len(s.Tokens) > 0 {
				end, first = max(end, s.last()), min(first, s.Tokens[0])
				decoded += len(s.Tokens) - 1
			}
			if slo.met(s) {
				good++
			}
			if !s.ok() {
				continue
			}
			ttft, e2e = append(ttft, s.ttft()), append(e2e, s.last()-s.Due)
			if len(s.Tokens) > 1 {
				tpot = append(tpot, s.tpot())
			}
			for j := 1; j < len(s.Tokens); j++ {
				itl = append(itl, s.Tokens[j]-s.Tokens[j-1])
			}
		}
		m.Wall += end
		if first < end {
			decoding += end - first
		}
	}
	m.TTFT, m.TPOT, m.ITL, m.E2E = dist(ttft), dist(tpot), dist(itl), dist(e2e)
	if m.Requests > 0 {
		m.SLO = float64(good) / float64(m.Requests)
	}
	if m.Wall > 0 {
		m.RequestsPerSecond = float64(m.Requests-m.Errors-m.Cut) / m.Wall
		m.OutputPerSecond = float64(m.OutputTokens) / m.Wall
		m.TotalPerSecond = float64(m.PromptTokens+m.OutputTokens) / m.Wall
		m.Goodput = float64(good) / m.Wall
	}
	if decoding > 0 {
		m.DecodePerSecond = float64(decoded) / decoding
	}
	return m
}

// add counts one sample. A prompt counts once its first token is there.
func (m *Metrics) add(s *Sample) {
	m.Requests++
	m.Late = max(m.Late, s.Sent-s.Due)
	switch {
	case s.Cut:
		m.Cut++
	case s.Error != "":
		m.Errors++
	case len(s.Tokens) < s.Asked:
		m.Short++
	}
	if len(s.Tokens) > 0 {
		m.PromptTokens += s.PromptTokens
		m.OutputTokens += len(s.Tokens)
	}
}
