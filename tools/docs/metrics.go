package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"time"

	"chorale/router"
	"chorale/services/metrics"
)

// sample is a state in which every metric has a value.
type sample struct{}

func (sample) State() router.ServerState {
	g := router.GroupState{Address: "w", Connected: true}
	g.Status.KVPages = 1
	g.Status.Plans.Counts = []uint64{1} // as of a group of several ranks
	g.Devices = []router.DeviceState{{Index: 0, Name: "GPU", ECCEnabled: true}}
	return router.ServerState{Started: time.Now(), Groups: []router.GroupState{g}}
}

var registered = &router.Catalogue{Adapters: map[string]*router.AdapterEntry{"a": {Name: "a", Digest: "d", Groups: []string{"w"}}}}

func (sample) Catalogue() *router.Catalogue { return registered }

var (
	helpRE  = regexp.MustCompile(`^# HELP (\S+) (.*)`)
	typeRE  = regexp.MustCompile(`^# TYPE (\S+) (\w+)`)
	labelRE = regexp.MustCompile(`(\w+)="`)
)

type metric struct {
	name, help, kind string
	labels           []string
}

const metricsIntro = `# Metrics

` + "`GET /metrics`" + ` on the HTTP port of ` + "`serve`" + ` and ` + "`router`" + ` in Prometheus' text form; it needs no key. Beside these there are
the Go runtime's and the process's own (` + "`go_*`, `process_*`" + `).

The label ` + "`adapter`" + ` is the adapter's name, or ` + "`base`" + `; ` + "`worker`" + ` is the worker group's address (` + "`local`" + ` under ` + "`serve`" + `).
At most ` + "`--metrics-max-adapters`" + ` adapters have series of their own, all others are summed in ` + "`adapter=\"_other\"`" + `:
[operations](../operations.md#metrics). What a worker tells of an adapter's residency is up to two seconds old; an adapter
of several names is counted under the first of them.
The gauges of the last step say how full the batch is; ` + "`chorale_step_adapters_max`" + ` is the proof that requests of different
adapters were computed together. ` + "`device`" + ` numbers the GPUs of the group's machine; what is told of them is a few seconds old. Names that begin with ` + "`vllm:`" + ` are those that gateways for LoRA-aware routing already scrape.

`

const metricsOutro = `
Worth a graph:

` + "```promql" + `
histogram_quantile(0.95, sum by (adapter, le) (rate(chorale_time_to_first_token_seconds_bucket[5m])))   # first token, by adapter
sum by (adapter) (rate(chorale_generated_tokens_total[1m]))                                             # tokens per second, by adapter
rate(vllm:generation_tokens_total[1m])                                                                  # and in all
sum by (adapter) (rate(chorale_residency_misses_total[5m])) / sum by (adapter) (rate(chorale_residency_misses_total[5m]) + rate(chorale_residency_hits_total[5m]))
chorale_step_rows / on(worker) chorale_step_seconds                                                     # rows per second of the last step
chorale_kv_pages{state="used"} / on(worker) sum by (worker) (chorale_kv_pages)                          # fill of the cache
` + "```" + `
`

func metricsPage(string) (string, error) {
	m := metrics.New(1)
	m.Watch(sample{})
	m.FirstToken("a", time.Millisecond, time.Millisecond)
	m.Finished("a", router.Usage{PromptTokens: 1, CompletionTokens: 2}, router.Finish{Reason: router.FinishAbort, Err: router.ErrUnavailable}, time.Millisecond, time.Second)
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	all := readMetrics(rec.Body.String())
	if len(all) < 10 {
		return "", fmt.Errorf("only %d metrics found", len(all))
	}
	var b strings.Builder
	b.WriteString(notice + metricsIntro + "| metric | kind | labels | |\n|---|---|---|---|\n")
	for _, x := range all {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", x.name, x.kind, strings.Join(x.labels, ", "), x.help)
	}
	b.WriteString(metricsOutro)
	return b.String(), nil
}

func readMetrics(text string) []metric {
	var all []metric
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if m := helpRE.FindStringSubmatch(line); m != nil && (strings.HasPrefix(m[1], "chorale_") || strings.HasPrefix(m[1], "vllm:")) {
			all = append(all, metric{name: m[1], help: m[2]})
			continue
		}
		if len(all) == 0 {
			continue
		}
		last := &all[len(all)-1]
		if m := typeRE.FindStringSubmatch(line); m != nil && m[1] == last.name {
			last.kind = m[2]
		} else if strings.HasPrefix(line, last.name) {
			for _, l := range labelRE.FindAllStringSubmatch(line, -1) {
				if l[1] != "le" && !slices.Contains(last.labels, l[1]) {
					last.labels = append(last.labels, l[1])
				}
			}
		}
	}
	return all
}
