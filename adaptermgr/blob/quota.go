package blob

import (
	"fmt"
	"sync"
)

// Quota bounds the bytes of several folders together: blobs, and what is on
// its way to become one. A nil *Quota bounds nothing. It is safe for
// concurrent use.
type Quota struct {
	limit int64

	mu      sync.Mutex
	used    int64
	relieve []func(need int64)
}

// NewQuota returns a quota of limit bytes; 0 or less only counts.
func NewQuota(limit int64) *Quota { return &Quota{limit: limit} }

// OnPressure adds a function that is asked to give bytes back, need of them,
// before Take refuses. It may call Give, not Take.
func (q *Quota) OnPressure(relieve func(need int64)) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.relieve = append(q.relieve, relieve)
}

// Take counts n bytes in, or fails with ErrFull and counts nothing.
func (q *Quota) Take(n int64) error {
	need := q.take(n, false)
	if need <= 0 {
		return nil
	}
	q.mu.Lock()
	relieve := q.relieve
	q.mu.Unlock()
	for _, f := range relieve {
		f(need)
		if need = q.take(n, false); need <= 0 {
			return nil
		}
	}
	return fmt.Errorf("blob: %w: the quota of %d bytes has %d left, %d more are needed", ErrFull, q.limit, max(0, n-need), n)
}

// take counts n in when it fits, or by force, and returns how much is missing.
func (q *Quota) take(n int64, force bool) (need int64) {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if need = q.used + n - q.limit; need > 0 && q.limit > 0 && !force {
		return need
	}
	q.used += n
	return 0
}

// Count counts in n bytes that are there already, whatever the limit.
func (q *Quota) Count(n int64) { q.take(n, true) }

// Give counts n bytes out.
func (q *Quota) Give(n int64) { q.take(-n, true) }

// Used returns the bytes counted in.
func (q *Quota) Used() int64 {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used
}

// Limit returns the bound in bytes, 0 for none.
func (q *Quota) Limit() int64 {
	if q == nil {
		return 0
	}
	return max(0, q.limit)
}
