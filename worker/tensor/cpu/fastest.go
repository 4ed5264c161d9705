//go:build cgo && linux && amd64

package cpu

import (
	"slices"
	"sync"
	"time"

	"chorale/worker/tensor"
)

// fastest picks the kernel for "auto". In bfloat16 with AVX-512 there are
// several candidates. They are timed, once per process: which one wins differs
// by machine, and one process must use one kernel for its results to agree.
func fastest(p tensor.Precision) string {
	names := Kernels(p)
	if n := slices.Index(names, "avx512f32"); p == tensor.BF16 && n > 0 {
		return faster()
	}
	return names[0]
}

var faster = sync.OnceValue(func() string {
	names := nativeKernels(tensor.BF16)
	names = names[:slices.Index(names, "avx512f32")+1]
	best := make([]time.Duration, len(names))
	for i := range best {
		best[i] = time.Hour
	}
	// Alternating short runs, the best of each: other load on the machine hits
	// both alike.
	for range 8 {
		for i, name := range names {
			d, err := timeLinear(name)
			if err != nil {
				return names[0]
			}
			best[i] = min(best[i], d)
		}
	}
	return names[slices.Index(best, slices.Min(best))]
})

// timeLinear times products that stay in the inner caches, as in a long prompt.
func timeLinear(name string) (time.Duration, error) {
	const rows, in, out, repeats = 24, 512, 64, 20
	k, err := openNative(name, Options{Precision: tensor.BF16, Threads: 1})
	if err != nil {
		return 0, err
	}
	b := &Backend{precision: tensor.BF16, name: name, threads: 1, k: k}
	defer b.Close()
	w, err := b.NewMatrix(out, in, func(dst []float32, _, _ int) error { fill(dst); return nil })
	if err != nil {
		return 0, err
	}
	defer w.Free()
	x, err := b.NewBuffer(tensor.Act, rows, in)
	if err != nil {
		return 0, err
	}
	defer x.Free()
	y, err := b.NewBuffer(tensor.Act, rows, out)
	if err != nil {
		return 0, err
	}
	defer y.Free()
	s, err := b.NewStream(rows, nil)
	if err != nil {
		return 0, err
	}
	fill(x.(*buffer).data)
	x.(*buffer).rows = rows
	s.Begin(&tensor.Batch{IDs: make([]int32, rows), Pos: make([]int32, rows)})
	s.Linear(y, x, w, nil, nil)
	start := time.Now()
	for range repeats {
		s.Linear(y, x, w, nil, nil)
	}
	took := time.Since(start)
	return took, s.Finish()
}

// fill writes values of ordinary size: zeros and denormals are not typical.
func fill(dst []float32) {
	for i := range dst {
		dst[i] = float32(i%17)/8 - 1
	}
}
