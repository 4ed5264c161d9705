package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/sample"
	"chorale/worker/sched"
	"chorale/worker/tensor"
)

// share is one sequence's part of a batch.
type share struct {
	q *sequence
	sched.Entry
	// prompt counts the logit rows, from logits on, that tell log probabilities
	// of the prompt; one more follows when a token is drawn.
	logits, prompt int
	draws          bool
}

// batch is a plan made ready for the model.
type batch struct {
	decoder.Step
	shares   []share
	adapters int
	launched time.Time
	asks     []tensor.SampleRow // one per logit row
	sampled  []tensor.Sampled   // their outcome
	rows     int
	base     int
}

// build lays the plan's entries out as rows, adapter by adapter, and notes them
// as launched.
func (e *Engine) build(plan *sched.Plan) *batch {
	b := &batch{adapters: len(plan.Adapters)}
	for _, en := range plan.Entries {
		q, row, from := e.bySeq[en.Seq], b.rows, en.From
		sh := share{q: q, Entry: en, logits: len(b.asks)}
		b.Batch.IDs = append(b.Batch.IDs, q.Tokens[from:from+en.N]...)
		if last := &b.Batch.IDs[len(b.Batch.IDs)-1]; *last == sched.Unknown {
			*last = int32(-1 - q.row)
		}
		for p := from; p < from+en.N; p++ {
			b.Batch.Pos = append(b.Batch.Pos, int32(p))
			if p+1 < q.prompt && p+1 == q.nextPrompt {
				b.ask(row+p-from, q.score(p+1))
				q.nextPrompt++
				sh.prompt++
			}
		}
		b.Batch.Seqs = append(b.Batch.Seqs, tensor.Seq{QStart: row, QLen: en.N, CtxLen: from + en.N, Pages: q.Table.Pages})
		if sh.draws = en.Sample && q.generated+q.unknown < q.maxTokens; sh.draws {
			r := q.draw()
			q.row, q.unknown = len(b.asks), q.unknown+1
			b.ask(row+en.N-1, r)
		}
		e.sched.Launch(en, sh.draws && q.generated+q.unknown < q.maxTokens)
		b.shares = append(b.shares, sh)
		b.rows += en.N
		e.segment(b, q.Adapter, row)
	}
	b.sampled = make([]tensor.Sampled, len(b.asks))
	return b
}

func (b *batch) ask(row int, r tensor.SampleRow) {
	b.LogitRows = append(b.LogitRows, int32(row))
	b.asks = append(b.asks, r)
}

// score asks for the log probability of a prompt's token.
func (q *sequence) score(position int) tensor.SampleRow {
	lp := q.req.Logprobs
	return tensor.SampleRow{Given: true, Token: q.Tokens[position], Top: lp.Top, IDs: lp.IDs}
}

// draw asks for the sequence's next token.
func (q *sequence) draw() tensor.SampleRow {
	var r tensor.SampleRow
	q.req.Params.Row(&r, q.counts, q.generated+q.unknown)
	if q.unknown > 0 && q.counts.Counted() {
		r.Last = q.row + 1
	}
	if lp := q.req.Logprobs; lp != nil {
		r.Top, r.IDs = lp.Top, lp.IDs
	}
	return r
}

// segment extends the last segment, or starts one, for the rows just laid out.
func (e *Engine) segment(b *batch, adapter string, row int) {
	if adapter == "" {
		b.base += b.rows - row
		return
	}
	a := e.store.Adapter(adapter)
	b.Segments = grow(b.Segments, a, row, b.rows)
	if n := len(b.asks); n > 0 {
		from := n
		for from > 0 && int(b.LogitRows[from-1]) >= row {
			from--
		}
		if from < n {
			b.LogitSegments = grow(b.LogitSegments, a, from, n)
		}
	}
}

func grow(segs []nn.Segment, a *nn.Adapter, start, end int) []nn.Segment {
	if n := len(segs); n > 0 && segs[n-1].Adapter == a && segs[n-1].End == start {
		segs[n-1].End = end
		return segs
	}
	return append(segs, nn.Segment{Start: start, End: end, Adapter: a})
}

