package metrics

import (
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"

	"chorale/router"
)

// site is a state that a test sets.
type site struct {
	state router.ServerState
	cat   *router.Catalogue
}

func (s *site) State() router.ServerState    { return s.state }
func (s *site) Catalogue() *router.Catalogue { return s.cat }

// series are numbers, of a histogram two: its count and its sum.
type series map[string]map[string]float64 // by metric and adapter

// scrape reads all metrics that have the label adapter; those with more labels
// are told apart by them.
func scrape(t interface{ Fatal(...any) }, m *Metrics) series {
	reg := prometheus.NewPedanticRegistry() // without what costs: the process's own
	reg.MustRegister(&adapterCollector{m})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := series{}
	put := func(name, adapter string, v float64) {
		if out[name] == nil {
			out[name] = map[string]float64{}
		}
		out[name][adapter] = v
	}
	for _, f := range families {
		for _, x := range f.GetMetric() {
			name, adapter := f.GetName(), ""
			for _, l := range x.GetLabel() {
				if l.GetName() == "adapter" {
					adapter = l.GetValue()
				} else {
					name += " " + l.GetValue()
				}
			}
			if adapter == "" {
				continue
			}
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				put(name+" count", adapter, float64(x.GetHistogram().GetSampleCount()))
				put(name+" sum", adapter, x.GetHistogram().GetSampleSum())
			case dto.MetricType_COUNTER:
				put(name, adapter, x.GetCounter().GetValue())
			default:
				put(name, adapter, x.GetGauge().GetValue())
			}
		}
	}
	return out
}

func total(of map[string]float64) (sum float64) {
	for _, v := range of {
		sum += v
	}
	return sum
}

// TestNothingIsLost: whatever adapters are used, and however their places go from
// one to the other, no more have series than allowed, the sum over all series of a
// metric is what was counted, and no series is lower than in the scrape before.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(0, 4).Draw(t, "most")
		m := New(most)
		want := map[string]float64{}
		before := series{}
		seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				got := scrape(t, m)
				adapters := map[string]bool{}
				for name, by := range got {
					if counted := !strings.Contains(name, "groups"); counted && total(by) != want[name] {
						t.Fatalf("%s: the sum is %v, want %v: %v", name, total(by), want[name], by)
					}
					for a, v := range by {
						adapters[a] = true
						if old, was := before[name][a]; was && v < old {
							t.Fatalf("%s of %s falls from %v to %v", name, a, old, v)
						}
					}
				}
				delete(adapters, base)
				if delete(adapters, others); len(adapters) > most {
					t.Fatalf("%v have series, at most %d may", adapters, most)
				}
				before = got
			},
			"answers": func(t *rapid.T) {
				// A few are used much, and which those are changes.
				a := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "adapter"))
				for range rapid.IntRange(1, 80).Draw(t, "times") {
					m.FirstToken(a, seconds(1), seconds(2))
					m.Finished(a, router.Usage{PromptTokens: 3, CompletionTokens: 3}, router.Finish{Reason: router.FinishStop}, seconds(2), seconds(6))
					for k, v := range map[string]float64{
						"chorale_request_queue_seconds count": 1, "chorale_request_queue_seconds sum": 1,
						"chorale_time_to_first_token_seconds count": 1, "chorale_time_to_first_token_seconds sum": 2,
						"chorale_time_per_output_token_seconds count": 1, "chorale_time_per_output_token_seconds sum": 2,
						"chorale_request_seconds count": 1, "chorale_request_seconds sum": 6,
						"chorale_prompt_tokens_total": 3, "chorale_generated_tokens_total": 3, "chorale_answers_total stop": 1,
					} {
						want[k] += v
					}
				}
			},
			"fails": func(t *rapid.T) {
				a := fmt.Sprint(rapid.IntRange(0, 30).Draw(t, "adapter"))
				m.Finished(a, router.Usage{}, router.Finish{Reason: router.FinishAbort, Err: router.ErrUnavailable}, 0, 0)
				want["chorale_answers_total abort"]++
				want["chorale_answer_errors_total NO_WORKER"]++
				want["chorale_request_seconds count"]++
			},
			"leaves": func(*rapid.T) {
				for _, err := range []error{nil, fmt.Errorf("by request: %w", router.ErrAborted)} {
					m.Finished("", router.Usage{}, router.Finish{Reason: router.FinishAbort, Err: err}, 0, 0)
				}
				want["chorale_answers_total abort"] += 2
				want["chorale_request_seconds count"] += 2
			},
		})
	})
}

