package bench

import (
	"math"

	"chorale/bench/figure"
)

// Dist and Spread are figure's.
type (
	Dist   = figure.Dist
	Spread = figure.Spread
)

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
	m.TTFT, m.TPOT, m.ITL, m.E2E = figure.Summary(ttft), figure.Summary(tpot), figure.Summary(itl), figure.Summary(e2e)
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
