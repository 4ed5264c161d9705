package source

import (
	"context"
	"sync"
	"time"
)

type progressKey struct{}

// WithProgress returns a context under which Fetch tells how far it is: bytes
// that have come, and bytes in all, 0 while that is not known. report is
// called by one goroutine at a time, ten times a second at most and once at
// the end, and must return soon.
func WithProgress(ctx context.Context, report func(done, total int64)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// reportEvery is how often progress is told.
const reportEvery = 100 * time.Millisecond

// progress adds up the files of one source.
type progress struct {
	report func(done, total int64)

	mu    sync.Mutex
	files map[string]counts
	last  time.Time
}

// counts are a file's bytes; total is negative while it is not known.
type counts struct{ done, total int64 }

func progressOf(ctx context.Context) *progress {
	report, _ := ctx.Value(progressKey{}).(func(done, total int64))
	return &progress{report: report, files: map[string]counts{}}
}

// set notes how far a file is.
func (p *progress) set(file string, c counts) {
	if p.report == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files[file] = c
	done, total, known := int64(0), int64(0), true
	for _, f := range p.files {
		done += f.done
		total += f.total
		known = known && f.total >= 0
	}
	if !known {
		total = 0
	}
	if now := time.Now(); now.Sub(p.last) >= reportEvery || known && done == total {
		p.last = now
		p.report(done, total)
	}
}
