package conformance

import (
	"math"
	"math/rand/v2"
	"testing"

	"chorale/worker/tensor"
)

// Open makes a backend; threads says how many threads its operations may use,
// for backends that have such a thing.
type Open func(t testing.TB, threads int) tensor.Backend

// Tolerance bounds errors against float64.
type Tolerance struct {
	// Product bounds |got-want| of Linear relative to Σ|x·w| of that output,
	// when x is exact in the storage precision.
	Product float64
	// Input is the same bound when x is any float32: half a unit in the last
	// place of the inputs' precision inside a product, plus Product.
	Input float64
	// LoRA bounds the error that the terms add, relative to Σ|s·B| with s the
	// float64 intermediate.
	LoRA float64
	// Rows bounds norms, rotary embeddings, silu, attention and log-sum-exp,
	// relative to the size of the values that are summed.
	Rows float64
	// Act is the rounding of one result that goes into a buffer of kind Act,
	// relative to it; 0 where these are float32.
	Act float64
	// Softmax is the rounding of attention's weights, relative to the size of
	// the values that they multiply; 0 where they are float32.
	Softmax float64
	// Company bounds how far a row's logits in a batch may be from those that
	// it has alone; 0 asks for equal bits.
	Company float64
}

// Run runs the suite. Every subtest opens its own backends and closes them.
func Run(t *testing.T, open Open, tol Tolerance) {
	run := func(name string, test func(c *check)) {
		t.Run(name, func(t *testing.T) {
			test(&check{T: t, open: open, tol: tol, rng: rand.New(rand.NewPCG(7, uint64(len(name))))})
		})
	}
	run("Embed", testEmbed)
	run("RMSNorm", testRMSNorm)
	run("Linear", testLinear)
	run("LinearUnroundedInput", testLinearInput)
	run("LinearManyShapes", testLinearShapes)
	run("RopeKV", testRopeKV)
	run("Attention", testAttention)
	run("Memory", testMemory)
	run("SiluMul", testSiluMul)
	run("GatherRows", testGatherRows)
	run("LogitStats", testLogitStats)
	run("Sample", testSample)
	run("Draws", testDraws)
	run("Ahead", testAhead)
	run("HostModified", testHost)
	run("NonFinite", testNonFinite)
	run("Errors", testErrors)
	run("ReadErrors", testReadErrors)
	run("Images", testImages)
	run("Matrix16", testMatrix16)
	run("Invariance", testInvariance)
	run("Threads", testThreads)
	run("Streams", testStreams)
}

// check is one subtest's state.
type check struct {
	*testing.T
	open Open
	tol  Tolerance
	rng  *rand.Rand
}

// backend opens a backend that is closed when the test ends.
func (c *check) backend(threads int) tensor.Backend {
	c.Helper()
	b := c.open(c, threads)
	c.Cleanup(func() {
		if err := b.Close(); err != nil {
			c.Errorf("Close: %v", err)
		}
	})
	return b
}

// device is a backend with one stream and helpers that fail the test.
type device struct {
	*check
	tensor.Backend
	tensor.Stream
}

func (c *check) device(threads, maxTokens int, ropes ...tensor.RopeSpec) device {
	c.Helper()
	b := c.backend(threads)
	return device{c, b, must(b.NewStream(maxTokens, ropes))(c)}
}

// must returns v or ends the test.
func must[V any](v V, err error) func(c *check) V {
	return func(c *check) V {
		c.Helper()
		if err != nil {
			c.Fatal(err)
		}
		return v
	}
}

// dense is a float64 matrix [rows, cols] whose values are exact on the device.
type dense struct {
	rows, cols int
	v          []float64
}

func (m dense) at(r, c int) float64     { return m.v[r*m.cols+c] }
func (m dense) row(r int) []float64     { return m.v[r*m.cols : (r+1)*m.cols] }
func newDense(rows, cols int) dense     { return dense{rows, cols, make([]float64, rows*cols)} }
func (m dense) set(r, c int, v float64) { m.v[r*m.cols+c] = v }

// Rows delivers the matrix as a weight file would.
func (m dense) Rows(dst []float32, row, n int) error {
	for i, v := range m.v[row*m.cols : (row+n)*m.cols] {
		dst[i] = float32(v)
	}
	return nil
}

