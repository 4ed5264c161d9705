package model_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"chorale/worker/collective"
	"chorale/worker/kv"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

// evenModel is a model of SmolLM2-135M's size whose heads two ranks share.
func evenModel() decoder.Spec {
	s := decoder.Spec{
		Vocab: 49152, Hidden: 576, Layers: 30, Heads: 8, KVHeads: 4, HeadDim: 64, FFN: 1536, Context: 2048, Eps: 1e-5,
		Tied: true, Windows: make([]int, 30), Rope: tensor.RopeSpec{Scale: 1},
	}
	for i := range s.HeadDim / 2 {
		s.Rope.InvFreq = append(s.Rope.InvFreq, float32(math.Pow(10000, -2*float64(i)/float64(s.HeadDim))))
	}
	return s
}

// decoding is a batch that decodes on all ranks of a team.
type decoding struct {
	tm      *team
	runners []*decoder.Runner
	steps   []*decoder.Step
	out     [][]tensor.Sampled
	asked   []tensor.SampleRow
}

func newDecoding(b *testing.B, ranks, threads, batch, context int) *decoding {
	b.Helper()
	spec := evenModel()
	d := &decoding{asked: make([]tensor.SampleRow, batch)}
	d.tm = newTeam(b, gather(b, ranks, false), cpu.Options{Threads: threads}, func(be tensor.Backend) (*decoder.Model, error) {
		return decoder.Load(be, spec, model.Dummy(&spec))
	})
	pages := (context + kv.PageSize) / kv.PageSize
	for _, m := range d.tm.models {
		cache, err := m.Backend().NewKV(m.KVLayout(kv.PageSize, pages*batch))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(cache.Free)
		r, err := m.NewRunner(cache, batch)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(r.Free)
		st := &decoder.Step{}
		for i := range batch {
			add(st, []int32{int32(100 + i)}, context, nil, pagesOf(i, pages))
		}
		d.runners, d.steps, d.out = append(d.runners, r), append(d.steps, st), append(d.out, make([]tensor.Sampled, batch))
	}
	return d
}

// run computes n steps on all ranks and tells how long one took.
func (d *decoding) run(b *testing.B, n int) time.Duration {
	b.Helper()
	start := time.Now()
	err := d.tm.group.Each(func(m collective.Member) error {
		i := m.Rank()
		for range n {
			d.runners[i].Forward(d.steps[i])
			d.runners[i].Sample(d.steps[i], d.out[i], d.asked)
			if err := d.runners[i].Finish(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return time.Since(start) / time.Duration(n)
}

// BenchmarkRanks compares decode steps on two ranks with a thread each against
// one rank with two threads, in turns; "ratio" is what ranks cost.
func BenchmarkRanks(b *testing.B) {
	for _, batch := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			one, two := newDecoding(b, 1, 2, batch, 128), newDecoding(b, 2, 1, batch, 128)
			one.run(b, 2)
			two.run(b, 2)
			var alone, shared time.Duration
			for b.Loop() {
				alone += one.run(b, 4)
				shared += two.run(b, 4)
			}
			b.ReportMetric(float64(alone.Microseconds())/float64(b.N), "µs/step-1x2")
			b.ReportMetric(float64(shared.Microseconds())/float64(b.N), "µs/step-2x1")
			b.ReportMetric(float64(shared)/float64(alone), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}
