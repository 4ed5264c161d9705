//go:build gpu

package cuda

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"chorale/worker/tensor"
)

// gpuHolder is who holds memory in the test, and the pattern written there.
type gpuHolder struct {
	at    addr
	bytes int64
	group int32 // or -1
	seed  byte
}

// gpuWorld is a pool on the device beside a list of who holds what.
type gpuWorld struct {
	*testing.T
	b       *Backend
	mem     *memoryPool
	stage   pinned
	back    []byte
	holders []gpuHolder
	seed    byte
}

func newGPUWorld(t *testing.T, bytes int64) *gpuWorld {
	b, err := New(options())
	if err != nil {
		t.Fatal(err)
	}
	mem, err := b.NewMemory(tensor.MemoryLayout{Bytes: bytes, KV: llamaKV})
	if err != nil {
		t.Fatal(err)
	}
	stage, err := b.pinned.take(pinBytes)
	if err != nil {
		t.Fatal(err)
	}
	return &gpuWorld{T: t, b: b, mem: mem.(*memoryPool), stage: stage, back: make([]byte, 4096)}
}

func (w *gpuWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *gpuWorld) close() {
	for _, h := range slices.Clone(w.holders) {
		if h.group < 0 {
			w.b.ranges.give(h.at, h.bytes)
		}
	}
	w.b.pinned.give(w.stage)
	w.must(w.mem.Close())
	w.must(w.b.Close())
}

// write fills what a holder has with its pattern.
func (w *gpuWorld) write(h *gpuHolder) {
	w.seed++
	h.seed = w.seed
	for i := range w.stage.mem[:1<<20] {
		w.stage.mem[i] = byte(i) ^ h.seed
	}
	for at := int64(0); at < h.bytes; at += 1 << 20 {
		n := min(1<<20, h.bytes-at)
		w.must(w.b.d.copy(h.at+addr(at), unsafe.Pointer(&w.stage.mem[0]), n))
	}
	w.holders = append(w.holders, *h)
}

// verify reads a piece of each MiB back.
func (w *gpuWorld) verify(h gpuHolder, want func(i int) byte) {
	w.Helper()
	for at := int64(0); at < h.bytes; at += 1 << 20 {
		n := min(int64(len(w.back)), h.bytes-at)
		w.must(w.mem.d.read(w.back[:n], h.at+addr(at)))
		for i, v := range w.back[:n] {
			if v != want(i) {
				w.Fatalf("byte %d of MiB %d (group %d) is %d, want %d", i, at>>20, h.group, v, want(i))
			}
		}
	}
}

func (w *gpuWorld) verifyAll() {
	w.Helper()
	for _, h := range w.holders {
		w.verify(h, func(i int) byte { return byte(i) ^ h.seed })
	}
}

// TestGPUMemory grows and shrinks the cache and loads and drops adapters at
// random; everybody's memory keeps what was written there.
func TestGPUMemory(t *testing.T) {
	const groups = 128
	w := newGPUWorld(t, 2*groups<<20)
	defer w.close()
	rng := rand.New(rand.NewPCG(1, 2))
	held := 0 // chunks
	for step := range 400 {
		switch rng.IntN(3) {
		case 0: // grow
			var absent []int32
			for g := range int32(groups) {
				if !slices.ContainsFunc(w.holders, func(h gpuHolder) bool { return h.group == g }) {
					absent = append(absent, g)
				}
			}
			rng.Shuffle(len(absent), func(i, j int) { absent[i], absent[j] = absent[j], absent[i] })
			n := min(len(absent), 1+rng.IntN(8), groups-held)
			w.must(w.mem.Grow(absent[:n]))
			for _, g := range absent[:n] {
				h := gpuHolder{at: w.mem.KV().(*kvCache).at + addr(g)*(2<<20), bytes: 2 << 20, group: g}
				w.verify(h, func(int) byte { return 0 })
				w.write(&h)
			}
			held += n
		case 1: // an adapter
			bytes := 1 + rng.Int64N(60<<20)
			n := int((bytes + 2<<20 - 1) / (2 << 20))
			if held+n > groups {
				continue
			}
			at, err := w.b.ranges.take(bytes)
			w.must(err)
			w.write(&gpuHolder{at: at, bytes: bytes, group: -1})
			held += n
		case 2: // somebody goes
			for range min(len(w.holders), 1+rng.IntN(6)) {
				i := rng.IntN(len(w.holders))
				h := w.holders[i]
				w.holders = slices.Delete(w.holders, i, i+1)
				if h.group < 0 {
					w.b.ranges.give(h.at, h.bytes)
				} else {
					w.mem.Shrink([]int32{h.group})
				}
				held -= int((h.bytes + 2<<20 - 1) / (2 << 20))
			}
		}
		if step%10 == 0 {
			w.verifyAll()
		}
	}
	w.verifyAll()
	t.Logf("%d holders with %d of %d chunks", len(w.holders), held, groups)
}

