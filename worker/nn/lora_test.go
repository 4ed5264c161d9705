package nn

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"chorale/worker/tensor"
)

// recorder notes the terms that reach the stream.
type recorder struct {
	tensor.Stream
	terms []tensor.LoRATerm
	sums  int
}

func (r *recorder) AllReduce(tensor.Buffer) { r.sums++ }

func (r *recorder) Linear(_, _ tensor.Buffer, _ tensor.Matrix, _ tensor.Vector, terms []tensor.LoRATerm) {
	r.terms = append([]tensor.LoRATerm(nil), terms...)
}

func (r *recorder) Embed(_ tensor.Buffer, _ tensor.Matrix, terms []tensor.LoRATerm) {
	r.terms = append([]tensor.LoRATerm(nil), terms...)
}

type pair struct {
	tensor.LoRAPair
	Name string
}

type bias struct {
	tensor.Vector
	Name string
}

// TestTerms: each row's own adapter, each fused part's own columns, and nothing
// for what an adapter does not touch.
func TestTerms(t *testing.T) {
	q, v, b := pair{Name: "q"}, pair{Name: "v"}, bias{Name: "b"}
	first := &Adapter{Deltas: []Delta{{Pair: q}, {}, {Pair: v, Bias: b}, {}}}
	second := &Adapter{Deltas: []Delta{{}, {Bias: b}, {}, {Pair: q}}}
	l := Linear{Parts: []Part{{Module: 0}, {Module: 1, Offset: 8}, {Module: 2, Offset: 12}}}
	for _, tt := range []struct {
		name string
		segs []Segment
		want []tensor.LoRATerm
	}{
		{"base only", nil, nil},
		{"one", []Segment{{2, 5, first}}, []tensor.LoRATerm{{Start: 2, End: 5, Pair: q}, {Start: 2, End: 5, Offset: 12, Pair: v, Bias: b}}},
		{"two", []Segment{{0, 1, second}, {1, 3, first}}, []tensor.LoRATerm{
			{Start: 0, End: 1, Offset: 8, Bias: b}, {Start: 1, End: 3, Pair: q}, {Start: 1, End: 3, Offset: 12, Pair: v, Bias: b},
		}},
		{"fewer than before", []Segment{{4, 6, second}}, []tensor.LoRATerm{{Start: 4, End: 6, Offset: 8, Bias: b}}},
	} {
		var r recorder
		l.Forward(&r, nil, nil, tt.segs)
		if d := cmp.Diff(tt.want, r.terms, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, d)
		}
		if r.sums != 0 {
			t.Errorf("%s: %d sums over ranks", tt.name, r.sums)
		}
		summed := Linear{Parts: l.Parts, Sum: true}
		if summed.Forward(&r, nil, nil, tt.segs); r.sums != 1 {
			t.Errorf("%s: %d sums over ranks of a layer that is cut along its inputs", tt.name, r.sums)
		}
	}
	var r recorder
	e := Embedding{Module: 3}
	e.Forward(&r, nil, []Segment{{0, 2, first}, {2, 4, second}})
	if len(r.terms) != 1 || r.sums != 1 || r.terms[0].Start != 2 || r.terms[0].Pair != tensor.LoRAPair(q) {
		t.Errorf("embedding: %+v", r.terms)
	}
}
