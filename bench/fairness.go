package bench

import (
	"math"
	"slices"

	"chorale/bench/figure"
)

// Fairness is how evenly adapters were served. Service is what VTC (Sheng et
// al., OSDI 2024) counts: a prompt token 1, when the first token comes, and a
// generated token 2.
type Fairness struct {
	// Adapters that asked for anything; the base model counts as one.
	Adapters int `json:"adapters"`
	// Jain is Jain's index over the adapters of the share of their demand that
	// was served by the time the last request was due. Demand of the last fifth
	// of the time is left out: nobody could have served it all.
	Jain float64 `json:"jain"`
	// Gap is the most by which service a second differed between two adapters
	// that both had requests waiting all of a window's time, GapMean the mean
	// over windows; Windows counts those that had two such adapters at all, which
	// needs overload.
	Gap     float64 `json:"service_gap"`
	GapMean float64 `json:"service_gap_mean"`
	Windows int     `json:"windows"`
	// Heavy are the adapters with the most requests that together make half of
	// them, Light the others: TTFT.
	Heavy Dist `json:"heavy_ttft"`
	Light Dist `json:"light_ttft"`
}

// The weights of service.
const promptWeight, outputWeight = 1.0, 2.0

// windowSeconds is the length of a fairness window, windowStep from one's begin
// to the next's.
const windowSeconds, windowStep = 5.0, 1.0

// span is a time from, to.
type span struct{ from, to float64 }

// tenant is one adapter's part of a run.
type tenant struct {
	samples []*Sample
	waiting []span // merged and sorted
}

// fairness looks at one run.
func fairness(run []Sample) Fairness {
	by, end := map[string]*tenant{}, 0.0
	for i := range run {
		s := &run[i]
		t := by[s.Adapter]
		if t == nil {
			t = &tenant{}
			by[s.Adapter] = t
		}
		t.samples = append(t.samples, s)
		end = max(end, s.Due)
	}
	f := Fairness{Adapters: len(by)}
	var tenants []*tenant
	for _, t := range by {
		t.waiting = merged(t.samples)
		tenants = append(tenants, t)
	}
	// The order of maps must not show in the result.
	slices.SortFunc(tenants, func(a, b *tenant) int {
		if d := len(b.samples) - len(a.samples); d != 0 {
			return d
		}
		return compare(a.samples[0].Adapter, b.samples[0].Adapter)
	})
	f.Jain = figure.Jain(satisfaction(tenants, end))
	f.gaps(tenants, end)
	f.Heavy, f.Light = weights(tenants, len(run))
	return f
}

// merged are the times in which some of the requests had no token yet.
func merged(samples []*Sample) []span {
	var all []span
	for _, s := range samples {
		to := s.Done
		if len(s.Tokens) > 0 {
			to = s.Tokens[0]
		}
		all = append(all, span{s.Due, to})
	}
	slices.SortFunc(all, func(a, b span) int { return int(math.Copysign(1, a.from-b.from)) })
	var out []span
	for _, s := range all {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// waits tells whether some request waited at any time of [from, to].
func (t *tenant) waits(from, to float64) bool {
	return slices.ContainsFunc(t.waiting, func(s span) bool { return s.from <= from && s.to >= to })
}

// service is what came in (from, to] for requests that were due before before.
func (t *tenant) service(from, to, before float64) float64 {
	sum := 0.0
	for _, s := range t.samples {
		if s.Due >= before || len(s.Tokens) == 0 {
			continue
		}
		if first := s.Tokens[0]; first > from && first <= to {
			sum += promptWeight * float64(s.PromptTokens)
		}
		for _, at := range s.Tokens {
			if at > from && at <= to {
				sum += outputWeight
			}
		}
	}
	return sum
}

// satisfaction is each tenant's served share of its demand.
func satisfaction(tenants []*tenant, end float64) []float64 {
	const early = .8
	var out []float64
	for _, t := range tenants {
		demand := 0.0
		for _, s := range t.samples {
			if s.Due < early*end {
				demand += promptWeight*float64(s.PromptTokens) + outputWeight*float64(s.Asked)
			}
		}
		if demand > 0 {
			out = append(out, t.service(-1, end, early*end)/demand)
		}
	}
	return out
}

func (f *Fairness) gaps(tenants []*tenant, end float64) {
	sum := 0.0
	for from := 0.0; from+windowSeconds <= end; from += windowStep {
		least, most, n := math.Inf(1), 0.0, 0
		for _, t := range tenants {
			if !t.waits(from, from+windowSeconds) {
				continue
			}
			v := t.service(from, from+windowSeconds, math.Inf(1)) / windowSeconds
			least, most, n = min(least, v), max(most, v), n+1
		}
		if n < 2 {
			continue
		}
		f.Windows++
		sum += most - least
		f.Gap = max(f.Gap, most-least)
	}
	if f.Windows > 0 {
		f.GapMean = sum / float64(f.Windows)
	}
}

// weights are the TTFT of heavy and light tenants, which are sorted.
func weights(tenants []*tenant, all int) (heavy, light Dist) {
	var h, l []float64
	seen := 0
	for _, t := range tenants {
		list := &l
		if 2*seen < all {
			list = &h
		}
		seen += len(t.samples)
		for _, s := range t.samples {
			if s.ok() {
				*list = append(*list, s.ttft())
			}
		}
	}
	return figure.Summary(h), figure.Summary(l)
}
