package router

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// patience is how long a sequence at the head of its flow is passed over because
// its adapter does not fit into a group's batch, before it may be sent beyond
// max_loras_per_batch: the group then lets its adapters take turns. Waiting for
// credit does not count, or a deep queue would know no batches at all.
const patience = 300 * time.Millisecond

// maxRetries is how often a sequence is sent again after losses.
const maxRetries = 5

// dispatch gives waiting sequences to groups with credit, fair order first, and
// tells the groups whose adapters are next.
func (r *Router) dispatch() {
	if r.queue.len > 0 {
		r.give()
	}
	r.hint()
}

func (r *Router) give() {
	now := time.Now()
	r.giveUp(now)
	batches := map[*link][]*choice{}
	cat := r.Catalogue()
	sent := map[*link]map[string]bool{} // adapters promised in this round
	room := map[*link]int{}
	for _, l := range r.links {
		room[l] = l.credit()
		sent[l] = map[string]bool{}
		for d := range l.adapters {
			sent[l][d] = true
		}
	}
	for {
		var to *link
		c := r.queue.next(now, func(c *choice) bool {
			to = r.place(c, cat, room, sent, now)
			return to != nil
		})
		if c == nil {
			break
		}
		// next asked about several heads; place again for the one it chose.
		to = r.place(c, cat, room, sent, now)
		room[to]--
		if c.flow.digest != "" {
			sent[to][c.flow.digest] = true
		}
		r.queue.charge(c.flow, len(c.r.prompt))
		batches[to] = append(batches[to], c)
	}
	for l, cs := range batches {
		l.send(cs)
	}
	r.queue.trim()
}

// orphanWait is how long sequences wait for a group that is away to come back.
const orphanWait = 30 * time.Second

// giveUp fails sequences for which no group has been in reach for too long:
// their clients can try elsewhere.
func (r *Router) giveUp(now time.Time) {
	cat := r.Catalogue()
	for _, f := range r.queue.flows {
		if len(f.waiting) == 0 || slices.ContainsFunc(r.links, func(l *link) bool { return l.usable() && r.carries(l, f.waiting[0], cat) }) {
			f.orphaned = time.Time{}
			continue
		}
		if f.orphaned.IsZero() {
			f.orphaned = now
		}
		if now.Sub(f.orphaned) < orphanWait {
			continue
		}
		for _, c := range slices.Clone(f.waiting) {
			r.queue.remove(c)
			c.fail(fmt.Errorf("%w, for %v now", ErrUnavailable, orphanWait))
			r.ended(c)
		}
	}
}

// place chooses the group for a sequence: one that has its adapter in the
// batch already, else in device memory, else any with room in the batch; among
// these the least loaded, but one that was given the start of the same prompt
// before may have somewhat more to do. nil: it has to wait.
func (r *Router) place(c *choice, cat *Catalogue, room map[*link]int, sent map[*link]map[string]bool, now time.Time) *link {
	var best *link
	bestScore, tight := 0, false
	var waited time.Duration
	if !c.passed.IsZero() {
		waited = now.Sub(c.passed)
	}
	for _, l := range r.links {
		if room[l] <= 0 || !r.carries(l, c, cat) {
			continue
		}
		d, set := c.flow.digest, sent[l]
		if d != "" && !set[d] {
			limit := l.info.MaxLoRAsPerBatch
			if waited > patience {
				limit = max(limit, l.info.MaxResidentLoRAs)
			}
			if len(set) >= limit && waited <= 4*patience {
				tight = true
				continue
			}
		}
		score := room[l] + l.bonus(c)
		if d != "" && set[d] {
			score += 1 << 20
		} else if d != "" && slices.Contains(l.status.Resident, d) {
			score += 1 << 10
		}
		if l == c.refused {
			score -= 1 << 25
		}
		if best == nil || score > bestScore {
			best, bestScore = l, score
		}
	}
	if best == nil && tight && c.passed.IsZero() {
		c.passed = now
	}
	return best
}

// carries tells whether a group has the sequence's adapter in host memory.
func (r *Router) carries(l *link, c *choice, cat *Catalogue) bool {
	e := c.r.entry
	if e == nil {
		return true
	}
	// The newest entry knows groups that were added since; a replaced or
	// unloaded one still runs where it was.
	if now := cat.now(e); now != nil {
		e = now
	}
	return len(e.Groups) == 0 || slices.Contains(e.Groups, l.dialer.Address())
}

