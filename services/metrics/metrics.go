// Package metrics exports the router's state and what it observes of requests
// to Prometheus, under Chorale's own names and under those that gateways
// already scrape from vLLM.
package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"chorale/router"
)

// State gives the router's state and adapters.
type State interface {
	State() router.ServerState
	Catalogue() *router.Catalogue
}

// Metrics is a registry with the router's observer.
type Metrics struct {
	reg   *prometheus.Registry
	table *table
	// state, told and names are guarded by the table's lock.
	state State
	told  map[string]*told // by group
	names *names
}

var _ router.Observer = (*Metrics)(nil)

// New makes the metrics. At most maxAdapters adapters have series of their own.
func New(maxAdapters int) *Metrics {
	m := &Metrics{reg: prometheus.NewRegistry(), table: newTable(maxAdapters), told: map[string]*told{}}
	m.reg.MustRegister(&adapterCollector{m}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Watch adds the gauges of a router's state.
func (m *Metrics) Watch(s State) {
	m.table.mu.Lock()
	m.state = s
	m.table.mu.Unlock()
	m.reg.MustRegister(&stateCollector{s}, &deviceCollector{s})
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler { return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{}) }

// adapterCollector exports what is counted by adapter.
type adapterCollector struct{ m *Metrics }

// Describe lists the metrics.
func (c *adapterCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range slices.Concat(requestDescs, residencyDescs) {
		ch <- d
	}
}

// Collect gives the rows to those that are used most, and reads them.
func (c *adapterCollector) Collect(ch chan<- prometheus.Metric) {
	t := c.m.table
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rank()
	held := c.m.held()
	t.each(func(adapter string, r *row) {
		collectRequests(ch, adapter, r)
		if adapter == base {
			return
		}
		collectResidency(ch, adapter, r)
		for _, place := range []string{"device", "host"} {
			ch <- prometheus.MustNewConstMetric(descGroups, prometheus.GaugeValue, float64(held[place][adapter]), adapter, place)
		}
	})
}

// stateCollector reads the router's state at each scrape.
type stateCollector struct{ s State }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descQueued    = desc("chorale_queue_answers", "Answers waiting in the router.")
	descAdapters  = desc("chorale_adapters", "Registered adapters.", "usable")
	descUp        = desc("chorale_worker_up", "Whether a worker group is connected.", "worker")
	descRunning   = desc("chorale_worker_running", "Sequences that a worker group computes.", "worker")
	descWaiting   = desc("chorale_worker_waiting", "Sequences that wait on a worker group.", "worker")
	descPages     = desc("chorale_kv_pages", "Pages of the key/value cache.", "worker", "state")
	descSteps     = desc("chorale_worker_steps_total", "Forward passes.", "worker")
	descPreempt   = desc("chorale_worker_preemptions_total", "Preempted sequences.", "worker")
	descResident  = desc("chorale_worker_resident_adapters", "Adapters in device memory.", "worker")
	descStepRows  = desc("chorale_step_rows", "Rows of the last step.", "worker")
	descStepAdapt = desc("chorale_step_adapters", "Distinct adapters of the last step, the base not counted.", "worker")
	descStepMax   = desc("chorale_step_adapters_max", "Most distinct adapters that one step has had.", "worker")
	descStepTime  = desc("chorale_step_seconds", "Duration of the last step.", "worker")
	descVLLMLoRA  = desc("vllm:lora_requests_info", "Adapters with requests, as vLLM tells them.", "max_lora", "running_lora_adapters", "waiting_lora_adapters")
	descVLLMWait  = desc("vllm:num_requests_waiting", "Waiting requests, vLLM's name.")
	descVLLMRun   = desc("vllm:num_requests_running", "Running requests, vLLM's name.")
	descVLLMKV    = desc("vllm:kv_cache_usage_perc", "Used share of the key/value cache, vLLM's name.")
	// These two have no label, so no cap divides them.
	descVLLMPrompt = desc("vllm:prompt_tokens_total", "Prompt tokens of all requests, vLLM's name.")
	descVLLMGen    = desc("vllm:generation_tokens_total", "Generated tokens of all ended answers, vLLM's name.")
	descs          = []*prometheus.Desc{descQueued, descAdapters, descUp, descRunning, descWaiting, descPages, descSteps, descPreempt, descResident, descStepRows, descStepAdapt, descStepMax, descStepTime, descVLLMLoRA, descVLLMWait, descVLLMRun, descVLLMKV, descVLLMPrompt, descVLLMGen}
)

// Describe lists the gauges.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range slices.Concat(descs, adapterDescs, memoryDescs, rankDescs) {
		ch <- d
	}
}

// Collect reads the state.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	st, cat := c.s.State(), c.s.Catalogue()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descQueued, float64(st.Queued))
	usable := 0
	for _, e := range cat.Adapters {
		if e.Usable {
			usable++
		}
	}
	gauge(descAdapters, float64(usable), "true")
	gauge(descAdapters, float64(len(cat.Adapters)-usable), "false")
	var used, pages, maxLoRA, waiting int
	for _, g := range st.Groups {
		w, s := g.Address, g.Status
		up := 0.0
		if g.Connected {
			up = 1
		}
		gauge(descUp, up, w)
		gauge(descRunning, float64(s.Running), w)
		gauge(descWaiting, float64(s.Waiting), w)
		gauge(descPages, float64(s.KVPagesUsed), w, "used")
		gauge(descPages, float64(s.KVPages-s.KVPagesUsed), w, "free")
		count(descSteps, s.Step, w)
		count(descPreempt, s.Preemptions, w)
		gauge(descResident, float64(len(s.Resident)), w)
		gauge(descStepRows, float64(s.StepRows), w)
		gauge(descStepAdapt, float64(s.StepAdapters), w)
		gauge(descStepMax, float64(s.MaxStepAdapters), w)
		gauge(descStepTime, s.StepSeconds, w)
		collectAdapters(ch, &s.Adapters, w)
		collectMemory(ch, &s.Memory, w)
		collectRanks(ch, &g)
		used, pages, waiting = used+s.KVPagesUsed, pages+s.KVPages, waiting+s.Waiting
		maxLoRA = max(maxLoRA, g.Info.MaxLoRAsPerBatch)
	}
	gauge(descVLLMWait, float64(st.Queued+waiting))
	gauge(descVLLMRun, float64(max(0, st.Running-waiting)))
	if pages > 0 {
		gauge(descVLLMKV, float64(used)/float64(pages))
	}
	count(descVLLMPrompt, st.PromptTokens)
	count(descVLLMGen, st.CompletionTokens)
	all := namesOf(cat).all
	gauge(descVLLMLoRA, float64(time.Now().Unix()), strconv.Itoa(maxLoRA), list(st.RunningAdapters, all), list(st.WaitingAdapters, all))
}

// list gives the names of digests, comma-separated and sorted. A gateway looks for
// the name that a request has, so all names of a content are there. A comma in a
// name would end it: it is written as in a URL.
func list(digests []string, all map[string][]string) string {
	var out []string
	for _, d := range digests {
		for _, n := range all[d] {
			out = append(out, strings.ReplaceAll(strings.ToValidUTF8(n, "\uFFFD"), ",", "%2C"))
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}
