package adaptermgr

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWorkersChange: a group that comes gets what is wanted, one that is taken
// away is looked after no more.
func TestWorkersChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		synctest.Wait()
		a := w.mustLoad("a", "s1").Adapter.Digest
		late := newWorker("late")
		w.m.SetWorkers([]Worker{w.workers[0], late})
		time.Sleep(5 * time.Second)
		if got, _ := w.m.Get("a"); !late.holds()[a] && len(late.holds()) != 1 || len(got.Placements) != 2 || !got.Placements[1].Loaded {
			t.Errorf("the new one holds %v; %+v", late.holds(), got.Placements)
		}
		w.m.SetWorkers([]Worker{late})
		time.Sleep(5 * time.Second)
		b := w.mustLoad("b", "s2").Adapter
		if _, has := w.workers[0].holds()[b.Digest]; has || len(b.Placements) != 1 || b.Placements[0].Worker != "late" {
			t.Errorf("the old one holds %v; %+v", w.workers[0].holds(), b.Placements)
		}
		if got, _ := w.m.Get("a"); got.State != Loaded {
			t.Errorf("%+v", got)
		}
		w.m.SetWorkers(nil)
		time.Sleep(5 * time.Second)
		if got, _ := w.m.Get("a"); got.State != Loading {
			t.Errorf("without groups: %+v", got)
		}
		w.m.SetWorkers([]Worker{w.workers[0]})
		time.Sleep(30 * time.Second)
		if len(w.workers[0].holds()) != 2 {
			t.Errorf("back again it holds %v", w.workers[0].holds())
		}
		w.check()
	})
}
