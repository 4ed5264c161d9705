package group

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"chorale/worker/collective"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/tensor"
)

// fill puts something into every field of a value, so that a field that is added
// and not sent is noticed.
func fill(rng *rand.Rand, v reflect.Value, adapters []*nn.Adapter) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int32:
		v.SetInt(int64(rng.Uint32() >> 1))
	case reflect.Int:
		v.SetInt(int64(rng.IntN(1 << 20)))
	case reflect.Float32:
		v.SetFloat(float64(rng.Float32() + 0.5))
	case reflect.Float64:
		v.SetFloat(rng.Float64() + 0.5)
	case reflect.Slice:
		n := 1 + rng.IntN(5)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(rng, v.Index(i), adapters)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(rng, v.Field(i), adapters)
		}
	case reflect.Pointer:
		v.Set(reflect.ValueOf(adapters[rng.IntN(len(adapters))]))
	default:
		panic(v.Kind())
	}
}

// some are adapters and the ways between them and their numbers.
func some() ([]*nn.Adapter, func(*nn.Adapter) uint32, func(uint32) (*nn.Adapter, error)) {
	as := []*nn.Adapter{{}, {}, {}}
	return as, func(a *nn.Adapter) uint32 { return uint32(slices.Index(as, a)) },
		func(n uint32) (*nn.Adapter, error) {
			if int(n) >= len(as) {
				return nil, fmt.Errorf("adapter %d: %w", n, ErrRecord)
			}
			return as[n], nil
		}
}

// TestRecord: what is sent comes, every field of it.
func TestRecord(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	adapters, number, adapter := some()
	var w words
	f := &frame{}
	for range 200 {
		var s decoder.Step
		var asks []tensor.SampleRow
		fill(rng, reflect.ValueOf(&s).Elem(), adapters)
		fill(rng, reflect.ValueOf(&asks).Elem(), adapters)
		s.Batch.Pos = s.Batch.Pos[:min(len(s.Batch.Pos), len(s.Batch.IDs))] // as many as ids
		s.Batch.IDs = s.Batch.IDs[:len(s.Batch.Pos)]
		w.encode(&s, asks, 7, 5, number)
		if err := f.decode(w.bytes(), adapter); err != nil {
			t.Fatal(err)
		}
		if f.step != 7 || f.landed != 5 || !reflect.DeepEqual(f.Step, s) || !reflect.DeepEqual(f.asks, asks) || len(f.sampled) != len(asks) {
			t.Fatalf("sent %+v %+v\ncame %+v %+v", s, asks, f.Step, f.asks)
		}
	}
}

// TestRecordEmpty: nothing is asked of rows, and there are none.
func TestRecordEmpty(t *testing.T) {
	_, number, adapter := some()
	var w words
	w.encode(&decoder.Step{}, []tensor.SampleRow{{}}, 1, 0, number)
	f := &frame{}
	if err := f.decode(w.bytes(), adapter); err != nil || len(f.asks) != 1 || !reflect.DeepEqual(f.asks[0], tensor.SampleRow{}) {
		t.Errorf("%v, %+v", err, f.asks)
	}
}

// FuzzRecord: a record that is broken is told, not believed.
func FuzzRecord(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	adapters, number, adapter := some()
	for range 3 {
		var s decoder.Step
		var asks []tensor.SampleRow
		fill(rng, reflect.ValueOf(&s).Elem(), adapters)
		fill(rng, reflect.ValueOf(&asks).Elem(), adapters)
		var w words
		w.encode(&s, asks, 1, 0, number)
		f.Add(slices.Clone(w.bytes()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := &frame{}
		if err := fr.decode(b, adapter); err != nil && !errors.Is(err, ErrRecord) {
			t.Errorf("%v", err)
		}
	})
}

// TestChecker: digests come at any time; the first step that differs is named.
func TestChecker(t *testing.T) {
	c := &checker{ranks: 3}
	for step := uint64(1); step <= 4; step++ {
		if err := c.own(step, step); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.theirs(1, digests(1, []uint64{1, 2, 3})); err != nil {
		t.Fatal(err)
	}
	if err := c.theirs(2, digests(1, []uint64{1, 2})); err != nil || c.first != 3 {
		t.Fatal(err, c.first)
	}
	err := c.theirs(2, digests(3, []uint64{9, 4}))
	var d *collective.DisagreeError
	if !errors.As(err, &d) || d.What != "the tokens of step 3" || !slices.Equal(d.Digests, []uint64{3, 3, 9}) {
		t.Errorf("%v", err)
	}
	for _, b := range [][]byte{nil, make([]byte, 8), make([]byte, 17), digests(9, []uint64{1})} {
		if err := (&checker{ranks: 2}).theirs(1, b); !errors.Is(err, errFrame) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

// decodeStep is a step of so many sequences, each with a context of 1,000 tokens.
func decodeStep(rows int) (*decoder.Step, []tensor.SampleRow) {
	s := &decoder.Step{}
	asks := make([]tensor.SampleRow, rows)
	for i := range rows {
		pages := make([]int32, 63)
		for j := range pages {
			pages[j] = int32(i*63 + j)
		}
		s.Batch.IDs, s.Batch.Pos = append(s.Batch.IDs, int32(i)), append(s.Batch.Pos, 999)
		s.Batch.Seqs = append(s.Batch.Seqs, tensor.Seq{QStart: i, QLen: 1, CtxLen: 1000, Pages: pages})
		s.LogitRows = append(s.LogitRows, int32(i))
		asks[i] = tensor.SampleRow{Temperature: 0.8, TopP: 0.9, TopK: 50, U: 0.5, Repetition: 1, Ban: []int32{2}}
	}
	return s, asks
}

// BenchmarkRecord is a plan's cost beside its way: written and read.
func BenchmarkRecord(b *testing.B) {
	_, number, adapter := some()
	for _, rows := range []int{1, 64, 256} {
		s, asks := decodeStep(rows)
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			var w words
			f := &frame{}
			for b.Loop() {
				w.encode(s, asks, 1, 0, number)
				if err := f.decode(w.bytes(), adapter); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(w.bytes())), "bytes")
		})
	}
}
