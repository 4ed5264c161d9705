package cpu

import (
	"math"
	"slices"

	"chorale/worker/sample"
	"chorale/worker/tensor"
)

// LogitStats summarises each row.
func (s *stream) LogitStats(out []tensor.LogitStat, logits tensor.Buffer) {
	const op = "LogitStats"
	if !s.ready(op) {
		return
	}
	x := s.buf(op, "logits", logits)
	if x == nil {
		return
	}
	if len(out) != x.rows {
		s.fail(op, "%d results for %d rows", len(out), x.rows)
		return
	}
	vocab, split, ok := s.split(op, x.cols)
	if !ok || x.rows == 0 {
		return
	}
	if !split {
		s.keep(s.b.k.logitStats(out, x))
		return
	}
	shard, ok := s.shard(x, vocab)
	if !ok {
		return
	}
	if err := s.sharded.Stats(out, shard); err != nil {
		s.lost(op, err)
	}
}

// Sample serves the rows one by one, on the caller's thread.
func (s *stream) Sample(out []tensor.Sampled, logits tensor.Buffer, rows []tensor.SampleRow) {
	const op = "Sample"
	if !s.ready(op) {
		return
	}
	x := s.buf(op, "logits", logits)
	if x == nil {
		return
	}
	vocab, split, ok := s.split(op, x.cols)
	if !ok {
		return
	}
	if err := tensor.CheckSample(x, vocab, s.maxTokens-len(s.tokens), len(s.before), out, rows); err != nil {
		s.fail(op, "%v", err)
		return
	}
	if split {
		s.sampleSplit(op, out, x, vocab, rows)
		return
	}
	s.stats = slices.Grow(s.stats[:0], len(rows))[:len(rows)]
	s.LogitStats(s.stats, logits)
	if s.err != nil {
		return
	}
	for i := range rows {
		out[i] = s.sampler.Sample(x.row(i), s.stats[i], &rows[i], s.last(&rows[i]))
		s.tokens = append(s.tokens, out[i].Token)
	}
}

// last is the token that r counts beside its adjustments, -1 for none.
func (s *stream) last(r *tensor.SampleRow) int32 {
	if r.Last > 0 {
		return s.before[r.Last-1]
	}
	return -1
}

// sampleSplit finds the tokens together with the other ranks.
func (s *stream) sampleSplit(op string, out []tensor.Sampled, x *buffer, vocab int, rows []tensor.SampleRow) {
	if len(rows) == 0 {
		return
	}
	shard, ok := s.shard(x, vocab)
	if !ok {
		return
	}
	if err := s.sharded.Sample(out, shard, rows, s.last); err != nil {
		s.lost(op, err)
		return
	}
	for i := range out {
		s.tokens = append(s.tokens, out[i].Token)
	}
}

// shard is this rank's part of logits, with its statistics.
func (s *stream) shard(x *buffer, vocab int) (sample.Shard, bool) {
	sh := sample.Shard{Group: s.b.group, Width: x.cols, Total: vocab, Row: x.row}
	for t := range x.rows {
		row := x.row(t)[sh.Own():]
		for i := range row { // padding takes no part in the statistics
			row[i] = float32(math.Inf(-1))
		}
	}
	s.stats = slices.Grow(s.stats[:0], x.rows)[:x.rows]
	s.keep(s.b.k.logitStats(s.stats, x))
	sh.Stats = s.stats
	return sh, s.err == nil
}
