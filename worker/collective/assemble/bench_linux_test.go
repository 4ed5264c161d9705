package assemble_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chorale/worker/collective"
)

// now is the machine's clock, the same for all processes.
func now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}

// plans measures from Publish to the return of Next, one plan at a time as
// steps are.
func (p part) plans(m collective.Member) error {
	record := make([]byte, 1024)
	var took []time.Duration
	for range p.Steps {
		if p.Rank == 0 {
			time.Sleep(200 * time.Microsecond) // all wait again
			binary.NativeEndian.PutUint64(record, uint64(now()))
			if err := m.Publish(record); err != nil {
				return err
			}
		} else {
			var err error
			if record, err = m.Next(record); err != nil {
				return err
			}
			took = append(took, now()-time.Duration(binary.NativeEndian.Uint64(record)))
		}
		if err := m.Barrier(); err != nil {
			return err
		}
	}
	say(line{Times: took})
	return m.Barrier()
}

// BenchmarkPlan: followers are processes, which find the plan while they spin, or
// are woken for it. A figure needs a core per rank.
func BenchmarkPlan(b *testing.B) {
	for name, address := range places() {
		for how, spin := range map[string]time.Duration{"spin": 20 * time.Millisecond, "sleep": -1} {
			for _, size := range []int{2, 4} {
				b.Run(fmt.Sprintf("%s/%s/ranks=%d", name, how, size), func(b *testing.B) {
					measure(b, address, part{Size: size, Steps: 2000, Mode: "plans", Spin: spin})
				})
			}
		}
	}
}

// measure runs a group once, whatever b.N, and reports what its ranks measured.
func measure(b *testing.B, address string, p part) time.Duration {
	p.Stall, p.Limit = patience, patience
	if b.N == 1 {
		return 1 // it runs a number of its own
	}
	var all []time.Duration
	for _, r := range launch(b, address, p) {
		l := r.next(b)
		if l.Failed != "" {
			b.Fatal(l.Failed)
		}
		all = append(all, l.Times...)
	}
	slices.Sort(all)
	p50 := all[len(all)/2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(p50.Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds())/1e3, "p99-µs")
	return p50
}

// reduce measures sums of p.Steps elements.
func (p part) reduce(m collective.Member) error {
	x := make([]float32, p.Steps)
	const rounds = 200
	var took []time.Duration
	for range rounds {
		start := now()
		if err := m.AllReduce(x); err != nil {
			return err
		}
		took = append(took, now()-start)
	}
	say(line{Times: took[rounds/10:]})
	return m.Barrier()
}

// BenchmarkAllReduce: rows of 4096 float32, ranks as processes.
func BenchmarkAllReduce(b *testing.B) {
	for name, address := range places() {
		for _, size := range []int{2, 4} {
			for _, rows := range []int{1, 8, 64, 512, 2048} {
				b.Run(fmt.Sprintf("%s/ranks=%d/rows=%d", name, size, rows), func(b *testing.B) {
					p50 := measure(b, address, part{Size: size, Steps: rows * 4096, Mode: "reduce"})
					b.ReportMetric(float64(rows*4096*4)/p50.Seconds()/1e9, "GB/s")
				})
			}
		}
	}
}
