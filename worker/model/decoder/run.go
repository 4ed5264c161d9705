package decoder

import (
	"fmt"
	"math"

	"chorale/worker/nn"
	"chorale/worker/tensor"
)

// Step is one forward pass.
type Step struct {
	Batch tensor.Batch
	// Segments are the rows of each adapter, ascending and disjoint.
	Segments []nn.Segment
	// LogitRows are the rows whose logits are wanted, ascending.
	LogitRows []int32
	// LogitSegments are the segments in terms of LogitRows' positions.
	LogitSegments []nn.Segment
}

// Runner computes steps of one model on one stream. It is not safe for
// concurrent use.
type Runner struct {
	m      *Model
	kv     tensor.KV
	stream tensor.Stream
	scale  float32

	x, h, qkv, att, delta, gu, act tensor.Buffer // [T, …]
	lastX, lastAtt                 tensor.Buffer // the last layer's wanted rows of x and att
	block, logits                  tensor.Buffer // [LogitBlock, H], [LogitBlock, V]
	whole                          tensor.Buffer // all ranks' logits, for Logits

	rows []int32 // of the block
}

// LogitBlock is how many rows of logits are computed at a time: a full decode
// batch, so that the head's weight is read once a step; 128 MiB of logits with a
// vocabulary of 128 Ki tokens.
const LogitBlock = 256

// NewRunner makes a runner for steps of at most maxTokens rows over kv.
func (m *Model) NewRunner(kv tensor.KV, maxTokens int) (*Runner, error) {
	s, sh := &m.Spec, m.share
	st, err := m.backend.NewStream(max(maxTokens, LogitBlock), []tensor.RopeSpec{s.Rope})
	if err != nil {
		return nil, fmt.Errorf("stream of %d tokens: %w", maxTokens, err)
	}
	st.SplitVocab(s.Vocab)
	r := &Runner{m: m, kv: kv, stream: st, scale: float32(1 / math.Sqrt(float64(s.HeadDim)))}
	for _, b := range []struct {
		dst  *tensor.Buffer
		kind tensor.BufferKind
		rows int
		cols int
	}{
		{&r.x, tensor.Wide, maxTokens, s.Hidden},
		{&r.h, tensor.Act, maxTokens, s.Hidden},
		{&r.qkv, tensor.Act, maxTokens, sh.qWidth() + 2*sh.kvWidth()},
		{&r.att, tensor.Act, maxTokens, sh.qWidth()},
		{&r.delta, tensor.Wide, maxTokens, s.Hidden},
		{&r.gu, tensor.Act, maxTokens, 2 * sh.FFN},
		{&r.act, tensor.Act, maxTokens, sh.FFN},
		{&r.lastX, tensor.Wide, maxTokens, s.Hidden},
		{&r.lastAtt, tensor.Act, maxTokens, sh.qWidth()},
		{&r.block, tensor.Act, LogitBlock, s.Hidden},
		{&r.logits, tensor.Wide, LogitBlock, sh.Vocab},
	} {
		if *b.dst, err = m.backend.NewBuffer(b.kind, b.rows, b.cols); err != nil {
			r.Free()
			return nil, fmt.Errorf("buffer [%d, %d]: %w", b.rows, b.cols, err)
		}
	}
	return r, nil
}

// Free gives the buffers back.
func (r *Runner) Free() {
	for _, b := range []tensor.Buffer{r.x, r.h, r.qkv, r.att, r.delta, r.gu, r.act, r.lastX, r.lastAtt, r.block, r.logits, r.whole} {
		if b != nil {
			b.Free()
		}
	}
}

// Forward starts a step and computes it up to the final norm; Sample or Logits
// go on from there, and Finish ends the step. Rows without wanted logits are
// left out of everything after the last layer's attention, where nobody looks at
// them any more.
func (r *Runner) Forward(step *Step) {
	s, m, segs := r.stream, r.m, step.Segments
	s.Begin(&step.Batch)
	m.embed.Forward(s, r.x, segs)
	s.RMSNorm(r.h, r.x, m.layers[0].inNorm, m.Spec.Eps)
	last := len(m.layers) - 1
	for l := range m.layers {
		r.attention(l, segs)
		if l == last {
			break
		}
		r.mlp(l, r.x, r.att, segs)
		s.AddRMSNorm(r.h, r.x, r.delta, m.layers[l+1].inNorm, m.Spec.Eps)
	}
	if len(step.LogitRows) > 0 {
		r.finish(step)
	}
}

// Finish waits for the step and tells its first error.
func (r *Runner) Finish() error { return r.stream.Finish() }

// Depth, Launch and Wait are tensor.Stream's: a step may be launched while the
// one before it is computed, and waited for later.
func (r *Runner) Depth() int { return r.stream.Depth() }

