package router

import (
	"context"
	"io"
	"sync"
	"time"

	"chorale/internal/tokenizer"
)

// running is a request under way: the event queue that its Handle reads.
type running struct {
	router *Router
	req    *Request
	id     string
	entry  *AdapterEntry // nil: base model
	prompt []int32
	chain  []uint64 // of prompt, see blocks; the router goroutine's
	arrive time.Time

	choices   []*choice
	maxTokens int
	left      int  // choices not booked as ended; the router goroutine's
	aborted   bool // by Router.Abort; the router goroutine's

	mu     sync.Mutex
	events []Event
	open   int // choices without a Finish
	closed bool
	ready  chan struct{} // capacity 1
}

// choice is one of a request's N answers, one sequence on a worker group. It
// is touched by one goroutine at a time: the router's while it waits, its
// link's while it is under way.
type choice struct {
	r     *running
	index int
	id    uint64 // sequence id, unique in this router
	order uint64 // arrival
	flow  flowKey
	seed  uint64

	generated []int32
	cached    int
	stream    *tokenizer.Stream
	stops     *tokenizer.StopMatcher
	finished  bool
	started   bool   // prompt log probabilities and first token were delivered
	end       Finish // as far as its reader was told
	retries   int
	recalls   int // of its adapter, after it had been sent
	// notBefore is when a worker that refused it may be asked again; passed,
	// since when it has been passed over because its adapter did not fit.
	notBefore, passed time.Time
	// refused is the group that refused it last: another is asked first.
	refused *link
	// queued, sent and first are the times of arrival, of the last dispatch
	// and of the first token.
	queued, sent, first time.Time
}

// Next waits for the next event of any choice.
func (r *running) Next(ctx context.Context) (Event, error) {
	for {
		r.mu.Lock()
		if len(r.events) > 0 {
			ev := r.events[0]
			r.events = r.events[1:]
			r.mu.Unlock()
			return ev, nil
		}
		done := r.open == 0 || r.closed
		r.mu.Unlock()
		if done {
			return Event{}, io.EOF
		}
		select {
		case <-r.ready:
		case <-ctx.Done():
			r.Close()
			return Event{}, ctx.Err()
		}
	}
}

// Close aborts what still runs.
func (r *running) Close() {
	r.mu.Lock()
	abort := !r.closed && r.open > 0
	r.closed = true
	r.mu.Unlock()
	r.signal()
	if abort {
		r.router.abort(r.choices)
	}
}

func (r *running) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

func (r *running) signal() {
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

// push queues an event. Events of a choice that were not read yet are merged,
// so that a slow reader holds its answer once, not event by event.
func (r *running) push(ev Event) {
	r.mu.Lock()
	if r.closed {
		if ev.Finish != nil {
			r.open--
		}
		r.mu.Unlock()
		return
	}
	if last := r.unread(ev.Choice); last != nil {
		last.Text += ev.Text
		last.IDs = append(last.IDs, ev.IDs...)
		last.Logprobs = append(last.Logprobs, ev.Logprobs...)
		last.PromptLogprobs = append(last.PromptLogprobs, ev.PromptLogprobs...)
		last.Usage, last.Finish = ev.Usage, ev.Finish
	} else {
		r.events = append(r.events, ev)
	}
	if ev.Finish != nil {
		r.open--
	}
	r.mu.Unlock()
	r.signal()
}

// adapter is the name of the request's adapter, "" for the base model.
func (r *running) adapter() string {
	if r.entry == nil {
		return ""
	}
	return r.entry.Name
}

// unread finds the event of a choice that waits to be read; there is at most one.
func (r *running) unread(choice int) *Event {
	for i := range r.events {
		if r.events[i].Choice == choice {
			return &r.events[i]
		}
	}
	return nil
}

// usage counts a choice's tokens.
func (c *choice) usage() Usage {
	return Usage{PromptTokens: len(c.r.prompt), CompletionTokens: len(c.generated), CachedTokens: c.cached}
}

// take turns a worker's output into an event. It returns true when the choice
// is finished, and early when the worker does not know that yet.
func (c *choice) take(o *SequenceOutput) (finished, early bool) {
	ev := Event{Choice: c.index, IDs: o.IDs, Logprobs: o.Logprobs, PromptLogprobs: o.PromptLogprobs}
	c.generated = append(c.generated, o.IDs...)
	if len(o.IDs) > 0 {
		c.retries = 0 // it gets on: only losses without a token between count
	}
	if !c.started {
		c.started, c.cached = true, o.CachedTokens
	}
	s := &c.r.req.Sampling
	for i, id := range o.IDs {
		if o.Finish == FinishStop && o.StopToken == id && i == len(o.IDs)-1 && !s.NoStopTrim {
			break // the end token ends the text, it is not part of it
		}
		if c.text(&ev, c.decode(id)) {
			ev.IDs, ev.Logprobs = ev.IDs[:i+1], ev.Logprobs[:min(i+1, len(ev.Logprobs))]
			c.generated = c.generated[:len(c.generated)-(len(o.IDs)-i-1)]
			early = o.Finish == FinishNone
			break
		}
	}
	if ev.Finish == nil && o.Finish != FinishNone {
		c.conclude(&ev, o)
	}
	ev.Usage = c.usage()
	if c.finished = ev.Finish != nil; c.finished {
		c.end = *ev.Finish
	}
	if c.finished || ev.Text != "" || len(ev.IDs) > 0 || len(ev.PromptLogprobs) > 0 {
		c.r.push(ev)
	}
	return c.finished, early
}

// decode is the text that a token completes, none without a tokenizer.
func (c *choice) decode(id int32) string {
	if c.stream == nil {
		return ""
	}
	return c.stream.Push(id)
}

// text adds decoded text to an event, up to a stop. True: a stop matched.
func (c *choice) text(ev *Event, delta string) bool {
	if c.stops == nil {
		ev.Text += delta
		return false
	}
	emit, matched, done := c.stops.Push(delta)
	ev.Text += emit
	if done {
		ev.Finish = &Finish{Reason: FinishStop, TokenID: -1, Matched: matched}
	}
	return done
}

// conclude flushes what was held back and tells why the answer ended.
func (c *choice) conclude(ev *Event, o *SequenceOutput) {
	if c.stream != nil && c.text(ev, c.stream.Flush()) {
		return // the last bytes completed a stop
	}
	if c.stops != nil {
		ev.Text += c.stops.Flush()
		if matched, ok := c.stops.Matched(); ok {
			ev.Finish = &Finish{Reason: FinishStop, TokenID: -1, Matched: matched}
			return
		}
	}
	ev.Finish = &Finish{Reason: o.Finish, TokenID: o.StopToken}
	if o.Finish == FinishAbort {
		ev.Finish.Err = workerError(o)
	}
}

// fail ends a choice with an error.
func (c *choice) fail(err error) {
	if c.finished {
		return
	}
	c.finished, c.end = true, Finish{Reason: FinishAbort, TokenID: -1, Err: err}
	end := c.end
	c.r.push(Event{Choice: c.index, Usage: c.usage(), Finish: &end})
}
