package sched

import (
	"slices"
	"testing"

	"chorale/worker/kv"
)

func TestUpcoming(t *testing.T) {
	s := New(Config{MaxBatchTokens: 8, MaxRunning: 1, MaxAdapters: 1, StarveSteps: 4}, kv.NewPool(8), newDevice(1))
	if got := s.Upcoming(4); got != nil {
		t.Errorf("nobody waits for %v", got)
	}
	for _, a := range []string{"b", "", "a", "b", "c", "d"} {
		s.Add(&Seq{Adapter: a, Tokens: []int32{1}})
	}
	if got := s.Upcoming(3); !slices.Equal(got, []string{"b", "a", "c"}) {
		t.Errorf("%v", got)
	}
}
