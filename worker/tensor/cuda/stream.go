package cuda

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// stream checks every operand and records; flush submits.
type stream struct {
	b         *Backend
	d         driverStream
	maxTokens int
	halves    []int // of each rope

	batch    *tensor.Batch
	err      error
	vocab    int  // that is shared out, 0 for none
	covered  bool // the step's sequences cover its rows
	pageSize int  // page tables were checked for this size; 0 for none
	rows     int32
	graph    bool

	ops     []op
	tables  tables
	pending []sink // whose results are to come
	// drawn counts the rows that the step has sampled, before those of the step
	// before.
	drawn, before int32
	flights       []flight
	// termScratch is reused by terms.
	termScratch []loraTerm
}

// flight is a launched step.
type flight struct {
	sinks  []sink
	err    error
	result int32   // the buffer that its results come to
	each   int32   // words of a rank, when those of all come; else 0
	came   brought // when it has been waited for
}

// maxDepth is how many steps may be launched: one runs, the next is prepared.
const maxDepth = results

// NewStream makes a stream for steps of at most maxTokens rows.
func (b *Backend) NewStream(maxTokens int, ropes []tensor.RopeSpec) (tensor.Stream, error) {
	if maxTokens <= 0 {
		return nil, fmt.Errorf("cuda: stream of %d tokens: %w", maxTokens, tensor.ErrShape)
	}
	s := &stream{b: b, maxTokens: maxTokens}
	for i, r := range ropes {
		if len(r.InvFreq) == 0 {
			return nil, fmt.Errorf("cuda: rope %d has no frequencies: %w", i, tensor.ErrShape)
		}
		s.halves = append(s.halves, len(r.InvFreq))
	}
	var err error
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ranks != nil {
		if err := b.ranks.connect(b.d); err != nil {
			return nil, fmt.Errorf("cuda: stream: %w", err)
		}
	}
	if s.d, err = b.d.openStream(int32(bucket(maxTokens)), ropes); err != nil {
		return nil, fmt.Errorf("cuda: stream: %w", err)
	}
	if b.ranks != nil {
		if err := s.d.join(b.ranks); err != nil {
			_ = s.d.close() // the first error counts
			return nil, fmt.Errorf("cuda: stream: %w", err)
		}
	}
	s.tables.d, s.tables.moving = s.d, s.keepResults
	b.streams = append(b.streams, s)
	return s, nil
}

func (s *stream) close() error { return s.d.close() }

// Statistics counts what a stream of this package has submitted.
func StreamStatistics(s tensor.Stream) (Statistics, error) {
	own, ok := s.(*stream)
	if !ok {
		return Statistics{}, fmt.Errorf("cuda: not a stream of this package: %w", tensor.ErrUnsupported)
	}
	return own.d.statistics()
}

// fail keeps the first error. It returns false so that checks can end with it.
func (s *stream) fail(op, format string, args ...any) bool {
	if s.err == nil {
		s.err = fmt.Errorf("cuda: %s: %s: %w", op, fmt.Sprintf(format, args...), tensor.ErrShape)
	}
	return false
}

// keep keeps an error of the device, unless there is one already.
func (s *stream) keep(op string, err error) bool {
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("cuda: %s: %w", op, err)
	}
	return s.err == nil
}

// Begin starts a step: it lays out and fills the step's tables.
func (s *stream) Begin(b *tensor.Batch) {
	s.batch, s.pageSize, s.covered = nil, 0, false
	s.before, s.drawn = s.drawn, 0
	s.tables.turn = 1 - s.tables.turn
	if s.err != nil || !s.keep("Begin", s.tables.ready()) {
		return
	}
	if len(s.flights) == s.b.depth {
		s.fail("Begin", "%d steps are launched", s.b.depth)
		return
	}
	if b == nil || len(b.IDs) != len(b.Pos) || len(b.IDs) == 0 || len(b.IDs) > s.maxTokens {
		if b == nil {
			b = &tensor.Batch{}
		}
		s.fail("Begin", "%d ids, %d positions, at most %d rows", len(b.IDs), len(b.Pos), s.maxTokens)
		return
	}
	if !s.checkSeqs(b) {
		return
	}
	for t, id := range b.IDs {
		if id < 0 && -1-id >= s.before {
			s.fail("Begin", "row %d is token %d of the step before, which sampled %d", t, -1-id, s.before)
			return
		}
	}
	s.batch, s.rows = b, int32(bucket(len(b.IDs)))
	s.graph = s.covered && len(b.Seqs) == len(b.IDs) && len(b.IDs) <= graphRows
	if s.keep("Begin", s.tables.begin(b, s.rows)) && s.covered && len(s.halves) > 0 {
		s.record(op{kind: opAngles, rows: s.rows})
	}
}

