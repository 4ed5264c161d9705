package group

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"chorale/worker/collective"
	"chorale/worker/collective/inprocess"
)

// BenchmarkPlan is a step's plan from the engine to the last follower, ready to
// be computed: written, published, received, read. A figure needs a core per
// rank.
func BenchmarkPlan(b *testing.B) {
	for _, size := range []int{2, 4} {
		for _, rows := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("ranks=%d/rows=%d", size, rows), func(b *testing.B) { benchmarkPlan(b, size, rows) })
		}
	}
}

func benchmarkPlan(b *testing.B, size, rows int) {
	g, err := inprocess.Shared(size, collective.Options{Timeout: time.Minute, Stall: time.Minute, PlanSpin: 20 * time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	_, number, adapter := some()
	s, asks := decodeStep(rows)
	ready := make(chan time.Time, size)
	for _, m := range g[1:] {
		go func() {
			f := &frame{}
			var buf []byte
			for {
				var err error
				if buf, err = m.Next(buf); err != nil {
					return
				}
				if err := f.decode(buf, adapter); err != nil {
					b.Error(err)
				}
				ready <- time.Now()
			}
		}()
	}
	var w words
	var took []time.Duration
	for b.Loop() {
		time.Sleep(100 * time.Microsecond) // all wait again
		start := time.Now()
		w.encode(s, asks, 1, 0, number)
		if err := g[0].Publish(w.bytes()); err != nil {
			b.Fatal(err)
		}
		for range size - 1 {
			took = append(took, (<-ready).Sub(start))
		}
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}