// launch starts a plan's step. The one before it may still be under way: what a
// sequence's last token is, the device knows.
func (e *Engine) launch(plan *sched.Plan) {
	b := e.build(plan)
	b.launched = time.Now()
	if err := e.ranks.Step(&b.Step, b.asks); err != nil {
		e.broken(err) // the step still comes to an end, at its first sum
	}
	e.runner.Forward(&b.Step)
	e.runner.Sample(&b.Step, b.sampled, b.asks)
	e.runner.Launch()
	e.flights = append(e.flights, b)
}

// land waits for the oldest launched step and hands out its tokens.
func (e *Engine) land() {
	b := e.flights[0]
	e.flights = slices.Delete(e.flights, 0, 1)
	err := e.runner.Wait()
	e.ranks.Landed(b.sampled)
	if err == nil {
		err = e.ranks.Err() // the others may have computed something else
	}
	e.count(b)
	if err != nil {
		e.fail(b, err)
	}
	for i := range b.shares {
		sh := &b.shares[i]
		if sh.draws {
			sh.q.unknown--
		}
		if err != nil || sh.q.ended { // nobody waits for it any more
			e.sched.Commit(sh.Entry, -1)
			e.settle(sh.q)
			continue
		}
		e.advance(b, sh)
	}
	if e.lost == nil {
		e.publish()
	}
}

// advance takes in what the step brought a sequence, emits it, and ends the
// sequence when it is done.
func (e *Engine) advance(b *batch, sh *share) {
	q := sh.q
	for i := sh.logits; i < sh.logits+sh.prompt; i++ {
		q.promptLPs = append(q.promptLPs, sample.PositionOf(&b.sampled[i]))
	}
	if !sh.draws {
		e.sched.Commit(sh.Entry, -1)
		if sh.Sample { // nothing to generate: the prompt was all
			e.end(q, Output{StopID: -1, Reason: Length, PromptLogprobs: q.promptLPs, Cached: q.Cached})
		}
		return
	}
	got := &b.sampled[sh.logits+sh.prompt]
	token := got.Token
	e.sched.Commit(sh.Entry, token)
	q.generated++
	q.counts.Add(token)
	o := Output{Tokens: []int32{token}, StopID: -1}
	if q.req.Logprobs != nil {
		o.Logprobs = []sample.Position{sample.PositionOf(got)}
	}
	if q.generated == q.req.Generated+1 {
		o.PromptLogprobs, o.Cached = q.promptLPs, q.Cached
		q.promptLPs = nil
	}
	switch {
	case !q.req.IgnoreEOS && (slices.Contains(e.opts.EOS, token) || slices.Contains(q.req.StopIDs, token)):
		o.Reason, o.StopID = Stop, token
	case q.generated >= q.maxTokens:
		o.Reason = Length
	}
	if o.Reason != Running {
		e.end(q, o)
		return
	}
	o.ID = q.req.ID
	e.emit(q.conn, o)
}

// fail ends the sequences of a step that could not be computed; the others go on.
// With the device lost nothing goes on, and all may be continued elsewhere.
func (e *Engine) fail(b *batch, err error) {
	if e.grouped() {
		if e.lost == nil && errors.Is(err, tensor.ErrLost) {
			e.lost = fmt.Errorf("step %d: %w", e.stats.Step, err)
		}
		e.broken(err)
		return
	}
	if errors.Is(err, tensor.ErrLost) {
		if e.lost != nil {
			return
		}
		e.lost = fmt.Errorf("step %d with %d rows and %d adapters: %w", e.stats.Step, b.rows, e.stats.Adapters, err)
		return
	}
	err = fmt.Errorf("%w: %w", ErrStep, err)
	e.log.Error("step failed", zap.Uint64("step", e.stats.Step), zap.Int("rows", b.rows), zap.Error(err))
	for _, sh := range b.shares {
		if !sh.q.ended {
			e.end(sh.q, Output{Reason: Abort, Err: err, StopID: -1})
		}
	}
}

// count notes what the step was. It took the time since its launch, or since the
// step before it ended.
func (e *Engine) count(b *batch) {
	s := &e.stats
	s.Step++
	s.Rows, s.BaseRows, s.Adapters = b.rows, b.base, b.adapters
	s.MaxAdapters = max(s.MaxAdapters, s.Adapters)
	now := time.Now()
	if b.launched.Before(e.landed) {
		b.launched = e.landed
	}
	s.Duration, e.landed = now.Sub(b.launched), now
}