// Launch starts the step.
func (r *Runner) Launch() { r.stream.Launch() }

// Wait waits for the oldest launched step and tells its first error.
func (r *Runner) Wait() error { return r.stream.Wait() }

// attention writes the layer's attention output, before o_proj, to att.
func (r *Runner) attention(l int, segs []nn.Segment) {
	s, y, spec := r.stream, &r.m.layers[l], &r.m.Spec
	y.qkv.Forward(s, r.qkv, r.h, segs)
	s.RopeKV(r.qkv, r.kv, tensor.RopeKV{Layer: l, Heads: r.m.share.Heads, QNorm: y.qNorm, KNorm: y.kNorm, Eps: spec.Eps})
	s.Attention(r.att, r.qkv, r.kv, tensor.AttentionSpec{Layer: l, Heads: r.m.share.Heads, Scale: r.scale, Window: spec.Windows[l]})
}

// mlp goes from an attention output and the residual x to the MLP's output in
// delta; h is scratch.
func (r *Runner) mlp(l int, x, att tensor.Buffer, segs []nn.Segment) {
	s, y := r.stream, &r.m.layers[l]
	y.o.Forward(s, r.delta, att, segs)
	s.AddRMSNorm(r.h, x, r.delta, y.postNorm, r.m.Spec.Eps)
	y.gu.Forward(s, r.gu, r.h, segs)
	s.SiluMul(r.act, r.gu)
	y.down.Forward(s, r.delta, r.act, segs)
}

// finish takes the wanted rows through the rest of the last layer and the
// final norm, into h.
func (r *Runner) finish(step *Step) {
	s, m := r.stream, r.m
	s.GatherRows(r.lastX, r.x, step.LogitRows)
	s.GatherRows(r.lastAtt, r.att, step.LogitRows)
	r.mlp(len(m.layers)-1, r.lastX, r.lastAtt, step.LogitSegments)
	s.AddRMSNorm(r.h, r.lastX, r.delta, m.norm, m.Spec.Eps)
}

// Sample serves LogitRows, one request each, after Forward; out is filled by
// Finish. The logits never leave the device.
func (r *Runner) Sample(step *Step, out []tensor.Sampled, rows []tensor.SampleRow) {
	for from := 0; from < len(rows); from += LogitBlock {
		to := min(from+LogitBlock, len(rows))
		r.head(step, from, to)
		r.stream.Sample(out[from:to], r.logits, rows[from:to])
	}
}

// Logits computes the logits of LogitRows[from:to], at most LogitBlock of
// them, after Forward, for those who want to see them; all ranks do, or none. The
// rows [to-from, Vocab] are valid, and the caller's to change, until the next
// call. An error ends the step: call Finish.
func (r *Runner) Logits(step *Step, from, to int, stats []tensor.LogitStat) ([]float32, error) {
	r.head(step, from, to)
	r.stream.LogitStats(stats, r.logits)
	if r.m.share.Size == 1 {
		host := r.stream.Host(r.logits)
		return host, r.stream.Err()
	}
	width := r.m.share.Size * r.m.share.Vocab
	if r.whole == nil {
		var err error
		if r.whole, err = r.m.backend.NewBuffer(tensor.Wide, LogitBlock, width); err != nil {
			return nil, fmt.Errorf("buffer [%d, %d]: %w", LogitBlock, width, err)
		}
	}
	r.stream.AllGather(r.whole, r.logits)
	host := r.stream.Host(r.whole)
	if err := r.stream.Err(); err != nil {
		return nil, err
	}
	return narrow(host, to-from, width, r.m.Spec.Vocab), nil
}

// narrow drops the padding behind each row, in place.
func narrow(v []float32, rows, from, to int) []float32 {
	for i := 1; i < rows; i++ {
		copy(v[i*to:(i+1)*to], v[i*from:])
	}
	return v[:rows*to]
}

func (r *Runner) head(step *Step, from, to int) {
	r.rows = r.rows[:0]
	for i := from; i < to; i++ {
		r.rows = append(r.rows, int32(i))
	}
	r.stream.GatherRows(r.block, r.h, r.rows)
	r.m.head.Forward(r.stream, r.logits, r.block, clip(step.LogitSegments, from, to))
}

// clip cuts segments to rows [from, to) and counts them from there.
func clip(segs []nn.Segment, from, to int) []nn.Segment {
	var out []nn.Segment
	for _, sg := range segs {
		lo, hi := max(sg.Start, from), min(sg.End, to)
		if lo < hi {
			out = append(out, nn.Segment{Start: lo - from, End: hi - from, Adapter: sg.Adapter})
		}
	}
	return out
}