// round rounds v to the storage precision p.
func round(p tensor.Precision, v float64) float64 {
	f := float32(v)
	if p == tensor.F32 {
		return float64(f)
	}
	u := math.Float32bits(f)
	return float64(math.Float32frombits((u + 0x7fff + u>>16&1) &^ 0xffff))
}

// random makes normal values of standard deviation size, exact in p.
func (c *check) random(p tensor.Precision, rows, cols int, size float64) dense {
	m := newDense(rows, cols)
	for i := range m.v {
		m.v[i] = round(p, c.rng.NormFloat64()*size)
	}
	return m
}

// floats returns m as float32.
func (m dense) floats() []float32 {
	out := make([]float32, len(m.v))
	for i, v := range m.v {
		out[i] = float32(v)
	}
	return out
}

// begin starts a step of rows rows without sequences.
func (d device) begin(rows int) {
	b := &tensor.Batch{IDs: make([]int32, rows), Pos: make([]int32, rows)}
	for i := range rows {
		b.IDs[i] = int32(i)
	}
	d.Begin(b)
}

// kinds are both kinds of buffer.
var kinds = []tensor.BufferKind{tensor.Act, tensor.Wide}

// upload makes a buffer that holds m, through the embedding look-up. The step
// must have m.rows rows with the ids 0, 1, 2, ...
func (d device) upload(m dense) tensor.Buffer {
	d.Helper()
	return d.uploadAs(tensor.Act, m)
}

func (d device) uploadAs(kind tensor.BufferKind, m dense) tensor.Buffer {
	d.Helper()
	buf := must(d.NewBuffer(kind, m.rows, m.cols))(d.check)
	table := must(d.NewMatrix(m.rows, m.cols, m.Rows))(d.check)
	d.Embed(buf, table, nil)
	d.Cleanup(buf.Free)
	d.Cleanup(table.Free)
	return buf
}

func (d device) buffer(rows, cols int) tensor.Buffer {
	d.Helper()
	return d.bufferOf(tensor.Act, rows, cols)
}

func (d device) bufferOf(kind tensor.BufferKind, rows, cols int) tensor.Buffer {
	d.Helper()
	buf := must(d.NewBuffer(kind, rows, cols))(d.check)
	d.Cleanup(buf.Free)
	return buf
}

func (d device) matrix(m dense) tensor.Matrix {
	d.Helper()
	w := must(d.NewMatrix(m.rows, m.cols, m.Rows))(d.check)
	d.Cleanup(w.Free)
	return w
}

func (d device) vector(m dense) tensor.Vector {
	d.Helper()
	v := must(d.NewVector(m.floats()))(d.check)
	d.Cleanup(v.Free)
	return v
}

// finish ends the step and fails the test on an error.
func (d device) finish() {
	d.Helper()
	if err := d.Finish(); err != nil {
		d.Fatal(err)
	}
}

// compare checks got [rows, cols], from a buffer of a kind, against want within
// bound (same shape).
func (c *check) compare(what string, kind tensor.BufferKind, got []float32, want, bound dense) {
	c.Helper()
	if kind == tensor.Act {
		for i, w := range want.v {
			bound.v[i] += math.Abs(w) * c.tol.Act
		}
	}
	if len(got) != len(want.v) {
		c.Fatalf("%s: %d values, want %d", what, len(got), len(want.v))
	}
	bad := 0
	for i, w := range want.v {
		if diff := math.Abs(float64(got[i]) - w); !(diff <= bound.v[i]) {
			if bad++; bad <= 5 {
				c.Errorf("%s [%d, %d]: got %v, want %v, off by %.3g, bound %.3g", what, i/want.cols, i%want.cols, got[i], w, diff, bound.v[i])
			}
		}
	}
	if bad > 5 {
		c.Errorf("%s: %d of %d values out of bounds", what, bad, len(got))
	}
}

// same checks that two results have equal bits.
func (c *check) same(what string, got, want []float32) {
	c.Helper()
	if len(got) != len(want) {
		c.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			c.Fatalf("%s: value %d is %v, want the same bits as %v", what, i, got[i], want[i])
		}
	}
}
