package cuda

import (
	"fmt"
	"unsafe"

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
	covered  bool // the step's sequences cover its rows
	pageSize int  // page tables were checked for this size; 0 for none
	rows     int32
	graph    bool

	ops     []op
	tables  tables
	pending []sink // whose results are to come
	drawn   int32  // rows that the step has sampled
	// termScratch is reused by terms.
	termScratch []loraTerm
}

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
	if s.d, err = b.d.openStream(int32(bucket(maxTokens)), ropes); err != nil {
		return nil, fmt.Errorf("cuda: stream: %w", err)
	}
	s.tables.d = s.d
	b.mu.Lock()
	defer b.mu.Unlock()
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
	if s.err != nil {
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
	s.batch, s.rows, s.drawn = b, int32(bucket(len(b.IDs))), 0
	s.tables.turn = 1 - s.tables.turn
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

// flush submits what was recorded, waits, and hands out pending results.
func (s *stream) flush() {
	if s.err == nil && len(s.ops) > 0 {
		sub := s.tables.submission()
		sub.ops, sub.graph = s.ops, s.graph
		if s.keep("submitting a step", s.d.submit(sub)) && s.keep("step", s.d.wait(-1)) {
			s.tables.uploaded()
			for i := range s.pending {
				s.pending[i].deliver(s.tables.room.results[sub.result])
			}
		}
	}
	s.ops, s.pending = s.ops[:0], s.pending[:0]
	s.tables.lists, s.tables.draws = 0, 0
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

// Finish waits for all operations, returns the step's first error and clears it.
func (s *stream) Finish() error {
	s.flush()
	err := s.err
	s.err, s.batch, s.covered = nil, nil, false
	return err
}
