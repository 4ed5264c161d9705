package conformance

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"chorale/worker/collective"
)

// Open makes a whole group, ends by rank; the test closes them.
type Open func(t testing.TB, size int, o collective.Options) []collective.Member

// Patient are options for a machine that is busy with other tests.
var Patient = collective.Options{Timeout: time.Minute, Stall: 30 * time.Second}

// Run tests a transport.
func Run(t *testing.T, open Open) {
	t.Run("operations", func(t *testing.T) { operations(t, open) })
	t.Run("counts", func(t *testing.T) { counts(t, open) })
	t.Run("shapes", func(t *testing.T) { shapes(t, open) })
	t.Run("mismatch", func(t *testing.T) { mismatch(t, open) })
	t.Run("abort", func(t *testing.T) { abort(t, open) })
	t.Run("timeout", func(t *testing.T) { timeout(t, open) })
	t.Run("close", func(t *testing.T) { closing(t, open) })
	t.Run("close beside", func(t *testing.T) { closingBeside(t, open) })
	t.Run("agree", func(t *testing.T) { agree(t, open) })
	t.Run("plans", func(t *testing.T) { plans(t, open) })
	t.Run("lag", func(t *testing.T) { lag(t, open) })
	t.Run("plans end", func(t *testing.T) { plansEnd(t, open) })
}

// Each runs f for all ranks at once and gives their errors.
func Each(ms []collective.Member, f func(m collective.Member) error) []error {
	errs := make([]error, len(ms))
	var all sync.WaitGroup
	for i, m := range ms {
		all.Add(1)
		go func() {
			defer all.Done()
			errs[i] = f(m)
		}()
	}
	all.Wait()
	return errs
}

// CloseAll closes all ends.
func CloseAll(t testing.TB, ms []collective.Member) {
	t.Helper()
	for _, m := range ms {
		if err := m.Close(); err != nil {
			t.Errorf("rank %d: close: %v", m.Rank(), err)
		}
	}
}

func good(t testing.TB, errs []error) {
	t.Helper()
	for rank, err := range errs {
		if err != nil {
			t.Fatalf("rank %d: %v", rank, err)
		}
	}
}

// Floats are a rank's random numbers of a test, of very different sizes, so
// that another order of adding gives other bits.
func Floats(seed uint64, rank, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, uint64(rank)))
	x := make([]float32, n)
	for i := range x {
		u := r.Uint32()
		x[i] = float32(int32(u)>>8) * scales[u%16] // 24 bits of sign and value
	}
	return x
}

var scales = func() (s [16]float32) {
	for i := range s {
		s[i] = 1 / float32(int(1)<<i)
	}
	return s
}()

// WantSum is the sum over ranks of Floats, added in their order.
func WantSum(seed uint64, size, n int) []float32 {
	sum := Floats(seed, 0, n)
	for q := 1; q < size; q++ {
		for i, v := range Floats(seed, q, n) {
			sum[i] += v
		}
	}
	return sum
}

func same(got, want []float32) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d values, want %d", len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			return fmt.Errorf("[%d] = %v, want %v", i, got[i], want[i])
		}
	}
	return nil
}

// Step does one operation of a kind with random numbers and checks what comes.
func Step(m collective.Member, k collective.Kind, seed uint64, n int) error {
	size, rank := m.Size(), m.Rank()
	switch k {
	case collective.KindAllReduce:
		x := Floats(seed, rank, n)
		if err := m.AllReduce(x); err != nil {
			return err
		}
		return same(x, WantSum(seed, size, n))
	case collective.KindReduceScatter:
		dst := make([]float32, n)
		if err := m.ReduceScatter(dst, Floats(seed, rank, n*size)); err != nil {
			return err
		}
		return same(dst, WantSum(seed, size, n*size)[rank*n:(rank+1)*n])
	case collective.KindAllGather:
		dst := make([]float32, n*size)
		if err := m.AllGather(collective.Bytes(dst), collective.Bytes(Floats(seed, rank, n))); err != nil {
			return err
		}
		for q := range size {
			if err := same(dst[q*n:(q+1)*n], Floats(seed, q, n)); err != nil {
				return fmt.Errorf("of rank %d: %w", q, err)
			}
		}
		return nil
	case collective.KindBroadcast:
		root := int(seed % uint64(size))
		x := Floats(seed, rank, n)
		if err := m.Broadcast(collective.Bytes(x), root); err != nil {
			return err
		}
		return same(x, Floats(seed, root, n))
	}
	return m.Barrier()
}

