package group

import (
	"sync"
	"time"
)

// PlanBounds are the upper bounds of Latency's classes, in seconds.
var PlanBounds = [...]float64{5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 1e-3}

// Latency is a histogram of how long plans took.
type Latency struct {
	mu      sync.Mutex
	classes [len(PlanBounds) + 1]uint64
	sum     float64
}

func (l *Latency) add(d time.Duration) {
	s, i := d.Seconds(), 0
	for i < len(PlanBounds) && s > PlanBounds[i] {
		i++
	}
	l.mu.Lock()
	l.classes[i]++
	l.sum += s
	l.mu.Unlock()
}

// Counts gives the number of plans by class, and the sum of all times in seconds.
func (l *Latency) Counts() (classes []uint64, sum float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]uint64(nil), l.classes[:]...), l.sum
}