// requeue puts a sequence whose group was lost, or refused it, back to the
// front, to be sent again after wait (doubled with each try), or fails it.
func (r *Router) requeue(c *choice, wait time.Duration, cause error) {
	if r.gone(c) {
		return
	}
	if errors.Is(cause, ErrAdapterNotReady) && c.recalls < maxRecalls && r.pushedOut(c.r.entry) && r.alive.Err() == nil {
		c.recalls++
		r.callBack(c)
		return
	}
	if c.retries++; c.retries > maxRetries {
		if !errors.Is(cause, ErrAdapterNotReady) {
			cause = fmt.Errorf("%w: %w", ErrWorkerLost, cause)
		}
		c.fail(fmt.Errorf("%w (%d tries)", cause, c.retries))
		r.ended(c)
		return
	}
	r.log.Debug("sequence is continued elsewhere", zap.String("request", c.r.id), zap.Int("choice", c.index), zap.Int("tokens", len(c.generated)), zap.Error(cause))
	r.pushAgain(c, time.Now().Add(wait<<(c.retries-1)))
}

func (r *Router) pushAgain(c *choice, notBefore time.Time) {
	c.id = r.nextID.Add(1)
	c.notBefore, c.passed = notBefore, time.Time{}
	r.queue.push(c, true)
}

// gone ends a sequence that nobody waits for any more; it was in nobody's books
// when its end was asked for.
func (r *Router) gone(c *choice) bool {
	if c.r.aborted && !c.finished {
		c.fail(ErrAborted)
	}
	if !c.finished && !c.r.isClosed() {
		return false
	}
	r.ended(c)
	return true
}

// pushedOut tells whether an adapter has made room for others, or is on its way
// back from that.
func (r *Router) pushedOut(e *AdapterEntry) bool {
	if e == nil {
		return false
	}
	now := r.Catalogue().now(e)
	return now != nil && (now.Evicted || now.Loading)
}

// callBack brings an adapter back that others' requests pushed out before its
// sequence reached the worker, and queues the sequence again. Until then the
// sequence is in nobody's books.
func (r *Router) callBack(c *choice) {
	r.recalls.Go(func() {
		var err error
		if cat := r.Catalogue(); cat.now(c.r.entry) != nil {
			err = r.ensure(r.alive, []string{cat.ref(cat.now(c.r.entry))})
		}
		r.do(func() {
			switch {
			case r.gone(c):
			case err != nil:
				c.fail(err)
				r.ended(c)
			default:
				r.pushAgain(c, time.Time{})
			}
			r.dispatch()
		})
	})
}

// abort takes sequences out wherever they are, silently: their reader is gone.
func (r *Router) abort(cs []*choice) {
	r.do(func() {
		for _, c := range cs {
			if r.takeBack(c) {
				c.finished = true
				r.ended(c)
			}
		}
		r.dispatch()
	})
}

// takeBack removes a sequence from queue or group. False: it has ended.
func (r *Router) takeBack(c *choice) bool {
	if r.queue.remove(c) {
		return true
	}
	for _, l := range r.links {
		if l.cancel(c) {
			return true
		}
	}
	return false
}

// ended books an answer that is over; every way to an end leads here once.
func (r *Router) ended(c *choice) {
	r.active.Add(-1)
	r.observe(c)
	r.completionTokens.Add(uint64(len(c.generated)))
	q := c.r
	q.left--
	if q.left == 0 {
		list := slices.DeleteFunc(r.byID[q.id], func(o *running) bool { return o == q })
		if len(list) == 0 {
			delete(r.byID, q.id)
		} else {
			r.byID[q.id] = list
		}
	}
	select {
	case r.idle <- struct{}{}:
	default:
	}
}

// deliver passes an output to its request and watches the clock for metrics.
// It runs in the link's goroutine.
func (r *Router) deliver(c *choice, o *SequenceOutput) (finished, early bool) {
	finished, early = c.take(o)
	if c.first.IsZero() && len(o.IDs) > 0 {
		c.first = time.Now()
		if obs := r.cfg.Observer; obs != nil {
			obs.FirstToken(c.r.adapter(), c.sent.Sub(c.r.arrive), c.first.Sub(c.r.arrive))
		}
	}
	return finished, early
}

// observe tells the observer of an answer's end, however it came about.
func (r *Router) observe(c *choice) {
	if r.cfg.Observer == nil {
		return
	}
	var ttft time.Duration
	if !c.first.IsZero() {
		ttft = c.first.Sub(c.r.arrive)
	}
	end := c.end
	if end.Reason == FinishNone {
		end.Reason = FinishAbort // its reader left
	}
	r.cfg.Observer.Finished(c.r.adapter(), c.usage(), end, ttft, time.Since(c.r.arrive))
}

// workerError makes an error of a worker's words.
func workerError(o *SequenceOutput) error {
	switch o.ErrorReason {
	case "":
		if o.Error == "" {
			return ErrAborted
		}
	case ReasonAdapterUnloaded:
		return fmt.Errorf("%w: it was unloaded", ErrAdapterNotReady)
	case ReasonAdapterNotLoaded:
		return fmt.Errorf("%w: %s", ErrAdapterNotReady, o.Error)
	case ReasonTooLong:
		return fmt.Errorf("%w: %s", ErrTooLong, o.Error)
	}
	return fmt.Errorf("%w: %s", ErrWorker, o.Error)
}