// Length draws a size: often none, one, or a bound of what goes in one piece.
func Length(r *rand.Rand) int {
	edges := []int{0, 1, 2, 15, 16, 17, 8 << 10, 8<<10 + 1, 1 << 16, 1<<16 + 1, 3 << 16, 5<<16 + 7}
	if r.IntN(2) == 0 {
		return edges[r.IntN(len(edges))]
	}
	return r.IntN(1 << (1 + r.IntN(17)))
}

func operations(t *testing.T, open Open) {
	for size := 1; size <= 8; size++ {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			ms := open(t, size, Patient)
			defer CloseAll(t, ms)
			steps := 40
			if testing.Short() {
				steps = 6
			}
			good(t, Each(ms, func(m collective.Member) error {
				r := rand.New(rand.NewPCG(uint64(size), 7)) // the same on all ranks
				for i := range steps {
					k := collective.Kind(1 + r.IntN(int(collective.KindBarrier)))
					n := Length(r)
					if k == collective.KindReduceScatter || k == collective.KindAllGather {
						n /= size
					}
					if err := Step(m, k, r.Uint64(), n); err != nil {
						return fmt.Errorf("operation %d, %v of %d: %w", i, k, n, err)
					}
				}
				return nil
			}))
		})
	}
}

func counts(t *testing.T, open Open) {
	ms := open(t, 2, Patient)
	defer CloseAll(t, ms)
	good(t, Each(ms, func(m collective.Member) error {
		for k := collective.KindAllReduce; k <= collective.KindBarrier; k++ {
			for range int(k) {
				if err := Step(m, k, 1, 8); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	want := collective.Counts{AllReduce: 1, ReduceScatter: 2, AllGather: 3, Broadcast: 4, Barrier: 5}
	for _, m := range ms {
		if m.Counts() != want {
			t.Errorf("rank %d: %+v, want %+v", m.Rank(), m.Counts(), want)
		}
	}
}

func shapes(t *testing.T, open Open) {
	ms := open(t, 2, Patient)
	defer CloseAll(t, ms)
	m := ms[0]
	for name, err := range map[string]error{
		"scatter":  m.ReduceScatter(make([]float32, 3), make([]float32, 7)),
		"gather":   m.AllGather(make([]byte, 7), make([]byte, 3)),
		"root":     m.Broadcast(nil, 2),
		"negative": m.Broadcast(nil, -1),
	} {
		if !errors.Is(err, collective.ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good(t, Each(ms, func(m collective.Member) error { return m.Barrier() })) // nothing happened
}

func mismatch(t *testing.T, open Open) {
	for name, f := range map[string]func(m collective.Member) error{
		"kind": func(m collective.Member) error {
			if m.Rank() == 1 {
				return m.Barrier()
			}
			return m.AllReduce(make([]float32, 8))
		},
		"size": func(m collective.Member) error { return m.AllReduce(make([]float32, 8+m.Rank())) },
	} {
		t.Run(name, func(t *testing.T) {
			ms := open(t, 3, Patient)
			defer CloseAll(t, ms)
			found := false
			for _, err := range Each(ms, f) {
				found = found || errors.Is(err, collective.ErrMismatch)
			}
			if !found {
				t.Error("nobody noticed")
			}
			if err := ms[2].Barrier(); !errors.Is(err, collective.ErrAborted) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}
