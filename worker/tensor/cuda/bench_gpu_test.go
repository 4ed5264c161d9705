//go:build gpu

package cuda

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"chorale/worker/sample"
	"chorale/worker/tensor"
)

// BenchmarkSample is the time that Sample adds to a step, by what is asked of
// each row of 128,256 logits: normal ones of deviation 1, nearly the worst for
// top-p, or peaked like a language model's.
func BenchmarkSample(b *testing.B) {
	const vocab, most = 128256, 256
	be, err := New(options())
	if err != nil {
		b.Fatal(err)
	}
	defer be.Close()
	for _, bulk := range []float32{1, 3} {
		rng := rand.New(rand.NewPCG(1, 2))
		m, err := be.NewMatrix(most, vocab, func(dst []float32, _, _ int) error {
			for i := range dst {
				dst[i] = float32(rng.NormFloat64()) * bulk
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		for _, rows := range []int{1, 64, 256} {
			for name, r := range map[string]tensor.SampleRow{
				"greedy": {}, "draw": {Temperature: 1, TopP: 1}, "top-k": {Temperature: 1, TopP: 1, TopK: 50}, "top-p": {Temperature: 1, TopP: 0.9},
				"both": {Temperature: 0.7, TopP: 0.9, TopK: 50}, "top-20": {Top: 20},
			} {
				b.Run(fmt.Sprintf("bulk=%v/rows=%d/%s", bulk, rows, name), func(b *testing.B) { benchSample(b, be, m, rows, r) })
			}
		}
		m.Free()
	}
}

func benchSample(b *testing.B, be *Backend, m tensor.Matrix, rows int, r tensor.SampleRow) {
	const times = 8
	s, err := be.NewStream(rows*times, nil)
	if err != nil {
		b.Fatal(err)
	}
	logits, err := be.NewBuffer(tensor.Wide, rows, m.In())
	if err != nil {
		b.Fatal(err)
	}
	defer logits.Free()
	batch := &tensor.Batch{IDs: make([]int32, rows), Pos: make([]int32, rows)}
	asked, out := make([]tensor.SampleRow, rows), make([]tensor.Sampled, rows)
	for i := range asked {
		batch.IDs[i] = int32(i)
		asked[i] = r
		asked[i].U = sample.Uniform(uint64(i), 1)
	}
	step := func(n int) time.Duration {
		start := time.Now()
		s.Begin(batch)
		s.Embed(logits, m, nil)
		for range n {
			s.Sample(out, logits, asked)
		}
		if err := s.Finish(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	step(times)
	var one, many time.Duration
	for b.Loop() {
		one += step(1)
		many += step(times)
	}
	b.ReportMetric(float64((many-one).Nanoseconds())/float64(b.N)/(times-1)/1000, "µs/sample")
}
