package workers

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chorale/router"
	"chorale/worker/lora"
)

// clerk is an engine that counts.
type clerk struct {
	mu      sync.Mutex
	changed []lora.Counts
	last    uint64
	asked   []uint64
}

var errOver = errors.New("over")

func (c *clerk) AdapterCounts(ctx context.Context, after uint64) ([]lora.Counts, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, after)
	if ctx.Err() != nil {
		return nil, 0, errOver
	}
	out := c.changed
	c.changed = nil
	return out, c.last, nil
}

// TestReportCounts: the router hears what has changed since it heard last, and
// nothing when nothing has.
func TestReportCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := &clerk{last: 1}, &ear{}
		stop := reportCounts(context.Background(), c, &sender{stream: e})
		time.Sleep(countInterval / 2)
		if len(e.heard) != 0 {
			t.Fatal("told of nothing")
		}
		one := lora.Counts{Digest: "d", Since: 3, Hits: 1, Misses: 2, Evictions: 4}
		one.LoadTime.Add(1e9)
		c.mu.Lock()
		c.changed, c.last = []lora.Counts{one}, 7
		c.mu.Unlock()
		time.Sleep(2 * countInterval)
		synctest.Wait()
		stop()
		if want := []uint64{0, 1, 7}; !reflect.DeepEqual(c.asked, want) {
			t.Errorf("asked for what came after %v, want %v", c.asked, want)
		}
		if len(e.heard) != 1 {
			t.Fatalf("told %d times", len(e.heard))
		}
		got := routerOutputs(e.heard[0], nil).Adapters
		loads := make([]uint64, len(lora.TimeBounds)+1)
		loads[len(loads)-1] = 1
		want := []router.AdapterCount{{
			Digest: "d", Since: 3, Hits: 1, Misses: 2, Evictions: 4, LoadBounds: lora.TimeBounds[:], LoadCounts: loads, LoadSeconds: 1e9,
		}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}
