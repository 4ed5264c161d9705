package collective_test

import (
	"testing"

	"chorale/worker/collective"
	"chorale/worker/collective/conformance"
)

// TestSolo: a group of one is a group.
func TestSolo(t *testing.T) {
	s := &collective.Solo{}
	for k := collective.KindAllReduce; k <= collective.KindBarrier; k++ {
		if err := conformance.Step(s, k, 7, 100); err != nil {
			t.Errorf("%v: %v", k, err)
		}
	}
	if c := s.Counts(); c != (collective.Counts{AllReduce: 1, ReduceScatter: 1, AllGather: 1, Broadcast: 1, Barrier: 1}) {
		t.Errorf("%+v", c)
	}
	if err := s.Publish(nil); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Barrier(); err == nil {
		t.Error("a closed group works")
	}
}
