package conformance

import (
	"errors"
	"io"
	"math"
	"slices"
	"sync"

	"chorale/internal/bf16"
	"chorale/worker/tensor"
)

// rows16 delivers the matrix as a file of bfloat16 would.
func (m dense) rows16(dst []uint16, row, n int) error {
	for i, v := range m.v[row*m.cols : (row+n)*m.cols] {
		dst[i] = bf16.Of(float32(v))
	}
	return nil
}

// testImages: pairs and vectors of an image compute the same bits as those that
// were made one by one, and go on doing so while other images come and go.
func testImages(c *check) {
	const hidden, vocab, out, rows = 72, 50, 40, 5
	d := c.device(2, 8)
	p := d.Precision()
	spec := func(r, in, out int, embedding, half bool) (tensor.LoRASpec, tensor.LoRAPair) {
		a, b := c.random(p, r, in, 1/math.Sqrt(float64(in))), c.random(p, out, r, 1)
		s := tensor.LoRASpec{Rank: r, In: in, Out: out, Scale: 1.5, Embedding: embedding, A: a.Rows, B: b.Rows}
		if half && p == tensor.BF16 {
			s.A16, s.B16 = a.rows16, b.rows16
		}
		build := d.NewLoRA
		if embedding {
			build = d.NewEmbeddingLoRA
		}
		pair := must(build(r, in, out, 1.5, a.Rows, b.Rows))(c)
		c.Cleanup(pair.Free)
		return s, pair
	}
	var specs []tensor.LoRASpec
	var alone []tensor.LoRAPair
	for _, s := range []struct {
		r, in, out      int
		embedding, half bool
	}{
		{4, hidden, out, false, false},
		{17, hidden, out, false, true},
		{1, hidden, out - 1, false, true},
		{5, vocab, hidden, true, false},
		{8, vocab, hidden, true, true},
	} {
		one, pair := spec(s.r, s.in, s.out, s.embedding, s.half)
		specs, alone = append(specs, one), append(alone, pair)
	}
	bias := c.random(tensor.F32, 1, out, 1)
	biasAlone := d.vector(bias)
	w, table, x := d.matrix(c.random(p, out, hidden, 1)), d.matrix(c.random(p, vocab, hidden, 1)), c.random(p, rows, hidden, 1)
	run := func(pairs []tensor.LoRAPair, bias tensor.Vector) []float32 {
		var all []float32
		for i, pair := range pairs {
			t := []tensor.LoRATerm{{Start: 1, End: rows, Pair: pair}}
			if pair.Out() == out {
				t[0].Bias = bias
			}
			d.begin(rows)
			var dst tensor.Buffer
			if specs[i].Embedding {
				dst = d.bufferOf(tensor.Wide, rows, hidden)
				d.Embed(dst, table, t)
			} else {
				in := d.upload(x)
				dst = d.bufferOf(tensor.Wide, rows, out)
				d.Linear(dst, in, w, nil, t)
			}
			all = append(all, slices.Clone(d.Host(dst))...)
			d.finish()
		}
		return all
	}
	want := run(alone, biasAlone)
	im := must(d.NewImage(specs, [][]float32{bias.floats()}))(c)
	defer im.Free()
	if im.Bytes() <= 0 || im.DeviceBytes() <= 0 {
		c.Errorf("image of %d bytes, %d on the device", im.Bytes(), im.DeviceBytes())
	}
	first := must(im.Load())(c)
	c.same("image", run(first.Pairs, first.Vectors[0]), want)

	stop, traffic := make(chan struct{}), sync.WaitGroup{}
	for range 3 {
		other := must(d.NewImage(specs[:2], nil))(c)
		traffic.Go(func() {
			defer other.Free()
			for {
				l, err := other.Load()
				if err != nil {
					c.Error(err)
					return
				}
				l.Free()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 20 {
		again := must(im.Load())(c)
		c.same("image while others come and go", run(again.Pairs, again.Vectors[0]), want)
		again.Free()
	}
	close(stop)
	traffic.Wait()
	c.same("image that was there all the time", run(first.Pairs, first.Vectors[0]), want)
	first.Free()
	testImageErrors(c, d, specs[0])
}

func testImageErrors(c *check, d device, good tensor.LoRASpec) {
	c.Helper()
	wantError := func(name string, target error, specs []tensor.LoRASpec, vectors [][]float32) {
		c.Helper()
		if _, err := d.NewImage(specs, vectors); !errors.Is(err, target) {
			c.Errorf("%s: got %v, want %v", name, err, target)
		}
	}
	bad := good
	bad.A = func([]float32, int, int) error { return io.ErrUnexpectedEOF }
	wantError("image whose A fails", io.ErrUnexpectedEOF, []tensor.LoRASpec{good, bad}, nil)
	none := good
	none.Rank = 0
	wantError("image of rank 0", tensor.ErrShape, []tensor.LoRASpec{none}, nil)
	wantError("image with an empty vector", tensor.ErrShape, []tensor.LoRASpec{good}, [][]float32{{}})
}

// testMatrix16: a weight of bfloat16 values is the same weight.
func testMatrix16(c *check) {
	d := c.device(2, 8)
	for _, shape := range [][2]int{{1, 1}, {33, 7}, {130, 64}, {1500, 72}} {
		m := c.random(tensor.BF16, shape[0], shape[1], 1)
		x := c.random(d.Precision(), 3, shape[1], 1)
		w := must(d.NewMatrix16(m.rows, m.cols, m.Rows, m.rows16))(c)
		c.Cleanup(w.Free)
		var got [2][]float32
		for i, w := range []tensor.Matrix{d.matrix(m), w} {
			d.begin(3)
			in, dst := d.upload(x), d.bufferOf(tensor.Wide, 3, m.rows)
			d.Linear(dst, in, w, nil, nil)
			got[i] = slices.Clone(d.Host(dst))
			d.finish()
		}
		c.same("product", got[1], got[0])
	}
	fails := func([]float32, int, int) error { return io.ErrUnexpectedEOF }
	fails16 := func([]uint16, int, int) error { return io.ErrUnexpectedEOF }
	if _, err := d.NewMatrix16(4, 4, fails, fails16); !errors.Is(err, io.ErrUnexpectedEOF) {
		c.Errorf("a file that fails: %v", err)
	}
	if _, err := d.NewMatrix16(0, 4, nil, nil); !errors.Is(err, tensor.ErrShape) {
		c.Errorf("no rows: %v", err)
	}
}
