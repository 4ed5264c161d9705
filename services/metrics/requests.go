package metrics

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chorale/router"
	"chorale/services/status"
)

var (
	descQueue     = desc("chorale_request_queue_seconds", "Wait of a request until it was sent to a worker group.", "adapter")
	descTTFT      = desc("chorale_time_to_first_token_seconds", "From a request's arrival to its first token.", "adapter")
	descTPOT      = desc("chorale_time_per_output_token_seconds", "Mean time per token after the first.", "adapter")
	descE2E       = desc("chorale_request_seconds", "From a request's arrival to its end.", "adapter")
	descAnswers   = desc("chorale_answers_total", "Ended answers.", "adapter", "reason")
	descErrors    = desc("chorale_answer_errors_total", "Answers that failed, by the error's reason; a client that leaves is none.", "adapter", "reason")
	descPrompt    = desc("chorale_prompt_tokens_total", "Prompt tokens of ended answers.", "adapter")
	descGenerated = desc("chorale_generated_tokens_total", "Generated tokens of ended answers.", "adapter")
	requestDescs  = []*prometheus.Desc{descQueue, descTTFT, descTPOT, descE2E, descAnswers, descErrors, descPrompt, descGenerated}
)

// FirstToken observes the waits of a request.
func (m *Metrics) FirstToken(adapter string, queued, ttft time.Duration) {
	m.table.mu.Lock()
	defer m.table.mu.Unlock()
	r := m.table.at(adapter)
	r.queue.observe(queued.Seconds())
	r.ttft.observe(ttft.Seconds())
}

var reasons = map[router.FinishReason]string{router.FinishStop: "stop", router.FinishLength: "length", router.FinishAbort: "abort"}

// Finished observes an ended answer.
func (m *Metrics) Finished(adapter string, u router.Usage, end router.Finish, ttft, total time.Duration) {
	m.table.mu.Lock()
	defer m.table.mu.Unlock()
	m.table.use(adapter)
	r := m.table.at(adapter)
	r.answers[reasons[end.Reason]]++
	if end.Err != nil && !errors.Is(end.Err, router.ErrAborted) {
		r.errors[status.Reason(end.Err)]++
	}
	r.prompt += uint64(u.PromptTokens)
	r.generated += uint64(u.CompletionTokens)
	r.e2e.observe(total.Seconds())
	if u.CompletionTokens > 1 && ttft > 0 {
		r.tpot.observe((total - ttft).Seconds() / float64(u.CompletionTokens-1))
	}
}

// collectRequests tells what was counted of an adapter's requests.
func collectRequests(ch chan<- prometheus.Metric, adapter string, r *row) {
	for _, h := range []struct {
		d *prometheus.Desc
		h *histogram
	}{{descQueue, &r.queue}, {descTTFT, &r.ttft}, {descTPOT, &r.tpot}, {descE2E, &r.e2e}} {
		h.h.shape(seconds)
		ch <- h.h.metric(h.d, adapter)
	}
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{adapter}, labels...)...)
	}
	for _, reason := range slices.Sorted(maps.Keys(r.answers)) {
		count(descAnswers, r.answers[reason], reason)
	}
	for _, reason := range slices.Sorted(maps.Keys(r.errors)) {
		count(descErrors, r.errors[reason], reason)
	}
	count(descPrompt, r.prompt)
	count(descGenerated, r.generated)
}
