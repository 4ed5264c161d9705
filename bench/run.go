package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"chorale/bench/client"
)

// target is a server that answered the probe.
type target struct {
	spec     TargetSpec
	info     Info
	adapters []string
	client   *client.Client
	api      api
}

// probeLimit is how long a server may take to say what it is.
const probeLimit = 30 * time.Second

func openTarget(ctx context.Context, spec TargetSpec, c *Config) (*target, error) {
	cl, err := client.New(client.Options{Server: spec.URL, APIKey: spec.Key, OneShot: true})
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", spec.Name, err)
	}
	t := &target{spec: spec, client: cl}
	if t.api, err = newAPI(spec.API, cl); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeLimit, fmt.Errorf("no answer within %v", probeLimit))
	defer cancel()
	if t.info, err = t.api.probe(ctx); err != nil {
		cl.CloseIdleConnections()
		return nil, fmt.Errorf("target %s: %w", spec.Name, err)
	}
	for _, list := range [][]string{spec.Adapters, c.Adapters, t.info.Adapters} {
		if len(list) > 0 {
			t.adapters = list
			break
		}
	}
	for _, m := range c.Modes {
		if m != ModeNone && len(t.adapters) == 0 {
			cl.CloseIdleConnections()
			return nil, fmt.Errorf("%w: target %s has no adapter loaded, mode %s needs some", ErrConfig, spec.Name, m)
		}
	}
	return t, nil
}

// run makes the items' requests and gives what their clients saw. It returns
// when the last has ended; the context's end cuts those that run and drops
// those not begun.
func (t *target) run(ctx context.Context, c *Config, items []item) []Sample {
	r := &runner{target: t, config: c, samples: make([]Sample, len(items))}
	if c.open() {
		r.openLoop(ctx, items)
	} else {
		r.closedLoop(ctx, items)
	}
	kept := r.samples[:0]
	for _, s := range r.samples {
		if s.Asked > 0 { // begun
			kept = append(kept, s)
		}
	}
	return kept
}

// runner is one run.
type runner struct {
	target  *target
	config  *Config
	start   time.Time
	samples []Sample // each written by one goroutine
}

func (r *runner) now() float64 { return time.Since(r.start).Seconds() }

// closedLoop starts all clients at once; items of one client are adjacent.
func (r *runner) closedLoop(ctx context.Context, items []item) {
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for from := 0; from < len(items); {
		to := from
		for to < len(items) && items[to].client == items[from].client {
			to++
		}
		begin, end := from, to
		from = to
		wg.Go(func() {
			<-gate
			for i := begin; i < end && ctx.Err() == nil; i++ {
				r.request(ctx, &items[i], &r.samples[i], r.now())
			}
		})
	}
	r.start = time.Now()
	close(gate)
	wg.Wait()
}

// openLoop sends each item when it is due.
func (r *runner) openLoop(ctx context.Context, items []item) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := semaphore.NewWeighted(int64(max(1, r.config.MaxInFlight)))
	r.start = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range items {
		timer.Reset(time.Until(r.start.Add(time.Duration(items[i].due * float64(time.Second)))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			if r.config.MaxInFlight > 0 {
				if slots.Acquire(ctx, 1) != nil {
					r.missed(&items[i], &r.samples[i])
					return
				}
				defer slots.Release(1)
			}
			r.request(ctx, &items[i], &r.samples[i], items[i].due)
		})
	}
}

func (r *runner) describe(it *item, s *Sample) {
	s.Client, s.Asked, s.PromptTokens = it.client, it.output, len(it.ids)
	if it.adapter >= 0 {
		s.Adapter = r.target.adapters[it.adapter]
	}
}

// missed is a request that was due and held back until the end.
func (r *runner) missed(it *item, s *Sample) {
	r.describe(it, s)
	s.Due, s.Cut = it.due, true
	s.Sent = r.now()
	s.Done = s.Sent
}

// request makes one request. due is seconds since the run's start.
func (r *runner) request(ctx context.Context, it *item, s *Sample, due float64) {
	r.describe(it, s)
	s.Due = due
	in := &call{
		ids: it.ids, text: it.text, adapter: s.Adapter, output: it.output,
		temperature: r.config.Temperature, stopAtEOS: r.config.StopAtEOS,
	}
	s.Tokens = make([]float64, 0, min(it.output, 1<<12))
	grow := func(total int) {
		at := r.now()
		for total = min(total, maxLength); len(s.Tokens) < total; {
			s.Tokens = append(s.Tokens, at)
		}
	}
	s.Sent = r.now()
	n, err := r.target.api.stream(ctx, in, grow)
	s.Done = r.now()
	if err == nil {
		// Where the server's count at the end is the better one.
		s.Tokens = s.Tokens[:min(len(s.Tokens), max(0, n.output))]
	}
	if it.ids == nil {
		s.PromptTokens = n.prompt
	}
	switch {
	case ctx.Err() != nil && err != nil:
		s.Cut = true
	case err != nil:
		s.Error = err.Error()
	case len(s.Tokens) == 0:
		s.Error = "the answer has no tokens"
	}
}
