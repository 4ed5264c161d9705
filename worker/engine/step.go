package engine

import (
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/sample"
	"chorale/worker/sched"
	"chorale/worker/tensor"
)

// want is a row of logits that somebody waits for.
type want struct {
	q *sequence
	// prompt is the position whose log probability the row gives, or 0 when
	// the row is there to sample the next token.
	prompt int
}

// batch is a plan made ready for the model.
type batch struct {
	decoder.Step
	entries []sched.Entry
	wants   []want // one per logit row
	rows    int
	base    int
}

// build lays the plan's entries out as rows, adapter by adapter.
func (e *Engine) build(plan *sched.Plan) *batch {
	b := &batch{entries: plan.Entries}
	for _, en := range plan.Entries {
		q, row := e.bySeq[en.Seq], b.rows
		from := q.Computed
		b.Batch.IDs = append(b.Batch.IDs, q.Tokens[from:from+en.N]...)
		for p := from; p < from+en.N; p++ {
			b.Batch.Pos = append(b.Batch.Pos, int32(p))
			if p+1 < q.prompt && p+1 == q.nextPrompt {
				b.want(row+p-from, want{q, p + 1})
				q.nextPrompt++
			}
		}
		b.Batch.Seqs = append(b.Batch.Seqs, tensor.Seq{QStart: row, QLen: en.N, CtxLen: from + en.N, Pages: q.Table.Pages})
		if en.Sample && q.generated < q.maxTokens {
			b.want(row+en.N-1, want{q: q})
		}
		b.rows += en.N
		e.segment(b, q.Adapter, row)
	}
	return b
}

func (b *batch) want(row int, w want) {
	b.LogitRows = append(b.LogitRows, int32(row))
	b.wants = append(b.wants, w)
}

// segment extends the last segment, or starts one, for the rows just laid out.
func (e *Engine) segment(b *batch, adapter string, row int) {
	if adapter == "" {
		b.base += b.rows - row
		return
	}
	a := e.store.Adapter(adapter)
	b.Segments = grow(b.Segments, a, row, b.rows)
	if n := len(b.wants); n > 0 {
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

// step computes a plan and hands out its tokens.
func (e *Engine) step(plan *sched.Plan) {
	b := e.build(plan)
	e.count(plan, b)
	next := map[*sequence]int32{}
	outs := map[*sequence]*Output{}
	e.runner.Forward(&b.Step)
	var err error
	for from := 0; err == nil && from < len(b.wants); from += decoder.LogitBlock {
		err = e.logits(b, from, min(from+decoder.LogitBlock, len(b.wants)), next, outs)
	}
	if fin := e.runner.Finish(); err == nil {
		err = fin
	}
	if err != nil {
		e.fail(b, err)
		return
	}
	for _, en := range b.entries {
		q := e.bySeq[en.Seq]
		token, sampled := next[q]
		if !sampled {
			token = -1
		}
		e.sched.Commit(en, token)
		e.advance(q, en, outs[q], token, sampled)
	}
}

// logits computes a block of logit rows and takes from it what was wanted.
func (e *Engine) logits(b *batch, from, to int, next map[*sequence]int32, outs map[*sequence]*Output) error {
	stats := make([]tensor.LogitStat, to-from)
	host, err := e.runner.Logits(&b.Step, from, to, stats)
	if err != nil {
		return err
	}
	v := e.model.Spec.Vocab
	for i, w := range b.wants[from:to] {
		row := host[i*v : (i+1)*v]
		if w.prompt > 0 {
			lp := w.q.req.Logprobs
			w.q.promptLPs = append(w.q.promptLPs, sample.Logprobs(row, stats[i].LogSumExp, w.q.Tokens[w.prompt], lp.Top, lp.IDs))
			continue
		}
		next[w.q] = e.pick(w.q, row, stats[i], outs)
	}
	return nil
}

// pick samples a sequence's next token.
func (e *Engine) pick(q *sequence, row []float32, st tensor.LogitStat, outs map[*sequence]*Output) int32 {
	lp := q.req.Logprobs
	if lp == nil {
		token := e.sampler.Next(row, st.ArgMax, &q.req.Params, q.counts, q.generated)
		outs[q] = &Output{StopID: -1}
		return token
	}
	// Sampling may change the row; log probabilities are those of the original.
	e.row = append(e.row[:0], row...)
	token := e.sampler.Next(e.row, st.ArgMax, &q.req.Params, q.counts, q.generated)
	outs[q] = &Output{StopID: -1, Logprobs: []sample.Position{sample.Logprobs(row, st.LogSumExp, token, lp.Top, lp.IDs)}}
	return token
}

// advance emits what the step brought a sequence and ends it when it is done.
func (e *Engine) advance(q *sequence, en sched.Entry, o *Output, token int32, sampled bool) {
	if !sampled {
		if en.Sample { // nothing to generate: the prompt was all
			e.end(q, Output{StopID: -1, Reason: Length, PromptLogprobs: q.promptLPs, Cached: q.Cached})
		}
		return
	}
	q.generated++
	q.counts.Add(token)
	o.Tokens = []int32{token}
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
		e.end(q, *o)
		return
	}
	o.ID = q.req.ID
	e.emit(q.conn, *o)
}

// fail ends the sequences of a step that could not be computed; the others go on.
// With the device lost nothing goes on, and all may be continued elsewhere.
func (e *Engine) fail(b *batch, err error) {
	if errors.Is(err, tensor.ErrLost) {
		e.lost = fmt.Errorf("step %d with %d rows and %d adapters: %w", e.stats.Step, b.rows, e.stats.Adapters, err)
		return
	}
	err = fmt.Errorf("%w: %w", ErrStep, err)
	e.log.Error("step failed", zap.Uint64("step", e.stats.Step), zap.Int("rows", b.rows), zap.Error(err))
	for _, en := range b.entries {
		e.end(e.bySeq[en.Seq], Output{Reason: Abort, Err: err, StopID: -1})
	}
}

func (e *Engine) count(plan *sched.Plan, b *batch) {
	s := &e.stats
	s.Step++
	s.Rows, s.BaseRows, s.Adapters = b.rows, b.base, len(plan.Adapters)
	s.MaxAdapters = max(s.MaxAdapters, s.Adapters)
}