// TestGPUMemoryTimes tells what mapping costs, and what a running stream notices
// of it.
func TestGPUMemoryTimes(t *testing.T) {
	start := time.Now()
	w := newGPUWorld(t, 60<<30)
	defer w.close()
	total, _ := w.mem.Chunks()
	t.Logf("pool of %d chunks made in %v", total, time.Since(start))
	all := make([]int32, total-200)
	for i := range all {
		all[i] = int32(i)
	}
	start = time.Now()
	w.must(w.mem.Grow(all))
	t.Logf("%d groups mapped and cleared in %v", len(all), time.Since(start))

	const adapter = 80 << 20
	stop, steps := w.load()
	time.Sleep(300 * time.Millisecond)
	alone := steps()
	var mapping, giving, freed []time.Duration
	for range 50 {
		t0 := time.Now()
		at, err := w.b.ranges.take(adapter)
		w.must(err)
		t1 := time.Now()
		w.b.ranges.give(at, adapter)
		t2 := time.Now()
		for _, free := w.mem.Chunks(); free < 200; _, free = w.mem.Chunks() {
			time.Sleep(20 * time.Microsecond)
		}
		t3 := time.Now()
		mapping, giving, freed = append(mapping, t1.Sub(t0)), append(giving, t2.Sub(t1)), append(freed, t3.Sub(t2))
	}
	ranges := steps()
	for i := range 50 { // what an adapter takes of a full cache
		gone := all[len(all)-40*(i+1) : len(all)-40*i]
		w.mem.Shrink(gone)
		at, err := w.b.ranges.take(440 << 20) // waits for the groups
		w.must(err)
		w.b.ranges.give(at, 440<<20)
		w.must(w.mem.Grow(gone))
	}
	trade := steps()
	stop()
	t.Logf("80 MiB: map %v, give %v, unmapped after %v (medians); map at most %v", median(mapping), median(giving), median(freed), slices.Max(mapping))
	t.Logf("steps alone: median %v, longest %v (%d)", median(alone), slices.Max(alone), len(alone))
	t.Logf("steps while ranges come and go: median %v, longest %v (%d)", median(ranges), slices.Max(ranges), len(ranges))
	t.Logf("steps while groups become ranges and back: median %v, longest %v (%d)", median(trade), slices.Max(trade), len(trade))
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

// load runs steps of a hundred products until stop; steps gives the times since
// it was last asked.
func (w *gpuWorld) load() (stop func(), steps func() []time.Duration) {
	const rows, n = 64, 4096
	s, err := w.b.NewStream(rows, nil)
	w.must(err)
	m, err := w.b.NewMatrix(n, n, func(dst []float32, _, _ int) error {
		for i := range dst {
			dst[i] = float32(i%7) / 100
		}
		return nil
	})
	w.must(err)
	x, err := w.b.NewBuffer(tensor.Act, rows, n)
	w.must(err)
	y, err := w.b.NewBuffer(tensor.Act, rows, n)
	w.must(err)
	batch := &tensor.Batch{IDs: make([]int32, rows), Pos: make([]int32, rows)}
	var ended atomic.Bool
	done := make(chan struct{})
	times := make(chan time.Duration, 1<<20)
	x.(*buffer).rows = rows
	go func() {
		defer close(done)
		for !ended.Load() {
			start := time.Now()
			s.Begin(batch)
			for range 100 {
				s.Linear(y, x, m, nil, nil)
			}
			if err := s.Finish(); err != nil {
				w.Error(err)
				return
			}
			times <- time.Since(start)
		}
	}()
	stop = func() {
		ended.Store(true)
		<-done
		m.Free()
		x.Free()
		y.Free()
	}
	steps = func() []time.Duration {
		var out []time.Duration
		for len(times) > 0 {
			out = append(out, <-times)
		}
		return out
	}
	return stop, steps
}
