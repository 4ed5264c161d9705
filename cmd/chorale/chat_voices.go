package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"chorale/bench/client"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// view shows panes as they grow.
type view interface {
	begin(prompt string) error
	update(panes []*pane) error
	end(panes []*pane, last string) error
}

func newView(f *os.File) view {
	if !isTerminal(f) {
		return &plainView{out: f}
	}
	return &terminalView{f: f, screen: screen{out: f}, painter: painter(colours(f))}
}

// sideBySide asks several voices the same, all in one request.
type sideBySide struct {
	client *client.Client
	view   view
	panes  []*pane
}

const (
	// frame is the time between two pictures.
	frame = 50 * time.Millisecond
	// poll is the time between two looks at the server's last step: shorter than
	// a step of a small model, so that few are missed.
	poll = 10 * time.Millisecond
)

// run streams all answers and says in the end what the server computed
// together. The request's adapters are set from the panes.
func (s *sideBySide) run(ctx context.Context, req *choralev1.GenerateRequest, prompt string) error {
	for _, p := range s.panes {
		req.Adapters = append(req.Adapters, adapterOf(p.name))
	}
	before, err := s.client.Server(ctx)
	if err != nil {
		return err
	}
	if err := s.view.begin(prompt); err != nil {
		return err
	}
	start := time.Now()
	watch := watchSteps(ctx, s.client, before, len(s.panes))
	err = s.stream(ctx, req)
	took := time.Since(start)
	steps := watch()
	last := ""
	if err == nil {
		last = s.proof(steps, took)
	}
	if e := s.view.end(s.panes, last); err == nil {
		err = e
	}
	return err
}

// stream receives pieces in one goroutine and draws in this one.
func (s *sideBySide) stream(ctx context.Context, req *choralev1.GenerateRequest) error {
	g, ctx := errgroup.WithContext(ctx)
	pieces := make(chan *choralev1.GenerateStreamResponse, 64)
	g.Go(func() error {
		defer close(pieces)
		return s.client.Generate(ctx, req, func(p *choralev1.GenerateStreamResponse) error {
			select {
			case pieces <- p:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	g.Go(func() error { return s.draw(pieces) })
	if err := g.Wait(); err != nil {
		return err
	}
	for _, p := range s.panes {
		if p.err != nil {
			return fmt.Errorf("%s: %w", p.name, p.err)
		}
		if p.finish == "" {
			return fmt.Errorf("%s: %w: the stream ended before the answer", p.name, client.ErrAnswer)
		}
	}
	return nil
}

func (s *sideBySide) draw(pieces <-chan *choralev1.GenerateStreamResponse) error {
	tick := time.NewTicker(frame)
	defer tick.Stop()
	if err := s.view.update(s.panes); err != nil {
		return err
	}
	dirty := false
	for {
		select {
		case p, ok := <-pieces:
			if !ok {
				return s.view.update(s.panes)
			}
			if err := s.add(p); err != nil {
				return err
			}
			dirty = true
		case <-tick.C:
			if !dirty {
				continue
			}
			dirty = false
			if err := s.view.update(s.panes); err != nil {
				return err
			}
		}
	}
}

// add puts a piece into its pane.
func (s *sideBySide) add(p *choralev1.GenerateStreamResponse) error {
	i := int(p.GetPromptIndex())
	if i < 0 || i >= len(s.panes) {
		return fmt.Errorf("%w: prompt_index %d of %d prompts", client.ErrAnswer, i, len(s.panes))
	}
	v := s.panes[i]
	v.text.WriteString(p.GetText())
	v.tokens += len(p.GetTokenIds())
	if u := p.GetUsage(); u != nil && p.GetFinish() != nil {
		v.tokens = int(u.GetCompletionTokens())
	}
	if f := p.GetFinish(); f != nil {
		v.finish = strings.ToLower(strings.TrimPrefix(f.GetReason().String(), "FINISH_REASON_"))
		v.err = finishError(p)
	}
	return nil
}

// stepSeen is the fullest step that was seen while the voices answered.
type stepSeen struct {
	adapters, rows int
	// decode is true when rows are answers only, no tokens of prompts.
	decode bool
	// atOnce are the most distinct adapters that one step has had since the
	// start, if that number grew meanwhile.
	atOnce int
}

// better tells whether o says more: more adapters, then a step of answers
// only, then more rows.
func (s stepSeen) better(o stepSeen) bool {
	switch {
	case o.adapters != s.adapters:
		return o.adapters > s.adapters
	case o.decode != s.decode:
		return o.decode
	}
	return o.rows > s.rows
}

// watchSteps looks at the server's last step until the returned function is
// called, which gives the fullest. Steps from before do not count.
func watchSteps(ctx context.Context, c *client.Client, before *choralev1.GetServerInfoResponse, voices int) func() stepSeen {
	ctx, cancel := context.WithCancel(ctx)
	old := map[string]*choralev1.WorkerGroupInfo{}
	for _, g := range before.GetWorkerGroups() {
		old[g.GetAddress()] = g
	}
	var best stepSeen
	look := func(info *choralev1.GetServerInfoResponse) {
		for _, g := range info.GetWorkerGroups() {
			o := old[g.GetAddress()]
			if g.GetSteps() <= o.GetSteps() {
				continue
			}
			rows := int(g.GetLastStepRows())
			if s := (stepSeen{int(g.GetLastStepAdapters()), rows, rows <= voices, best.atOnce}); best.better(s) {
				best = s
			}
			if m := g.GetMaxStepAdapters(); m > o.GetMaxStepAdapters() {
				best.atOnce = max(best.atOnce, int(m))
			}
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(poll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			info, err := c.Server(ctx)
			if err != nil {
				return // the answers' own stream tells what is wrong
			}
			look(info)
		}
	}()
	return func() stepSeen {
		cancel()
		<-done
		last, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		if info, err := c.Server(last); err == nil {
			look(info)
		}
		return best
	}
}

// proof is the line that tells whether the voices were one batch, from what
// the server reported.
func (s *sideBySide) proof(steps stepSeen, took time.Duration) string {
	distinct, base := map[string]bool{}, false
	tokens := 0
	for _, p := range s.panes {
		tokens += p.tokens
		if a := adapterOf(p.name); a == "" {
			base = true
		} else {
			distinct[a] = true
		}
	}
	seconds := took.Seconds()
	rate := fmt.Sprintf("%d tokens in %.1f s = %.0f tokens/s", tokens, seconds, float64(tokens)/max(seconds, 1e-9))
	adapters := func(n int) string {
		if n == 1 {
			return "1 adapter"
		}
		return fmt.Sprintf("%d distinct adapters", n)
	}
	whole := steps.adapters >= len(distinct)
	switch {
	case whole && steps.decode && steps.rows >= len(s.panes):
		what := adapters(steps.adapters)
		if base {
			what += " + base"
		}
		return fmt.Sprintf("one batch: %d rows, %s in one step; %s", steps.rows, what, rate)
	case whole && !steps.decode && steps.rows > 0:
		return fmt.Sprintf("one batch: %s in one step of %d rows (prompt tokens among them); %s", adapters(steps.adapters), steps.rows, rate)
	case steps.atOnce >= len(distinct) && len(distinct) > 0:
		return fmt.Sprintf("one batch: %s in one step; %s", adapters(steps.atOnce), rate)
	case steps.rows > 0:
		return fmt.Sprintf("not seen as one batch: at most %s and %d rows in one step; %s", adapters(max(steps.adapters, steps.atOnce)), steps.rows, rate)
	}
	return rate
}
