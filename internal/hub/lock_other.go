//go:build !unix || solaris || aix

package hub

import (
	"context"
	"sync"
)

// locks holds one channel per lock path: systems without flock are guarded
// against other goroutines only.
var locks sync.Map

func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	v, _ := locks.LoadOrStore(path, make(chan struct{}, 1))
	ch := v.(chan struct{})
	select {
	case ch <- struct{}{}:
		return func() { <-ch }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
