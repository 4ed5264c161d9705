package main

import (
	"context"
	"os"
	"time"

	"chorale/internal/hub"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// totals are a count of bytes as the hub's client tells it.
func totals(done, total int64) hub.Progress { return hub.Progress{TotalDone: done, TotalSize: total} }

// byteProgress shows bytes on their way: a bar on a terminal, else a line now
// and then.
func byteProgress(f *os.File, what string) (report func(done, total int64), end func(ok bool)) {
	if isTerminal(f) {
		bar, end := barProgress(f, what)
		return func(done, total int64) { bar(totals(done, total)) }, end
	}
	line := lineProgress(f, what, time.Now)
	return func(done, total int64) { line(totals(done, total)) }, func(bool) {}
}

// adapterGetter is what showLoading asks; a *client.Client is one.
type adapterGetter interface {
	Adapter(ctx context.Context, name string) (*choralev1.Adapter, error)
}

// pollEvery is how often a load is looked at.
const pollEvery = 250 * time.Millisecond

// showLoading shows the bytes that the server has fetched for a load, until
// stop is called. Loads that fetch nothing show nothing.
func showLoading(ctx context.Context, c adapterGetter, name string, begin func() (report func(done, total int64), end func(ok bool))) (stop func(ok bool)) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan func(ok bool))
	go func() {
		var report func(done, total int64)
		end := func(bool) {}
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				ended <- end
				return
			}
			// A server that does not answer is the load's to report.
			a, err := c.Adapter(ctx, name)
			p := a.GetLoading()
			if err != nil || p.GetBytesDone() <= 0 {
				continue
			}
			if report == nil {
				report, end = begin()
			}
			report(p.GetBytesDone(), max(0, p.GetBytesTotal()))
		}
	}()
	return func(ok bool) {
		cancel()
		(<-ended)(ok)
	}
}
