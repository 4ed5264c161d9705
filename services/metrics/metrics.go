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
	reg                     *prometheus.Registry
	queue, ttft, tpot, e2e  *prometheus.HistogramVec
	answers                 *prometheus.CounterVec
	promptTokens, genTokens *prometheus.CounterVec
}

var _ router.Observer = (*Metrics)(nil)

// base is the adapter label of requests to the base model.
const base = "base"

// New makes the metrics.
func New() *Metrics {
	label := []string{"adapter"}
	seconds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	hist := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "chorale_" + name, Help: help, Buckets: seconds}, label)
	}
	m := &Metrics{
		reg:          prometheus.NewRegistry(),
		queue:        hist("request_queue_seconds", "Wait of a request until it was sent to a worker group."),
		ttft:         hist("time_to_first_token_seconds", "From a request's arrival to its first token."),
		tpot:         hist("time_per_output_token_seconds", "Mean time per token after the first."),
		e2e:          hist("request_seconds", "From a request's arrival to its end."),
		answers:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chorale_answers_total", Help: "Ended answers."}, []string{"adapter", "reason"}),
		promptTokens: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chorale_prompt_tokens_total", Help: "Prompt tokens of ended answers."}, label),
		genTokens:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chorale_generated_tokens_total", Help: "Generated tokens of ended answers."}, label),
	}
	m.reg.MustRegister(m.queue, m.ttft, m.tpot, m.e2e, m.answers, m.promptTokens, m.genTokens,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Watch adds the gauges of a router's state.
func (m *Metrics) Watch(s State) { m.reg.MustRegister(&stateCollector{s}, &deviceCollector{s}) }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler { return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{}) }

func name(adapter string) string {
	if adapter == "" {
		return base
	}
	return adapter
}

// FirstToken observes the waits of a request.
func (m *Metrics) FirstToken(adapter string, queued, ttft time.Duration) {
	m.queue.WithLabelValues(name(adapter)).Observe(queued.Seconds())
	m.ttft.WithLabelValues(name(adapter)).Observe(ttft.Seconds())
}

var reasons = map[router.FinishReason]string{router.FinishStop: "stop", router.FinishLength: "length", router.FinishAbort: "abort"}

// Finished observes an ended answer.
func (m *Metrics) Finished(adapter string, u router.Usage, reason router.FinishReason, ttft, total time.Duration) {
	n := name(adapter)
	m.answers.WithLabelValues(n, reasons[reason]).Inc()
	m.promptTokens.WithLabelValues(n).Add(float64(u.PromptTokens))
	m.genTokens.WithLabelValues(n).Add(float64(u.CompletionTokens))
	m.e2e.WithLabelValues(n).Observe(total.Seconds())
	if u.CompletionTokens > 1 && ttft > 0 {
		m.tpot.WithLabelValues(n).Observe((total - ttft).Seconds() / float64(u.CompletionTokens-1))
	}
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
	descs         = []*prometheus.Desc{descQueued, descAdapters, descUp, descRunning, descWaiting, descPages, descSteps, descPreempt, descResident, descStepRows, descStepAdapt, descStepMax, descStepTime, descVLLMLoRA, descVLLMWait, descVLLMRun, descVLLMKV}
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
	byDigest := map[string]string{}
	for n, e := range cat.Adapters {
		for _, v := range e.Versions {
			if _, taken := byDigest[v.Digest]; !taken {
				byDigest[v.Digest] = n
			}
		}
		byDigest[e.Digest] = n
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
	gauge(descVLLMLoRA, float64(time.Now().Unix()), strconv.Itoa(maxLoRA), names(st.RunningAdapters, byDigest), names(st.WaitingAdapters, byDigest))
}

// names lists adapters' names, comma-separated and sorted.
func names(digests []string, byDigest map[string]string) string {
	var out []string
	for _, d := range digests {
		if n, ok := byDigest[d]; ok {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}
