package workers

import (
	"context"
	"sync"
	"time"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/worker/lora"
)

// countInterval is how often a worker tells what its adapters were used for.
const countInterval = 2 * time.Second

// reportCounts tells the router what has changed of the adapters' counts now and
// again, until ctx ends or what it returns is called, which waits.
func reportCounts(ctx context.Context, e counter, up *sender) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(countInterval)
		defer tick.Stop()
		told := uint64(0)
		for {
			changed, last, err := e.AdapterCounts(ctx, told)
			if err != nil {
				return // the engine or the stream has ended
			}
			told = last
			if len(changed) > 0 && up.send(&pb.ConnectResponse{Adapters: countsProto(changed)}) != nil {
				return // the stream's own loop learns why
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// counter is an engine that counts.
type counter interface {
	AdapterCounts(ctx context.Context, after uint64) (changed []lora.Counts, last uint64, err error)
}

func countsProto(cs []lora.Counts) *pb.AdapterCounts {
	out := &pb.AdapterCounts{Adapters: make([]*pb.AdapterCount, len(cs)), LoadBounds: lora.TimeBounds[:]}
	for i := range cs {
		c := &cs[i]
		out.Adapters[i] = &pb.AdapterCount{
			Digest: c.Digest, Since: c.Since, Hits: c.Hits, Misses: c.Misses, Evictions: c.Evictions,
			LoadCounts: c.LoadTime.Classes[:], LoadSeconds: c.LoadTime.Sum,
		}
	}
	return out
}

func adapterCounts(cs *pb.AdapterCounts) []router.AdapterCount {
	if len(cs.GetAdapters()) == 0 {
		return nil
	}
	out := make([]router.AdapterCount, len(cs.GetAdapters()))
	for i, c := range cs.GetAdapters() {
		out[i] = router.AdapterCount{
			Digest: c.GetDigest(), Since: c.GetSince(), Hits: c.GetHits(), Misses: c.GetMisses(), Evictions: c.GetEvictions(),
			LoadBounds: cs.GetLoadBounds(), LoadCounts: c.GetLoadCounts(), LoadSeconds: c.GetLoadSeconds(),
		}
	}
	return out
}
