package adaptermgr

import (
	"errors"
	"testing"
	"testing/synctest"

	"chorale/internal/peft"
)

// TestRestrict: limits that come later hold for later loads; what is loaded
// stays.
func TestRestrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]art{"small": {}, "large": {rank: 5}, "huge": {rank: 6}}, 1)
		w.mustLoad("a", "large")
		w.m.Restrict(peft.Limits{MaxRank: 5})
		w.mustLoad("b", "small")
		if _, err := w.load("c", "huge"); !errors.Is(err, ErrRankTooLarge) {
			t.Errorf("rank 6 of at most 5: %v", err)
		}
		w.m.Restrict(peft.Limits{MaxRank: 2})
		if w.state("a") != Loaded {
			t.Errorf("an adapter that was loaded before is %v", w.state("a"))
		}
		if _, err := w.load("d", "large"); !errors.Is(err, ErrRankTooLarge) {
			t.Errorf("rank 5 of at most 2: %v", err)
		}
		w.check()
	})
}
