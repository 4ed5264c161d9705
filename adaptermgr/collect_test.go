package adaptermgr

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chorale/adaptermgr/blob"
)

// stuckBlobs cannot be removed for a while.
type stuckBlobs struct {
	Blobs
	stuck *atomic.Bool
}

func (b stuckBlobs) Remove(d string) error {
	if b.stuck.Load() {
		return errors.New("busy")
	}
	return b.Blobs.Remove(d)
}

// TestSurplusBlobsAreCollected: what could not be removed with its name goes
// later, what is in use never.
func TestSurplusBlobsAreCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stuck atomic.Bool
		w := newWorld(t, someArts(), 1, func(o *Options) { o.Blobs = stuckBlobs{o.Blobs, &stuck} })
		w.mustLoad("a", "s1")
		w.mustLoad("b", "s2")
		count := func() int {
			list, err := w.m.o.Blobs.List()
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		before := count()
		stuck.Store(true)
		if err := w.unload("a", false); err != nil {
			t.Fatal(err)
		}
		if count() != before {
			t.Fatal("removed although it could not be")
		}
		stuck.Store(false)
		time.Sleep(collectEvery + time.Minute)
		synctest.Wait()
		if n := count(); n == before || n == 0 {
			t.Errorf("%d blobs, %d before", n, before)
		}
		w.check()
		w.mustLoad("c", "s2") // the content of b is there
		w.stop()
	})
}

// TestQuotaOfLoads: a load beyond the quota leaves what is there, and fits once
// another has gone.
func TestQuotaOfLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q *blob.Quota
		w := newWorld(t, someArts(), 1, func(o *Options) {
			q = blob.NewQuota(1 << 40)
			blobs, err := OpenBlobsWithin(t.TempDir(), q)
			if err != nil {
				t.Fatal(err)
			}
			o.Blobs = blobs
		})
		w.mustLoad("a", "s1")
		full := q.Used()
		q.Count(q.Limit() - full - 10) // somebody else's
		_, err := w.load("b", "s2")
		if !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "quota") {
			t.Errorf("err = %v", err)
		}
		if used := q.Limit() - q.Used(); used != 10 || w.state("a") != Loaded || w.state("b") != StateUnspecified {
			t.Errorf("%d left, a is %s, b is %s", used, w.state("a"), w.state("b"))
		}
		w.stop()
	})
}
