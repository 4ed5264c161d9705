package kernels

import (
	"fmt"
	"time"

	"chorale/worker/tensor"
)

// Probe is a way to find the device's bandwidth in bytes a second.
type Probe struct {
	Name string
	Run  func() (float64, error)
}

// Bandwidth gives the bandwidth in bytes a second that floors are computed
// with, and how it was found: the best of copying rows of a large buffer (bytes
// read and written), of one row times large weights (bytes read) and of the
// probes; known, if above 0, goes before all.
func Bandwidth(b tensor.Backend, known float64, probes []Probe) (rate float64, how string, err error) {
	if known > 0 {
		return known, "given", nil
	}
	return best(append([]Probe{
		{"copy of rows", func() (float64, error) { return copyRate(b, copyRows, copyCols) }},
		{"weights times one row", func() (float64, error) { return readRate(b, readRows, readCols) }},
	}, probes...))
}

func best(probes []Probe) (rate float64, how string, err error) {
	for _, p := range probes {
		v, err := p.Run()
		if err != nil {
			return 0, "", fmt.Errorf("bandwidth by %s: %w", p.Name, err)
		}
		if v > rate {
			rate, how = v, p.Name
		}
	}
	if rate == 0 {
		return 0, "", fmt.Errorf("%w: no probe found a bandwidth; give it", ErrConfig)
	}
	return rate, how, nil
}

// Sizes of the probes: each operation touches 128 MiB, far more than caches
// hold.
const (
	copyRows, copyCols   = 2048, 8192  // float32
	readRows, readCols   = 16384, 4096 // bfloat16
	probeOps, probeTimes = 6, 9
)

func copyRate(b tensor.Backend, rows, cols int) (float64, error) {
	s, err := b.NewStream(rows, nil)
	if err != nil {
		return 0, err
	}
	var owned []interface{ Free() }
	defer func() { free(owned) }()
	var bufs [3]tensor.Buffer
	for i := range bufs {
		if bufs[i], err = b.NewBuffer(tensor.Wide, rows, cols); err != nil {
			return 0, err
		}
		owned = append(owned, bufs[i])
	}
	table, err := b.NewMatrix(ids, cols, newNoise().rows(0))
	if err != nil {
		return 0, err
	}
	owned = append(owned, table)
	step := &tensor.Batch{IDs: make([]int32, rows), Pos: make([]int32, rows)}
	list := make([]int32, rows)
	for i := range list {
		step.IDs[i], list[i] = int32(i%ids), int32(i)
	}
	s.Begin(step)
	s.Embed(bufs[0], table, nil)
	if err := s.Finish(); err != nil {
		return 0, err
	}
	return rate(2*4*rows*cols, func(n int) error {
		s.Begin(step)
		for i := range n {
			s.GatherRows(bufs[(i+1)%3], bufs[i%3], list)
		}
		return s.Finish()
	})
}

func readRate(b tensor.Backend, out, in int) (float64, error) {
	s, err := b.NewStream(1, nil)
	if err != nil {
		return 0, err
	}
	var owned []interface{ Free() }
	defer func() { free(owned) }()
	pool := newNoise()
	var w [2]tensor.Matrix
	for i := range w {
		if w[i], err = b.NewMatrix(out, in, pool.rows(i)); err != nil {
			return 0, err
		}
		owned = append(owned, w[i])
	}
	x, err := b.NewBuffer(tensor.Act, 1, in)
	if err != nil {
		return 0, err
	}
	owned = append(owned, x)
	y, err := b.NewBuffer(tensor.Wide, 1, out)
	if err != nil {
		return 0, err
	}
	owned = append(owned, y)
	one := batch(1)
	s.Begin(one)
	s.Embed(x, w[0], nil)
	if err := s.Finish(); err != nil {
		return 0, err
	}
	return rate(2*out*in, func(n int) error {
		s.Begin(one)
		for i := range n {
			s.Linear(y, x, w[i%2], nil, nil)
		}
		return s.Finish()
	})
}

// rate is what 1 + probeOps operations take longer than one, both at their best
// of several runs: other load only ever adds to them.
func rate(bytes int, run func(n int) error) (float64, error) {
	var least [2]float64
	for i := range probeTimes {
		for j, n := range []int{1, 1 + probeOps} {
			start := time.Now()
			if err := run(n); err != nil {
				return 0, err
			}
			d := time.Since(start).Seconds()
			if i < 2 { // the first choose kernels
				continue
			}
			if least[j] == 0 || d < least[j] {
				least[j] = d
			}
		}
	}
	if least[1] <= least[0] {
		return 0, nil
	}
	return float64(bytes) * probeOps / (least[1] - least[0]), nil
}