// checkSeqs checks that the sequences, when there are any, cover the rows in
// order and agree with the positions.
func (s *stream) checkSeqs(b *tensor.Batch) bool {
	row := 0
	for i, q := range b.Seqs {
		if q.QStart != row || q.QLen <= 0 || q.QLen > len(b.IDs)-row || q.CtxLen < q.QLen {
			return s.fail("Begin", "sequence %d has rows %d+%d and context %d; the batch has %d rows and row %d is next",
				i, q.QStart, q.QLen, q.CtxLen, len(b.IDs), row)
		}
		for j := range q.QLen {
			if int(b.Pos[row+j]) != q.CtxLen-q.QLen+j {
				return s.fail("Begin", "row %d of sequence %d has position %d, want %d", row+j, i, b.Pos[row+j], q.CtxLen-q.QLen+j)
			}
		}
		row += q.QLen
	}
	if len(b.Seqs) > 0 && row != len(b.IDs) {
		return s.fail("Begin", "sequences cover %d of %d rows", row, len(b.IDs))
	}
	s.covered = len(b.Seqs) > 0
	return true
}

func (s *stream) record(o op) { s.ops = append(s.ops, o) }

// submit starts what was recorded and reports whether it did.
func (s *stream) submit() bool {
	ok := s.err == nil && len(s.ops) > 0
	if ok {
		sub := s.tables.submission()
		sub.ops, sub.graph, sub.result, sub.gather = s.ops, s.graph, s.tables.turn, gathers(s.pending)
		if ok = s.keep("submitting a step", s.explain(s.d.submit(sub))); ok {
			s.tables.submitted()
		}
	}
	s.ops = s.ops[:0]
	s.tables.lists, s.tables.draws = 0, 0
	return ok
}

// flush submits what was recorded, waits, and hands out pending results.
func (s *stream) flush() {
	if s.submit() && s.keep("step", s.explain(s.d.wait(-1))) {
		deliver(s.pending, s.results(s.tables.turn, s.each()))
	}
	s.pending = s.pending[:0]
}

// Depth is 2 unless the options say otherwise.
func (s *stream) Depth() int { return s.b.depth }

// Launch submits the step. Its tables may be written again once they are on the
// device, which they are soon after the step before has ended.
func (s *stream) Launch() {
	s.submit()
	f := flight{err: s.err, result: s.tables.turn, each: s.each()}
	if f.err == nil {
		f.sinks = append([]sink(nil), s.pending...)
	}
	s.flights = append(s.flights, f)
	s.err, s.batch, s.covered, s.pending = nil, nil, false, s.pending[:0]
}

// Wait waits for the oldest launched step and fills its results.
func (s *stream) Wait() error {
	if len(s.flights) == 0 {
		return nil
	}
	s.take(&s.flights[0])
	f := s.flights[0]
	s.flights = slices.Delete(s.flights, 0, 1)
	if f.err == nil {
		deliver(f.sinks, f.came)
	}
	return f.err
}

// take waits for a launched step and finds its results.
func (s *stream) take(f *flight) {
	if f.err != nil || f.came.words != nil {
		return
	}
	if err := s.explain(s.d.wait(f.result)); err != nil {
		f.err = fmt.Errorf("cuda: step: %w", err)
		return
	}
	f.came = s.results(f.result, f.each)
}

// each is how many words of a rank a submission brings of all ranks; 0 when only
// this rank's come.
func (s *stream) each() int32 {
	if gathers(s.pending) {
		return s.tables.words
	}
	return 0
}

// results are what a submission brought.
func (s *stream) results(buffer, each int32) brought {
	return brought{s.tables.room.results[buffer], int(each), s.b.group.Rank(), s.b.group.Size()}
}

// explain says that the group is over where it is: what the device then brings
// means nothing, and an error of the communicator names no rank.
func (s *stream) explain(err error) error {
	r := s.b.ranks
	if r == nil || err != nil && !errors.Is(err, collective.ErrAborted) {
		return err
	}
	if err != nil {
		return r.fail(err)
	}
	return r.err()
}

// keepResults copies what launched steps bring, before its memory moves.
func (s *stream) keepResults() {
	for i := range s.flights {
		f := &s.flights[i]
		s.take(f)
		f.came.words = append(make([]uint32, 0, len(f.came.words)+1), f.came.words...)
	}
}

// Host copies buf's rows to pinned host memory, unless the copy of before still
// holds. What the caller writes there stays there.
func (s *stream) Host(buf tensor.Buffer) []float32 {
	const name = "Host"
	b := s.buf(name, "the buffer", buf)
	if s.err != nil {
		return nil
	}
	if !b.fresh && b.rows > 0 {
		mem, err := b.hostRows()
		if !s.keep(name, err) {
			return nil
		}
		s.record(op{kind: opToHost, rows: int32(bucket(b.rows)), x: b.view(), host: addr(unsafe.Pointer(&mem[0]))})
	}
	s.flush()
	if s.err != nil {
		return nil
	}
	b.fresh = true
	mem, err := b.hostRows()
	if !s.keep(name, err) {
		return nil
	}
	return mem[:b.rows*b.cols]
}

// Err waits for all operations and returns the step's first error so far.
func (s *stream) Err() error {
	s.flush()
	return s.err
}

// Finish launches the step, waits for all that is launched and returns the first
// error.
func (s *stream) Finish() error {
	s.Launch()
	var first error
	for len(s.flights) > 0 {
		if err := s.Wait(); first == nil {
			first = err
		}
	}
	return first
}