// TestMostUsed: the adapters with series are those that are used, not those that
// came first; one that comes twice as often as another takes its place, and what
// that one counted is among the others.
func TestMostUsed(t *testing.T) {
	m := New(2)
	ask := func(a string, times int) {
		for range times {
			m.Finished(a, router.Usage{PromptTokens: 1}, router.Finish{Reason: router.FinishStop}, 0, 0)
		}
	}
	check := func(want map[string]float64) {
		t.Helper()
		if got := scrape(t, m)["chorale_prompt_tokens_total"]; !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	ask("a", 10)
	check(map[string]float64{"base": 0, "a": 10})
	ask("b", 20)
	check(map[string]float64{"base": 0, "a": 10, "b": 20, "_other": 0})
	ask("c", 20)
	ask("d", 1)
	check(map[string]float64{"base": 0, "a": 10, "b": 20, "_other": 21})
	ask("c", 1)                                                         // 21: more than twice of a's 10
	check(map[string]float64{"base": 0, "b": 20, "c": 0, "_other": 32}) // 22 of c and d, 10 of a
	ask("c", 5)
	ask("a", 3)
	check(map[string]float64{"base": 0, "b": 20, "c": 5, "_other": 35})
}

// TestNames: names come into labels as they are, and none can be taken for the
// base model or the others.
func TestNames(t *testing.T) {
	m := New(20)
	odd := []string{`quo"te`, `back\slash`, "téam/ä:é.v2 beta", "comma,comma", "base", "_other", "_other@adapter", "{x=\"y\"} 7"}
	for _, n := range append(odd, "", "bad\xff") {
		m.Finished(n, router.Usage{}, router.Finish{Reason: router.FinishStop}, 0, 0)
	}
	got := slices.Sorted(maps.Keys(scrape(t, m)["chorale_answers_total stop"]))
	want := []string{"_other@adapter", "_other@adapter@adapter", "back\\slash", "bad�", "base", "base@adapter", "comma,comma", "quo\"te", "téam/ä:é.v2 beta", "{x=\"y\"} 7"}
	if !slices.Equal(got, want) {
		t.Errorf("labels\n%q, want\n%q", got, want)
	}
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`chorale_answers_total{adapter="quo\"te",reason="stop"} 1`, `chorale_answers_total{adapter="back\\slash",reason="stop"} 1`,
		`chorale_answers_total{adapter="{x=\"y\"} 7",reason="stop"} 1`,
	} {
		if !strings.Contains(rec.Body.String(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// TestResidency: what workers tell is added up over groups, restarts and stays in
// host memory, under the name that answers with the content.
func TestResidency(t *testing.T) {
	m := New(2)
	s := &site{cat: &router.Catalogue{Adapters: map[string]*router.AdapterEntry{
		"a":     {Name: "a", Digest: "d1", Groups: []string{"one", "two"}, Versions: []*router.AdapterEntry{{Name: "a", Digest: "d2", Version: 2}}},
		"alias": {Name: "alias", Digest: "d1", Groups: []string{"one"}},
		"z":     {Name: "z", Digest: "d2"},
	}}}
	m.Watch(s)
	bounds := []float64{1, 2}
	m.Adapters("one", "x", []router.AdapterCount{
		{Digest: "d1", Since: 1, Hits: 5, Misses: 2, Evictions: 1, LoadBounds: bounds, LoadCounts: []uint64{1, 0, 1}, LoadSeconds: 4},
		{Digest: "gone", Since: 2, Hits: 7},
	})
	m.Adapters("two", "y", []router.AdapterCount{{Digest: "d2", Since: 1, Hits: 10}})
	m.Adapters("one", "x", []router.AdapterCount{ // more of the same
		{Digest: "d1", Since: 1, Hits: 6, Misses: 4, Evictions: 1, LoadBounds: bounds, LoadCounts: []uint64{1, 1, 1}, LoadSeconds: 5.5},
	})
	m.Adapters("one", "x", []router.AdapterCount{{Digest: "d1", Since: 9, Hits: 100}}) // it left and came again
	m.Adapters("one", "z", []router.AdapterCount{{Digest: "d1", Since: 9, Hits: 200}}) // the worker was restarted
	s.state.Groups = []router.GroupState{
		{Address: "one", Status: router.GroupStatus{Resident: []string{"d1", "unknown"}}}, {Address: "two", Status: router.GroupStatus{Resident: []string{"d1", "d2"}}},
	}
	got := scrape(t, m)
	for name, want := range map[string]map[string]float64{
		"chorale_residency_hits_total":         {"a": 306, "z": 10, "_other": 7},
		"chorale_residency_misses_total":       {"a": 4, "z": 0, "_other": 0},
		"chorale_residency_evictions_total":    {"a": 1, "z": 0, "_other": 0},
		"chorale_residency_load_seconds count": {"a": 3, "z": 0, "_other": 0},
		"chorale_residency_load_seconds sum":   {"a": 5.5, "z": 0, "_other": 0},
		"chorale_residency_groups device":      {"a": 2, "z": 1, "_other": 0},
		"chorale_residency_groups host":        {"a": 2, "z": 0, "_other": 1},
	} {
		if !maps.Equal(got[name], want) {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
}

// TestGateways: the adapters that a gateway looks for stand under every name of
// their content.
func TestGateways(t *testing.T) {
	m := New(0)
	m.Watch(&site{
		state: router.ServerState{
			Queued: 3, Running: 2, PromptTokens: 11, CompletionTokens: 12, RunningAdapters: []string{"d1", "gone"}, WaitingAdapters: []string{"d2"},
			Groups: []router.GroupState{{Info: router.GroupInfo{MaxLoRAsPerBatch: 8}, Status: router.GroupStatus{Waiting: 1, KVPages: 4, KVPagesUsed: 1}}},
		},
		cat: &router.Catalogue{Adapters: map[string]*router.AdapterEntry{
			"a": {Digest: "d1"}, "alias": {Digest: "d1"}, "with,comma": {Digest: "d2"},
		}},
	})
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`vllm:lora_requests_info{max_lora="8",running_lora_adapters="a,alias",waiting_lora_adapters="with%2Ccomma"} `,
		"vllm:num_requests_waiting 4\n", "vllm:num_requests_running 1\n", "vllm:kv_cache_usage_perc 0.25\n",
		"vllm:prompt_tokens_total 11\n", "vllm:generation_tokens_total 12\n",
	} {
		if !strings.Contains(rec.Body.String(), line) {
			t.Errorf("no line %s in\n%s", line, rec.Body)
		}
	}
}

var errOdd = errors.New("odd")

// TestUnknownErrors: what no table knows is counted, too.
func TestUnknownErrors(t *testing.T) {
	m := New(1)
	m.Finished("a", router.Usage{}, router.Finish{Reason: router.FinishAbort, Err: errOdd}, 0, 0)
	if got := scrape(t, m)["chorale_answer_errors_total INTERNAL"]; got["a"] != 1 {
		t.Errorf("%v", got)
	}
}
