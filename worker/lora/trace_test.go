package lora

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"testing"

	"chorale/internal/eviction"
	"chorale/worker/nn"
)

// replay runs sequences one after the other on a store with places, and counts
// how many found their adapter there.
type replay struct {
	s      *Store
	coming chan Arrival
	known  map[int]string
	hits   int
}

func newReplay(p eviction.Policy, places int) *replay {
	r := &replay{coming: make(chan Arrival, 1), known: map[int]string{}}
	r.s = NewStore(places, 0, func(a Arrival) { r.coming <- a }, func(string) {})
	r.s.SetPolicy(p)
	return r
}

func (r *replay) ask(adapter int) (hit bool) {
	d, ok := r.known[adapter]
	if !ok {
		d = fmt.Sprintf("%06d", adapter)
		r.known[adapter] = d
		if err := r.s.Add(Host{Digest: d, Pack: func() (Packed, error) { return Packed{Adapter: &nn.Adapter{}}, nil }}); err != nil {
			panic(err)
		}
	}
	if err := r.s.Lease(d); err != nil {
		panic(err)
	}
	if hit = r.s.Ready(d); hit {
		r.hits++
	} else {
		r.s.Want(d)
		r.s.Arrived(<-r.coming)
	}
	r.s.Use(d)
	r.s.Unuse(d)
	r.s.Return(d)
	return hit
}

// TestScanSparesTheHot: adapters that are used once each push out only one
// another with lfu; lru loses all that was hot.
func TestScanSparesTheHot(t *testing.T) {
	for p, want := range map[eviction.Policy]int{eviction.LRU: 0, eviction.LFU: 15} {
		r := newReplay(p, 16)
		for range 20 {
			for hot := range 15 {
				r.ask(hot)
			}
		}
		for once := range 200 {
			r.ask(1000 + once)
		}
		kept := 0
		for hot := range 15 {
			if r.s.Ready(r.known[hot]) {
				kept++
			}
		}
		if kept != want {
			t.Errorf("%v: %d of 15 hot adapters outlive a scan, want %d", p, kept, want)
		}
	}
}

// TestColdLeaves: a set that was hot and is not any more makes room for what is
// hot now, within a few windows.
func TestColdLeaves(t *testing.T) {
	const places, windows = 16, 10
	r := newReplay(eviction.LFU, places)
	for range 2000 {
		for hot := range places {
			r.ask(hot)
		}
	}
	uses := 0
	for ; uses < windows*eviction.Window(places); uses++ {
		r.ask(100 + uses%places)
	}
	for hot := range places {
		if !r.s.Ready(r.known[100+hot]) {
			t.Errorf("adapter %d of the new set is not there after %d uses", hot, uses)
		}
	}
}

// TestPinnedStays: whatever is used, and however often, pinned adapters stay.
func TestPinnedStays(t *testing.T) {
	for _, p := range []eviction.Policy{eviction.LRU, eviction.LFU} {
		r := newReplay(p, 4)
		r.ask(0)
		if ok, err := r.s.Adopt(r.known[0], true); !ok || err != nil {
			t.Fatal(ok, err)
		}
		for i := range 1000 {
			r.ask(1 + i%7)
		}
		if !r.s.Ready(r.known[0]) {
			t.Errorf("%v: the pinned adapter has left the device", p)
		}
	}
}

// zipf draws from n things of which the i-th is asked for in proportion to 1/i.
type zipf struct{ below []float64 }

func newZipf(n int, exponent float64) zipf {
	z := zipf{make([]float64, n)}
	sum := 0.0
	for i := range n {
		sum += math.Pow(float64(i+1), -exponent)
		z.below[i] = sum
	}
	return z
}

func (z zipf) draw(r *rand.Rand) int {
	return sort.SearchFloat64s(z.below, r.Float64()*z.below[len(z.below)-1])
}

// traces are what BenchmarkTrace asks for: 500 adapters by Zipf's law, the same
// with scans of adapters that come once, the same with a demand that turns to
// others, and twelve people at a time who each ask one adapter twenty times and
// then never again, all adapters alike.
func traces(length int) map[string][]int {
	r := rand.New(rand.NewPCG(1, 2))
	z := newZipf(500, 1)
	steady, scans, turning := make([]int, length), make([]int, length), make([]int, length)
	once := 1000
	for i := range length {
		steady[i] = z.draw(r)
		if i%1000 < 200 { // a fifth of all, in runs of 200
			once++
			scans[i] = once
		} else {
			scans[i] = z.draw(r)
		}
		turning[i] = (z.draw(r) + i/5000*50) % 500
	}
	people, sessions := make([]int, 12), make([]int, length)
	for i := range sessions {
		at := r.IntN(len(people))
		if r.IntN(20) == 0 {
			people[at] = r.IntN(500)
		}
		sessions[i] = people[at]
	}
	return map[string][]int{"zipf": steady, "scans": scans, "turning": turning, "sessions": sessions}
}

// foresight is the most hits that any policy could have: it puts out what is
// asked for last (Belady).
func foresight(trace []int, places int) int {
	next := make([]int, len(trace))
	last := map[int]int{}
	for i := len(trace) - 1; i >= 0; i-- {
		n, ok := last[trace[i]]
		if !ok {
			n = len(trace) + i
		}
		next[i], last[trace[i]] = n, i
	}
	there := map[int]int{} // when each is asked for next
	hits := 0
	for i, a := range trace {
		if _, ok := there[a]; ok {
			hits++
		} else if len(there) == places {
			victim := -1
			for o, n := range there {
				if victim < 0 || n > there[victim] {
					victim = o
				}
			}
			delete(there, victim)
		}
		there[a] = next[i]
	}
	return hits
}

// BenchmarkTrace compares the policies' hit rates, which are the same on every
// machine; its times mean nothing.
func BenchmarkTrace(b *testing.B) {
	const length = 50_000
	for name, trace := range traces(length) {
		for _, places := range []int{16, 64} {
			b.Run(fmt.Sprintf("%s/places=%d", name, places), func(b *testing.B) {
				rate := func(hits int) float64 { return float64(hits) / length }
				for range b.N {
					for _, p := range []eviction.Policy{eviction.LRU, eviction.LFU} {
						r := newReplay(p, places)
						for _, a := range trace {
							r.ask(a)
						}
						b.ReportMetric(rate(r.hits), p.String()+"-hits/ask")
					}
					b.ReportMetric(rate(foresight(trace, places)), "best-hits/ask")
				}
			})
		}
	}
}
