package tests

import (
	"net/http"
	"regexp"
	"strconv"
	"testing"
)

var sampleRE = regexp.MustCompile(`(?m)^(\w+)\{adapter="([^"]*)"(?:,reason="[^"]*")?\} (\S+)$`)

// byAdapter reads a metric, summed over its other labels.
func (s *site) byAdapter(metric string) (values map[string]float64, sum float64) {
	s.t.Helper()
	_, raw := s.get("/metrics")
	values = map[string]float64{}
	for _, m := range sampleRE.FindAllStringSubmatch(string(raw), -1) {
		if m[1] == metric {
			v, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				s.t.Fatal(err)
			}
			values[m[2]] += v
			sum += v
		}
	}
	return values, sum
}

// testResidencyMetrics: of more adapters than may have series two have, and
// nothing that was asked for is missing in the sums.
func testResidencyMetrics(s *site, adapters int) {
	answers, all := s.byAdapter("chorale_answers_total")
	if len(answers) > 4 || all <= answers["base"] {
		s.t.Errorf("answers by adapter: %v", answers)
	}
	s.until("workers told of every sequence with an adapter", callLimit, func() bool {
		_, hits := s.byAdapter("chorale_residency_hits_total")
		_, misses := s.byAdapter("chorale_residency_misses_total")
		// One that was sent again counts twice.
		return hits+misses >= all-answers["base"] && misses >= float64(adapters)
	})
	if _, n := s.byAdapter("chorale_residency_evictions_total"); n == 0 {
		s.t.Error("no eviction is told of")
	}
}

// TestPreload: router and manager are ready when the adapters are on the device,
// and a worker that is started again gets them there before anybody asks.
func TestPreload(t *testing.T) {
	paths := []string{"--lora-paths", "alto=" + voiceRoot(t) + "/alto"}
	s := startSplit(t, limits{
		workers: 1, registry: append(paths, "--preload", "alto"), face: []string{"--preload", "alto"},
		all: []string{"--max-loras-per-batch", "2", "--lora-eviction-policy", "lfu"},
	})
	connected := func() bool { return s.info().WorkerGroups[0].Connected }
	there := func() bool { return connected() && len(s.info().WorkerGroups[0].ResidentAdapters) == 1 }
	s.until("the router is ready", startLimit, func() bool {
		status, body := s.get("/health")
		if status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Fatalf("health: %d %s", status, body)
		}
		return status == http.StatusOK
	})
	if !there() {
		t.Error("the router is ready before its adapter is on the device")
	}
	s.workers[0].Kill()
	s.until("the worker is missed", startLimit, func() bool { return !connected() })
	s.startWorker(0)
	s.until("the adapter is on the new worker's device", startLimit, there)
	if status, body := s.get("/health"); status != http.StatusOK {
		t.Errorf("health: %d %s", status, body)
	}
	if got, _ := s.byAdapter("chorale_answers_total"); got["alto"] != 0 {
		t.Errorf("somebody has asked: %v", got)
	}
}
