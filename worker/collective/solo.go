package collective

import "sync/atomic"

// Solo is a group of one rank: it copies and counts, and waits for nobody.
type Solo struct {
	Counter
	over atomic.Pointer[AbortError]
}

var _ Member = (*Solo)(nil)

func (s *Solo) Rank() int { return 0 }
func (s *Solo) Size() int { return 1 }

func (s *Solo) begin(k Kind) error {
	if e := s.over.Load(); e != nil {
		return e
	}
	s.Count(k)
	return nil
}

func (s *Solo) AllReduce([]float32) error { return s.begin(KindAllReduce) }

func (s *Solo) ReduceScatter(dst, src []float32) error {
	if err := CheckScatter(len(dst), len(src), 1); err != nil {
		return err
	}
	if err := s.begin(KindReduceScatter); err != nil {
		return err
	}
	copy(dst, src)
	return nil
}

func (s *Solo) AllGather(dst, src []byte) error {
	if err := CheckScatter(len(src), len(dst), 1); err != nil {
		return err
	}
	if err := s.begin(KindAllGather); err != nil {
		return err
	}
	copy(dst, src)
	return nil
}

func (s *Solo) Broadcast(_ []byte, root int) error {
	if err := CheckRoot(root, 1); err != nil {
		return err
	}
	return s.begin(KindBroadcast)
}

func (s *Solo) Barrier() error { return s.begin(KindBarrier) }

func (s *Solo) Abort(reason string) {
	s.over.CompareAndSwap(nil, &AbortError{Rank: 0, Reason: reason})
}

// Ended tells why the group is over.
func (s *Solo) Ended() error {
	if e := s.over.Load(); e != nil {
		return e
	}
	return nil
}

func (s *Solo) Close() error {
	s.Abort("left the group")
	return nil
}

// Publish has nobody to tell.
func (s *Solo) Publish([]byte) error {
	if e := s.over.Load(); e != nil {
		return e
	}
	return nil
}

// Next fails: a group of one has no followers.
func (s *Solo) Next([]byte) ([]byte, error) { return nil, ErrRole }
