package nn

import "chorale/worker/tensor"

// Adapter is a LoRA adapter on the device. Modules are numbered by the model;
// a module that the adapter does not touch has a zero Delta.
type Adapter struct {
	Deltas []Delta // by module number
}

// Delta is what an adapter adds to one module.
type Delta struct {
	Pair tensor.LoRAPair // nil: none
	Bias tensor.Vector   // difference to the base's bias; nil: none
	// Offset is the module's output at which pair and bias begin, where a rank has
	// only some of them.
	Offset int
}

// Segment is a run of rows [Start, End) that one adapter answers. Rows of the
// base model are in no segment.
type Segment struct {
	Start, End int
	Adapter    *Adapter
}

// Part is one adaptable module inside a fused projection.
type Part struct {
	Module int // the model's number for it
	Offset int // first output column
}

// terms collects what the segments' adapters add to the parts, reusing buf.
func terms(buf []tensor.LoRATerm, segs []Segment, parts []Part) []tensor.LoRATerm {
	buf = buf[:0]
	for _, sg := range segs {
		for _, p := range parts {
			d := sg.Adapter.Deltas[p.Module]
			if d.Pair == nil && d.Bias == nil {
				continue
			}
			buf = append(buf, tensor.LoRATerm{Start: sg.Start, End: sg.End, Offset: p.Offset + d.Offset, Pair: d.Pair, Bias: d.Bias})
		}
	}
	return buf
}

// Linear is y [T, out] = x [T, in] · w [out, in]ᵀ + bias, plus each row's own
// adapter. w may be several modules fused along out. An adapter's part is added
// before the sum over ranks, so that LoRA needs none of its own.
type Linear struct {
	W     tensor.Matrix
	Bias  tensor.Vector // nil: none
	Parts []Part
	// Sum says that the whole is the sum over ranks; dst is then Wide.
	Sum bool

	scratch []tensor.LoRATerm
}

// Forward computes dst from x. A Linear serves one stream at a time.
func (l *Linear) Forward(s tensor.Stream, dst, x tensor.Buffer, segs []Segment) {
	l.scratch = terms(l.scratch, segs, l.Parts)
	s.Linear(dst, x, l.W, l.Bias, l.scratch)
	if l.Sum {
		s.AllReduce(dst)
	}
}

// Embedding is dst [T, H] = table[ids], plus each row's own adapter. With several
// ranks, each has a part of the table; dst is Wide.
type Embedding struct {
	Table  tensor.Matrix
	Module int

	scratch []tensor.LoRATerm
}

// Forward looks up the ids of the stream's batch.
func (e *Embedding) Forward(s tensor.Stream, dst tensor.Buffer, segs []Segment) {
	e.scratch = terms(e.scratch, segs, []Part{{Module: e.Module}})
	s.Embed(dst, e.Table, e.scratch)
	s.AllReduce(dst)
}
